"""`Sequential` and `SelfConsistency`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import Finish, ScriptedEngine, SelfConsistency, Sequential
from plait.tests.runtime.tools import run


async def test_sequential():
    result, engine = await run(Sequential(prompt="question: "), ["an answer"])
    assert (result.text, result.answer, result.finish_reason) == ("an answer", "an answer", Finish.EOS)
    assert engine.prompts == ["question: "]
    assert result.usage.prompt_tokens == len("question: ") + 1  # BOS


async def test_prompts_of_all_kinds():
    _, engine = await run(Sequential(prompt=[{"role": "user", "content": "hi"}]), ["a"])
    assert engine.prompts == ["<user>hi\n<assistant>"]
    _, engine = await run(Sequential(prompt=[0, 99, 100]), ["a"])
    assert engine.prompts == ["ab"]


@pytest.mark.parametrize(
    ("fields", "limits", "text", "finish"),
    [
        ({"max_tokens": 3}, {}, "abc", Finish.LENGTH),
        ({"context_limit": 6}, {}, "abcd", Finish.CONTEXT),
        ({"stop": ("de",)}, {}, "abc", Finish.STOP),
        ({}, {"total_tokens": 2}, "ab", Finish.TOTAL_TOKENS),
        ({}, {"critical_tokens": 4}, "abcd", Finish.CRITICAL_TOKENS),
        ({"max_tokens": 4}, {"total_tokens": 4}, "abcd", Finish.LENGTH),
        ({}, {"total_tokens": 3, "critical_tokens": 2}, "ab", Finish.CRITICAL_TOKENS),
    ],
)
async def test_why_it_ends(fields, limits, text, finish):
    result, _ = await run(Sequential(prompt="p", **fields), ["abcdefgh"], **limits)
    assert (result.text, result.finish_reason) == (text, finish)


async def test_a_conclusion_is_forced_when_there_is_no_answer():
    method = Sequential(prompt="p", answer="boxed", conclusion=r" So \boxed{", conclusion_tokens=5)
    result, engine = await run(method, ["thinking " * 20, "7} end"], total_tokens=60)
    assert result.answer == "7" and result.usage.counts["concluded"] == 1
    assert result.usage.total_tokens == 60 and result.text.endswith(r"So \boxed{7} en")
    assert engine.prompts[1].endswith(r"So \boxed{")


async def test_no_conclusion_when_the_answer_is_there_or_there_is_no_room():
    method = Sequential(prompt="p", answer="boxed", conclusion=r" So \boxed{")
    result, engine = await run(method, [r"\boxed{3}"])
    assert result.answer == "3" and len(engine.prompts) == 1
    result, engine = await run(method, ["thinking"], total_tokens=5)
    assert result.answer is None and result.finish_reason is Finish.TOTAL_TOKENS


async def test_a_conclusion_fits_the_context():
    method = Sequential(prompt="p", answer="boxed", conclusion=r" So \boxed{", conclusion_tokens=5, context_limit=40)
    result, _ = await run(method, ["thinking " * 20, "7}"])
    assert result.answer == "7"


@pytest.mark.parametrize(("more", "text"), [(-1, "hm"), (0, "hm"), (1, "h#12")])
async def test_a_conclusion_is_begun_where_one_token_and_all_of_it_fit(more, text):
    """Text of one token and EOS, the mark, and two tokens behind it: what ends early leaves room that is not taken."""
    method = Sequential(prompt="p", answer="boxed", conclusion="#", conclusion_tokens=2)
    script = ScriptedEngine(lambda context: "123" if "#" in context else "hm")
    result, _ = await run(method, None, engine=script, total_tokens=3 + more)
    assert (result.text, result.usage.counts["concluded"]) == (text, more > 0)


async def test_a_bound_that_nobody_asked_for_is_told(monkeypatch):
    monkeypatch.setattr(Sequential, "bound", 5)
    for fields, told in (({}, True), ({"conclusion": "#"}, True), ({"max_tokens": 5}, False)):
        result, _ = await run(Sequential(prompt="p", answer="boxed", **fields), ["thinking", "7"])
        assert result.text.startswith("think") and ("bound" in result.details) == told
    for script, fields, limits in (
        (["4 5"], {}, {}),
        (["thinking", "7"], {"conclusion": "#", "conclusion_tokens": 2}, {"total_tokens": 6}),
    ):
        result, _ = await run(Sequential(prompt="p", answer="boxed", **fields), script, **limits)
        assert "bound" not in result.details


async def vote(answers, **fields):
    method = SelfConsistency(prompt="p", n=len(answers), answer=r"regex:\d", **fields)
    return await run(method, ["", *answers][1:])


async def test_the_majority_wins_and_ties_go_to_the_first():
    result, _ = await vote(["it is 1", "2", "it was 2", "3", "none"])
    assert (result.answer, result.text) == ("2", "2")
    assert result.details == {"votes": {"1": 1, "2": 2, "3": 1}, "samples": 5}
    result, _ = await vote(["none", "5", "4", "4", "5"])
    assert result.answer == "5"


async def test_no_answer_at_all():
    result, _ = await vote(["none", "nothing"])
    assert (result.answer, result.text, result.details["votes"]) == (None, "none", {})


async def test_samples_share_the_prompt_and_run_side_by_side():
    result, engine = await vote(["1111", "22", "333"])
    assert engine.peak_running == 3
    assert result.usage.prompt_tokens == 2 and result.usage.branches == 4
    assert result.usage.critical_tokens == 5 and result.usage.total_tokens == 12
    assert list(result.trace.branches) == ["0", "0.0", "0.1", "0.2"]


async def test_samples_share_the_budget():
    method = SelfConsistency(prompt="p", n=4, answer=r"regex:\d")
    result, _ = await run(method, None, engine=ScriptedEngine(lambda _: "x7" * 50), total_tokens=30, width=2)
    assert result.answer == "7" and result.usage.generated_tokens == 28
    assert result.finish_reason is Finish.TOTAL_TOKENS


async def test_samples_conclude_on_their_own():
    method = SelfConsistency(prompt="p", n=2, answer="boxed", conclusion=r"\boxed{", max_tokens=3)
    engine = ScriptedEngine(lambda context: "9}" if "boxed" in context else "hm" * 9)
    result, _ = await run(method, None, engine=engine)
    assert result.details["votes"] == {"9": 2}


@given(st.lists(st.sampled_from(["1", "2", "3", "x"]), min_size=1, max_size=9))
async def test_the_vote_is_a_majority(answers):
    result, _ = await vote(answers)
    valid = [answer for answer in answers if answer != "x"]
    best = max(valid, key=lambda a: (valid.count(a), -valid.index(a)), default=None)
    assert result.answer == best
