"""How a prompt and its contexts are laid out, whatever the engine, and what is refused before any work."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plait
from plait import Capabilities, ScriptedEngine
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.methods.contexts import Layout, segments
from plait.runtime.methods.prompt import prompt_tokens
from plait.tests.runtime.engines.native.tokenizer_kinds import KINDS, ours
from plait.tests.runtime.tools import run

PARALLEL = Capabilities(logprobs=True, parallel_contexts=True)


class Chat(CharTokenizer):
    """Characters, with a chat template."""

    def chat(self, messages, tools=()):
        text = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
        return self.encode(f"{text}<assistant>")


def lay_out(method, tokenizer=None, capabilities=PARALLEL) -> tuple[Layout, list[str]]:
    """The layout, and the texts of prefix, contexts and query."""
    tokenizer = tokenizer or CharTokenizer()
    engine = ScriptedEngine([], tokenizer=tokenizer, capabilities=capabilities)
    layout = method.lay_out(method.prompt, method.tokens(tokenizer), engine, method.messages)
    if layout.parallel is None:
        return layout, [tokenizer.decode(layout.tokens)]
    at = layout.parallel.at
    parts = [layout.tokens[:at], *layout.parallel.texts, layout.tokens[at:]]
    return layout, [tokenizer.decode(part) for part in parts]


def test_text_stands_behind_instruction_and_contexts():
    bos = CharTokenizer().decode([CharTokenizer().bos_id])
    method = plait.Sequential(prompt="why?", instruction="Read:\n", contexts=["two", "one"], encoding="parallel")
    layout, parts = lay_out(method)
    assert parts == [f"{bos}Read:\n", "one\n\n", "two\n\n", "why?"]
    assert layout.positions == len(layout.tokens) + 5
    _, (text,) = lay_out(method.model_copy(update={"encoding": "sequential"}))
    assert text == f"{bos}Read:\ntwo\n\none\n\nwhy?"


def test_in_a_chat_they_come_in_front_of_the_first_user_message():
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a?"}]
    turns = [*messages, {"role": "assistant", "content": "b"}, {"role": "user", "content": "aha?"}]
    for prompt, behind in ((messages, "a?</><assistant>"), (turns, "a?</><assistant>b</><user>aha?</><assistant>")):
        method = plait.Sequential(prompt=prompt, instruction="Read:", contexts=["x", "y"], encoding="parallel")
        assert lay_out(method, Chat())[1] == ["<s><system>be brief</><user>Read:", "x\n\n", "y\n\n", behind]


def test_a_text_is_a_chat_only_where_that_is_asked_for():
    tokenizer = Chat()
    for text in ("<user", "<system>x</><user>y", "plain"):
        plain = plait.Sequential(prompt=text, instruction="Read:", contexts=["x"], encoding="parallel")
        assert lay_out(plain, tokenizer)[1] == ["<s>Read:", "x\n\n", text]
        chat = plain.model_copy(update={"chat": True})
        assert lay_out(chat, tokenizer)[1] == ["<s><user>Read:", "x\n\n", f"{text}</><assistant>"]
        kind = plain.model_copy(update={"system": "be kind"})
        assert lay_out(kind, tokenizer)[1] == ["<s><system>be kind</><user>Read:", "x\n\n", f"{text}</><assistant>"]


def test_auto_is_parallel_for_several_contexts_where_the_engine_can():
    one, two = plait.Sequential(prompt="q", contexts=["a"]), plait.Sequential(prompt="q", contexts=["a", "b"])
    assert lay_out(one)[0].details["encoding"] == "sequential"
    assert lay_out(two)[0].details["encoding"] == "parallel"
    plain = lay_out(two, capabilities=Capabilities())[0].details
    assert plain["encoding"] == "sequential"


ASKING: dict[str, Any] = {"prompt": "why?", "contexts": ["one", "two"]}
METHODS = {
    "sequential": plait.Sequential(**ASKING),
    "self_consistency": plait.SelfConsistency(**ASKING, n=2),
    "apr": plait.APR(**ASKING),
    "multiverse": plait.Multiverse(**ASKING),
    "tree_search": plait.TreeSearch(**ASKING, reward="self_certainty", strategy="beam"),
}


@pytest.mark.parametrize("name", METHODS)
async def test_parallel_is_refused_at_submit_where_the_engine_cannot(name):
    engine = ScriptedEngine(lambda text: "Answer: 1", capabilities=Capabilities(logprobs=True, certainty=True))
    async with plait.Runtime(engine=engine) as runtime:
        for contexts in (("one", "two"), ("one",)):
            asked = METHODS[name].model_copy(update={"encoding": "parallel", "contexts": contexts})
            with pytest.raises(plait.UnsupportedByEngine, match="native engine has them.*encoding='sequential'"):
                await runtime.submit(asked)
        assert not engine.prompts and not engine.branches
        # Nothing is there to be encoded on its own.
        await (await runtime.submit(METHODS[name].model_copy(update={"encoding": "parallel", "contexts": ()})))
        for encoding in ("auto", "sequential"):
            result = await (await runtime.submit(METHODS[name].model_copy(update={"encoding": encoding})))
            assert result.details["contexts"]["encoding"] == "sequential"
            assert engine.prompts[-1].startswith("one\n\ntwo\n\nwhy?")


def test_a_single_context_is_read_plainly_and_models_bring_their_scaling():
    calibrated = Capabilities(parallel_contexts=True, context_temperature=0.4, context_scale=0.7)
    fields = {"prompt": "q", "encoding": "parallel"}
    for contexts, own, expected in (
        (["a", "a"], {}, (1.0, 1.0)),
        (["a"], {"context_temperature": 0.5}, (0.5, 1.0)),
        (["a"], {"context_temperature": 0.5, "context_scale": 0.3}, (0.5, 0.3)),
        (["a", "b"], {}, (0.4, 0.7)),
        (["a", "b"], {"context_scale": 0.0}, (0.4, 0.0)),
    ):
        layout, _ = lay_out(plait.Sequential(contexts=contexts, **fields, **own), capabilities=calibrated)
        assert layout.parallel is not None
        assert (layout.parallel.temperature, layout.parallel.scale) == expected


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"contexts": ["x" * 60], "encoding": "sequential"}, plait.PromptTooLong, "in parallel"),
        ({"contexts": ["x" * 60, "y"], "encoding": "parallel"}, plait.PromptTooLong, "split"),
        ({"contexts": ["x" * 20] * 3, "encoding": "sequential"}, plait.PromptTooLong, "contexts have"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(fields, error, says):
    engine = ScriptedEngine(["x"], context_limit=50, capabilities=PARALLEL)
    with pytest.raises(error, match=says):
        plait.Sequential(prompt="q", **fields).check(engine)
    plait.Sequential(prompt="q", contexts=["x" * 20, "y" * 20, "z" * 20], encoding="parallel").check(engine)
    other = ScriptedEngine(["x"], context_limit=50)
    with pytest.raises(plait.PromptTooLong, match="leave some out"):
        plait.Sequential(prompt="q", contexts=["x" * 60]).check(other)


@pytest.mark.parametrize("name", ["context_scale", "context_temperature"])
def test_scaling_beyond_what_a_branch_takes_is_malformed(name):
    for value in (2.0**31, float("inf"), float("nan")):
        with pytest.raises(plait.InvalidJob, match=name):
            plait.Sequential(prompt="a", contexts=("b c", "d e"), **{name: value})
    plait.Sequential(prompt="a", contexts=("b c", "d e"), **{name: 1e6})


def test_a_prompt_has_to_ask_something():
    engine = ScriptedEngine(["x"])
    with pytest.raises(plait.InvalidInput, match="behind them"):
        plait.Sequential(prompt=[engine.tokenizer.bos_id], contexts=["a"]).check(engine)


@pytest.mark.parametrize(
    "fields",
    [
        {"contexts": "text"},
        {"contexts": [[-1]]},
        {"contexts": [1.5]},
        {"encoding": "both"},
        {"context_temperature": 0.0},
        {"context_scale": -1},
        {"context_bias": float("nan")},
        {"segment_tokens": 0},
        {"contexts": [{"question": "q"}]},
    ],
)
def test_malformed_fields_are_one_error(fields):
    with pytest.raises(plait.InvalidJob, match=next(iter(fields))):
        plait.Sequential(prompt="q", **fields)


@pytest.mark.parametrize(
    ("size", "lengths"), [(None, [102]), (102, [102]), (101, [51, 51]), (25, [20, 20, 21, 20, 21])]
)
def test_a_long_document_is_cut_into_equal_segments(size, lengths):
    document = "".join(chr(0x4E00 + i) for i in range(100))
    method = plait.Sequential(prompt="q", contexts=[document, ""], encoding="parallel", segment_tokens=size)
    layout, parts = lay_out(method)
    assert sorted(map(len, parts[1:-1])) == sorted(lengths) and max(lengths) <= (size or 102)
    assert sorted("".join(parts[1:-1])) == sorted(document + "\n\n")
    assert (layout.details["count"], layout.details["empty"]) == (len(lengths), 1)
    # One behind another they are the document as it was.
    _, (text,) = lay_out(method.model_copy(update={"encoding": "sequential"}))
    assert text.endswith(f"{document}\n\nq")


@given(st.lists(st.integers(0, 9), max_size=60).map(tuple), st.integers(1, 30))
def test_segments_are_few_equal_and_whole(text, size):
    parts = segments(text, size)
    assert sum(parts, ()) == text and len(parts) == -(-len(text) // size)
    lengths = [len(part) for part in parts]
    assert not parts or (max(lengths) <= size and max(lengths) - min(lengths) <= 1)


def test_solved_examples_are_contexts():
    examples = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]
    method = plait.Sequential(prompt="3 + 3?", contexts=examples, encoding="parallel")
    assert lay_out(method)[1][1:] == ["1 + 1?\n2\n\n", "2 + 2?\n4\n\n", "3 + 3?"]
    assert plait.Sequential(**method.model_dump(mode="json")) == method


async def test_contexts_are_prompt_and_no_ledger_counts_them():
    method = plait.Sequential(prompt="q", contexts=["a" * 30, "b" * 40], encoding="parallel", max_tokens=5)
    engine = ScriptedEngine(["answer"], capabilities=PARALLEL)
    result, _ = await run(method, None, engine=engine, total_tokens=5)
    assert result.usage.total_tokens == 5
    assert result.usage.prompt_tokens == len(prompt_tokens("q", engine.tokenizer)) + 32 + 42
    job = plait.parse_job({"method": method.model_dump(mode="json")})
    assert job.method == method


# GPT-2's pattern splits a blank line differently before a word than at the end of a text, and contexts end with one.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "byte-level"])
def test_sequential_contexts_are_encoded_as_one_text(kind):
    tokenizer = ours(kind)
    contexts = ["The quick brown fox", "don't worry. 12 + 345", "def solve(nums):"]
    asked = {"prompt": "Answer: 7", "instruction": "Pack my box.\n", "contexts": contexts, "encoding": "sequential"}
    method = plait.Sequential(**asked)
    tokens = method.lay_out(method.prompt, method.tokens(tokenizer), ScriptedEngine([], tokenizer=tokenizer)).tokens
    assert tokens == tokenizer.encode("Pack my box.\n" + "".join(f"{text}\n\n" for text in contexts) + "Answer: 7")


@pytest.mark.parametrize(
    "generator",
    [
        plait.Sequential(prompt="?", contexts=("x",), instruction="Read:"),
        plait.Multiverse(prompt="?", contexts=("x",), instruction="Read:", preset="{question}"),
        plait.APR(prompt="?", contexts=("x",), instruction="Read:"),
    ],
)
async def test_contexts_of_a_method_inside_another_stand_in_its_chat(generator):
    outer = plait.SelfConsistency(prompt="why?", chat=True, system="Be kind", n=2, generator=generator)
    engine = ScriptedEngine(lambda text: "b", tokenizer=Chat())
    async with plait.Runtime(engine=engine) as runtime:
        await (await runtime.submit(outer))
    assert engine.prompts == ["<system>Be kind</><user>Read:x\n\nwhy?</><assistant>"] * 2
