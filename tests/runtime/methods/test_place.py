"""Contexts in a chat stand where they would in a chat that is written out by hand."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

import plait
from plait import Capabilities, ScriptedEngine
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.methods.contexts import Layout
from plait.tests.real import NAMES, folder
from plait.tests.runtime.engines.native.tokenizer_kinds import BOS, EOS, KINDS, raw

PARALLEL = Capabilities(parallel_contexts=True)
_EACH = "{% for m in messages %}"
_TURN = f"{_EACH}{{% if m.role == 'user' %}}"
TEMPLATES = {
    "ChatML": (
        f"{_EACH}{{{{ '<h>' + m.role + '\n' + m.content + '</h>\n' }}}}{{% endfor %}}{{{{ '<h>assistant\n' }}}}",
        "<h>user\n{}</h>\n<h>assistant\n",
    ),
    "Llama-2": (
        f"{{{{ bos_token }}}}{_TURN}{{{{ '[INST] ' + m.content + ' [/INST]' }}}}{{% endif %}}{{% endfor %}}",
        "<s>[INST] {} [/INST]",
    ),
    "Llama-3": (
        f"{{{{ bos_token }}}}{_EACH}{{{{ '<h>' + m.role + '</h>\n\n' + m.content | trim + '</s>' }}}}{{% endfor %}}"
        "{{ '<h>assistant</h>\n\n' }}",
        "<s><h>user</h>\n\n{}</s><h>assistant</h>\n\n",
    ),
    "Mistral": (
        f"{{{{ bos_token }}}}{_TURN}{{{{ '<h> ' + m.content + '</h>' }}}}{{% endif %}}{{% endfor %}}",
        "<s><h> {}</h>",
    ),
    "words": (f"{_EACH}{{{{ m.role + ': ' + m.content + '\n' }}}}{{% endfor %}}assistant:", "user: {}\nassistant:"),
}
WHOLE = ("byte-level", "unigram")
"""Kinds that split a text by all of it: GPT-2's pattern takes a blank line otherwise before a word than at the end of a
context, and a unigram model looks for the likeliest pieces of the whole."""
# What the trained tokenizers know all letters of; texts as users write them, with what a template may trim.
WORDS = st.sampled_from(["The quick brown fox", "don't worry.", "12 + 345", "def solve(nums):", "Answer: 7", "box,"])
TEXT = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)


@cache
def chatty(kind: str, template: str) -> HFTokenizer:
    tokenizer = Tokenizer.from_str(raw(kind).to_str())
    tokenizer.add_special_tokens([AddedToken(tag, special=True) for tag in ("<h>", "</h>")])
    special = {"bos_token": BOS, "eos_token": EOS}
    return HFTokenizer(tokenizer, chat_template=TEMPLATES[template][0], special=special)


def lay_out(method: plait.Sequential, tokenizer: HFTokenizer) -> Layout:
    engine = ScriptedEngine([], tokenizer=tokenizer, capabilities=PARALLEL)
    return method.lay_out(method.prompt, method.tokens(tokenizer), engine, method.messages)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(contexts=st.lists(TEXT, min_size=1, max_size=3, unique=True), question=TEXT, instruction=st.just("") | TEXT)
def test_one_behind_another_they_are_the_chat_written_out(kind, template, contexts, question, instruction):
    tokenizer, instruction = chatty(kind, template), instruction and f"{instruction}\n\n"
    method = plait.Sequential(
        prompt=question, chat=True, contexts=contexts, instruction=instruction, encoding="sequential"
    )
    whole = instruction + "".join(f"{text}\n\n" for text in contexts) + question
    written = TEMPLATES[template][1].replace("{}", whole)
    expected = Tokenizer.from_str(tokenizer._tokenizer.to_str()).encode(written, add_special_tokens=False).ids
    tokens = lay_out(method, tokenizer).tokens
    assert tokenizer.decode(tokens) == tokenizer.decode(expected)
    assert tokens == expected or kind in WHOLE
    assert tokenizer.chat([{"role": "user", "content": whole}]) == expected


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WHOLE])
def test_in_parallel_each_is_read_as_if_it_were_the_only_one(kind, template):
    tokenizer = chatty(kind, template)
    for instruction in ("", "Pack my box.\n\n"):
        fields = {"prompt": "Answer: 7", "chat": True, "instruction": instruction}
        contexts = ["The quick brown fox", "don't worry. 12"]
        layout = lay_out(plait.Sequential(**fields, contexts=contexts, encoding="parallel"), tokenizer)
        assert layout.parallel is not None
        at = layout.parallel.at
        alone = [
            lay_out(plait.Sequential(**fields, contexts=[text], encoding="sequential"), tokenizer).tokens
            for text in contexts
        ]
        read = [[*layout.tokens[:at], *text, *layout.tokens[at:]] for text in layout.parallel.texts]
        assert sorted(read) == sorted(alone)


@pytest.mark.parametrize("template", TEMPLATES)
def test_token_ids_and_nothing_at_all_as_contexts(template):
    tokenizer = chatty("byte fallback, space by the pre-tokenizer", template)
    method = plait.Sequential(prompt="Answer: 7", chat=True, contexts=["", " "])
    assert lay_out(method, tokenizer).tokens == method.tokens(tokenizer)
    ids = tuple(tokenizer.encode_continuation((), "box, "))
    layout = lay_out(method.model_copy(update={"contexts": (ids,)}), tokenizer)
    written = TEMPLATES[template][1].replace("{}", "box, Answer: 7")
    assert tokenizer.decode(layout.tokens) == written


@pytest.mark.parametrize("question", ["\n\nAnswer: 7", " 7", "Answer:\n", "box,  "])
@pytest.mark.parametrize("template", ["ChatML", "Llama-2", "Mistral", "words"])
@pytest.mark.parametrize("kind", KINDS)
def test_questions_that_run_into_the_template(kind, template, question):
    tokenizer = chatty(kind, template)
    method = plait.Sequential(prompt=question, chat=True, contexts=["The lazy dog."], instruction="Pack:\n")
    expected = tokenizer.chat([{"role": "user", "content": f"Pack:\nThe lazy dog.\n\n{question}"}])
    assert tokenizer.decode(lay_out(method, tokenizer).tokens) == tokenizer.decode(expected)


@pytest.mark.parametrize("name", NAMES)
def test_real_models(name):
    from transformers import AutoTokenizer

    where = folder(name)
    tokenizer, theirs = HFTokenizer.load(where), AutoTokenizer.from_pretrained(where)
    contexts, question = ["Paris is a city.\nIt is big.", "  indented", "12 + 5 = 17"], "Which city?"
    for instruction in ("", "Answer from these.\n\n"):
        for turns in ([], [{"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Sure?"}]):
            for system in ([], [{"role": "system", "content": "Be brief."}]):
                whole = instruction + "".join(f"{text}\n\n" for text in contexts) + question
                chat = [*system, {"role": "user", "content": whole}, *turns]
                expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
                method = plait.Sequential(
                    prompt=[*system, {"role": "user", "content": question}, *turns],
                    contexts=contexts,
                    instruction=instruction,
                    encoding="sequential",
                )
                tokens = lay_out(method, tokenizer).tokens
                assert tokenizer.decode(tokens) == tokenizer.decode(expected)
                assert tokens == expected or name == "smol135"  # whose pattern is GPT-2's
