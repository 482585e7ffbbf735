"""Prompts and greedy texts of real models are those of transformers."""

from __future__ import annotations

import pytest

from plait import APR, Hogwild, Multiverse, Runtime, SelfConsistency, Sequential, TreeSearch
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.tests.real import NAMES, folder

TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Q: What is 17 * 23?\nA:",
    "Once upon a time",
    "The three laws of thermodynamics are:\n1.",
    "import numpy as np\n\ndef softmax(x):",
    "Translate to German: good morning ->",
    "SELECT name, age FROM users WHERE",
    "Water boils at",
    "    return a + b\n\n\nclass Stack:\n",
    "The opposite of hot is",
    "# Sort a list in Python\nnumbers = [3, 1, 2]\n",
    "A triangle with sides 3, 4 and 5 has area",
    "Ein schöner Tag beginnt mit",
    "你好，",
    "x = [i**2 for i in range(10)]\nprint(x)\n#",
    "To be, or not to be,",
    "HTTP status 404 means",
    "The first ten primes are 2, 3, 5,",
    '{"name": "Alice", "age":',
]
QUESTIONS = [
    "What is the capital of France?",
    "Write a Python function that reverses a string.",
    "What is 17 * 23?",
    "Name three primary colours.",
    "Explain recursion in one sentence.",
    "How many days has a leap year?",
    "Write a haiku about the sea.",
    "What does `git rebase` do?",
    "Give the plural of `mouse`.",
    "Is 97 prime?",
    "What is the boiling point of water?",
    "Write a SQL query that counts users.",
    "Who wrote Hamlet?",
    "Sort 3, 1, 2.",
    "What is a hash table?",
    "Translate `good night` to French.",
    "What is 2 to the power of 10?",
    "Fix: `for i in range(10) print(i)`",
    "What is the largest planet?",
    "Complete: one, two, three,",
]


def methods(prompt, **fields):
    return [
        Sequential(prompt=prompt, **fields),
        SelfConsistency(prompt=prompt, **fields),
        APR(prompt=prompt, **fields),
        Multiverse(prompt=prompt, **fields),
        TreeSearch(prompt=prompt, reward="function:f", **fields),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_prompt_ids_of_every_method(name):
    from transformers import AutoTokenizer

    where = folder(name)
    mine, theirs = HFTokenizer.load(where), AutoTokenizer.from_pretrained(where)
    for text in TEXTS:
        expected = theirs(text).input_ids
        assert [method.tokens(mine) for method in methods(text)] == [expected] * 5
        plain = Hogwild(prompt=text, rules=False, headers=False)
        assert plain.prompt_tokens(mine) == expected
    for text in QUESTIONS:
        messages = [{"role": "user", "content": text}]
        told = [{"role": "system", "content": "Be brief."}, *messages]
        for chat, given, fields in ((messages, text, {"chat": True}), (told, text, {"system": "Be brief."})):
            expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            for method in (*methods(given, **fields), *methods(chat)):
                assert method.tokens(mine) == expected
            rendered = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            assert Sequential(prompt=rendered).tokens(mine) == expected
            worker = Hogwild(prompt=chat, rules=False, headers=False)
            assert worker.prompt_tokens(mine) == expected


@pytest.mark.timeout(600)
async def test_greedy_texts_of_plain_and_chat_prompts():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = folder("q05")
    tokenizer = AutoTokenizer.from_pretrained(where)
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)

    def theirs(ids):
        inputs = torch.tensor([ids])
        with torch.no_grad():
            out = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=24,
                do_sample=False,
                repetition_penalty=1.0,
            )
        return tokenizer.decode(out[0][len(ids) :], skip_special_tokens=True)

    async with Runtime(str(where), dtype=torch.float32, kv_tokens=16384) as runtime:
        for texts, chat in ((TEXTS, False), (QUESTIONS, True)):
            for text in texts:
                method = Sequential(prompt=text, chat=chat, max_tokens=24, temperature=0, repetition_penalty=1)
                result = await (await runtime.submit(method))
                assert result.text == theirs(method.tokens(runtime.engine.tokenizer)), text
        usage = runtime.engine.block_usage()
        assert usage.free + usage.cached == usage.total
