"""Equal answers vote together."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import InvalidInput, Runtime, ScriptedEngine, SelfConsistency, Sequential, Tool, parse_method
from plait.runtime.equality import process, registry
from plait.runtime.methods.answers import majority
from plait.tests.runtime.tools import run

HALVES = [r"\frac{1}{2}", r"\dfrac{1}{2}", "0.5"]
needs_math = pytest.mark.skipif(not process.is_installed(), reason="math-verify is not installed")


async def vote(answers, **fields):
    method = SelfConsistency(prompt="p", n=len(answers), **{"answer": "boxed", **fields})
    waiting = iter(answers)
    engine = ScriptedEngine(lambda _: rf"it is \boxed{{{next(waiting)}}}")
    result, _ = await run(method, None, engine=engine)
    return result


@pytest.mark.parametrize("equal", ["auto", "numbers", pytest.param("math", marks=needs_math)])
async def test_the_half_wins(equal):
    result = await vote([*HALVES, "3", "3"], equal=equal)
    assert result.answer == HALVES[0] and result.text == rf"it is \boxed{{{HALVES[0]}}}"
    assert result.details["votes"] == {HALVES[0]: 3, "3": 2}
    result = await vote([*HALVES, "3", "3"], equal="text")
    assert result.answer == "3"


async def test_the_spelling_most_often_given_stands_for_its_group():
    result = await vote(["1/2", "0.5", r"\frac12", "0.5", "3", "3", "3"])
    assert result.answer == "0.5" and result.details["votes"] == {"0.5": 4, "3": 3}
    result = await vote(["3", "1/2", "0.5", "3.0"])
    assert result.answer == "3" and result.details["votes"] == {"3": 2, "1/2": 2}


async def test_the_end_of_the_result_is_that_of_the_sample_that_wins():
    ends = {"cut": r"\boxed{1} and so on", "whole": r"\boxed{1}", "other": r"\boxed{2}", "none": "no answer at all"}

    async def finish(*kinds):
        texts = iter([ends[kind] for kind in kinds])
        method = SelfConsistency(prompt="p", n=len(kinds), answer="boxed", max_tokens=12, equal="text")
        result, _ = await run(method, None, engine=ScriptedEngine(lambda _: next(texts)))
        return result.answer, result.finish_reason

    assert await finish("other", "cut", "cut") == ("1", "length")
    assert await finish("none", "other", "other") == ("2", "eos")
    assert await finish("cut", "other", "other") == ("2", "eos")
    assert await finish("whole", "cut", "other") == ("1", "eos")  # the first that gives it
    assert await finish("none", "none") == (None, "length")


def test_a_generator_writes_the_samples_and_nothing_else_does():
    inner = {"method": "sequential", "prompt": "x"}
    assert SelfConsistency(prompt="p", generator=inner).generator is not None
    assert SelfConsistency(prompt="p", conclusion="so").conclusion == "so"
    choices = {"constraint": "choice", "choices": ["a", "b"]}
    assert SelfConsistency(prompt="p", constraint=choices).constraint is not None
    for fields in ({"conclusion": "so"}, {"contexts": ["c"]}, {"constraint": choices}):
        with pytest.raises(InvalidInput, match="the generator writes the samples"):
            SelfConsistency(prompt="p", generator=inner, **fields)


@pytest.mark.parametrize("prompt", ["plain", [{"role": "user", "content": "chat"}]])
async def test_a_generator_gets_the_prompt_and_its_samples_vote(prompt):
    method = SelfConsistency(prompt=prompt, n=3, answer="text", generator=Sequential(prompt="another"))
    result, engine = await run(method, ["7", "7", "8"])
    assert set(engine.prompts) == {"plain" if isinstance(prompt, str) else "<user>chat\n<assistant>"}
    assert result.answer == "7" and result.details["votes"] == {"7": 2, "8": 1}


async def test_a_generator_is_looked_at_at_submit():
    method = SelfConsistency(prompt="p", generator=Sequential(prompt="another", tools=[Tool(name="look")]))
    async with Runtime(engine=ScriptedEngine(["7"])) as runtime:
        with pytest.raises(InvalidInput, match="tools"):
            await runtime.submit(method)


@needs_math
async def test_algebra():
    result = await vote(["3", r"\sqrt{8}", "3", r"2\sqrt{2}", r"\frac{4}{\sqrt2}"])
    assert result.answer == r"\sqrt{8}" and result.details["votes"] == {"3": 2, r"\sqrt{8}": 3}


async def test_other_rules_compare_text():
    result = await vote(["1/2", "0.5", "0.5"], answer=r"regex:\{(.*)\}")
    assert result.details == {"votes": {"1/2": 1, "0.5": 2}, "samples": 3}


async def test_without_math_verify_numbers_are_compared_and_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    result = await vote([*HALVES, "3", "3"])
    assert result.answer == HALVES[0] and "math-verify is not installed" in result.details["equal"]
    with pytest.raises(InvalidInput, match="pip install"):
        SelfConsistency(prompt="p", equal="math")


@needs_math
async def test_if_math_verify_does_not_start_numbers_are_compared_and_it_is_said(monkeypatch):
    monkeypatch.setattr(process, "shared", process.MathProcess)
    monkeypatch.setattr("plait.runtime.equality.mathematics.shared", process.MathProcess)
    monkeypatch.setattr("plait.runtime.equality.process.__package__", "plait.runtime.nowhere")
    result = await vote([*HALVES, r"\sqrt{2}"])
    assert result.answer == HALVES[0] and "does not start" in result.details["equal"]


@pytest.fixture
def parity():
    """An equality of one's own."""
    registry.register_equality("parity", lambda answers: [int(answer) % 2 for answer in answers])
    yield
    del registry.EQUALITIES._things["parity"]


async def test_what_a_cancelled_vote_has_begun_is_told_so(monkeypatch):
    """Its thread goes on; what that asks the process for, nobody waits for."""
    begun, seen = threading.Event(), []
    method = SelfConsistency(prompt="p", n=2, answer="boxed", equal="numbers")

    def count(equal):
        begun.set()
        abandoned = process.ABANDONED.get()
        seen.append(abandoned is not None and abandoned.wait(60))

    vote = asyncio.create_task(method.settle(["1", "2"], count))
    await asyncio.to_thread(begun.wait)
    vote.cancel()
    with pytest.raises(asyncio.CancelledError):
        await vote
    await asyncio.get_running_loop().shutdown_default_executor()
    assert seen == [True] and process.ABANDONED.get() is None


async def test_an_equality_of_ones_own_by_name(parity):
    fields = {"method": "self_consistency", "prompt": "p", "answer": "boxed", "equal": "parity"}
    assert parse_method(fields).model_dump()["equal"] == "parity"
    result = await vote(["1", "2", "3", "2"], equal="parity")
    assert result.answer == "2" or result.details["votes"] == {"1": 2, "2": 2}
    assert (await vote(["1", "2", "3", "5"], equal="parity")).details["votes"] == {"1": 3, "2": 1}


def test_unknown_and_wrong_equalities():
    with pytest.raises(InvalidInput, match="unknown equality 'same'; known: .*text.*auto"):
        SelfConsistency(prompt="p", equal="same")
    registry.register_equality("short", lambda answers: [])
    try:
        with pytest.raises(InvalidInput, match="0 labels for 1 answers"):
            registry.labels("short", ["a"])
    finally:
        del registry.EQUALITIES._things["short"]


async def test_other_jobs_go_on_while_answers_are_compared(monkeypatch):
    ticks = []

    def slow(answers):
        before = len(ticks)
        while len(ticks) < before + 3:  # Were the loop blocked, this would not end.
            pass
        return answers

    monkeypatch.setitem(registry.EQUALITIES._things, "slow", slow)

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    result = await asyncio.wait_for(vote(["1", "2", "1"], equal="slow"), 30)
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
    assert result.answer == "1"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_order_of_completion_does_not_matter(order):
    """Samples that end later are those of longer texts."""
    answers = ["1/2", "0.5", "7"]
    texts = iter([f"\\boxed{{{answer}}}" + " so" * (9 * length) for answer, length in zip(answers, order, strict=True)])
    engine = ScriptedEngine(lambda _: next(texts))
    result, _ = await run(SelfConsistency(prompt="p", n=3, answer="boxed"), None, engine=engine)
    assert (result.answer, result.details["votes"]) == ("1/2", {"1/2": 2, "7": 1})


SPELLINGS = {0: ["1/2", "0.5", r"\frac12"], 1: ["3", "3.0", r"\frac{6}{2}"], 2: [r"\sqrt{2}"], 3: [r"\text{no}"]}


@settings(max_examples=200)
@given(st.lists(st.sampled_from(list(SPELLINGS)).flatmap(lambda v: st.sampled_from([(v, s) for s in SPELLINGS[v]]))))
def test_the_majority_is_that_of_values(drawn):
    values, texts = [value for value, _ in drawn], [text for _, text in drawn]
    answer, votes = majority(texts)
    best = max(values, key=lambda v: (values.count(v), -values.index(v)), default=None)
    same = [text for value, text in drawn if value == best]
    assert answer == max(same, key=lambda s: (same.count(s), -same.index(s)), default=None)
    assert sorted(votes.values()) == sorted(values.count(value) for value in set(values))
