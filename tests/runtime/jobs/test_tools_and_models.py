"""Scores, tools and states of a branch, and parts on another model: in events, trace and books, and from the file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy
import pytest
import torch

from plait import SamplingParams, ScriptedEngine
from plait.rl.masks import trace_mask
from plait.runtime.engines.scripted import WordTokenizer
from plait.runtime.errors import InvalidInput
from plait.runtime.events import Scored, StateEntered, ToolFinished, ToolStarted, parse_event
from plait.runtime.trace.trace import Trace
from plait.tests.runtime.tools import context


async def test_a_tool_is_announced_and_recorded(tmp_path):
    async with context(ScriptedEngine("x")) as ctx:
        events = ctx.state.hub.subscribe()
        branch = ctx.open([2])
        branch.enter("run_test")
        with branch.tool("test", script="print(1)") as call:
            call.ok, call.output = True, "1\n"
        with pytest.raises(ValueError), branch.tool("test", script="x"):
            raise ValueError("broken")
        trace = ctx.state.trace
    seen = [event for event in list(events._pending) if isinstance(event, (StateEntered, ToolStarted, ToolFinished))]
    assert [event.type for event in seen] == [
        "state_entered", "tool_started", "tool_finished", "tool_started", "tool_finished",
    ]  # fmt: skip
    assert [parse_event(event.to_json()) for event in seen] == seen
    good, bad = trace.tools
    assert (good.tool, good.arguments, good.ok, good.output) == ("test", {"script": "print(1)"}, True, "1\n")
    assert good.ended is not None and good.ended >= good.began
    assert (bad.ok, bad.output, bad.ended) == (False, "ValueError: broken", None)
    assert [state.state for state in trace.states] == ["run_test"]
    trace.save(tmp_path / "t.jsonl")
    again = Trace.load(tmp_path / "t.jsonl")
    assert (again.tools, again.states) == (trace.tools, trace.states)
    lines = (tmp_path / "t.jsonl").read_text().replace('"state","branch":"0"', '"state","branch":"7"')
    (tmp_path / "t.jsonl").write_text(lines)
    with pytest.raises(InvalidInput, match="unknown branch '7'"):
        Trace.load(tmp_path / "t.jsonl")


async def test_scores_are_recorded_and_told():
    async with context(ScriptedEngine(["x"])) as ctx:
        branch = ctx.open([4])
        reader = ctx.state.hub.subscribe()
        for score in (0.25, 1.5):
            branch.score(score)
        told = list(iter(reader.get_nowait, None))
        assert branch.record.scores == [0.25, 1.5]
        assert [(type(one), one.branch, one.score) for one in told] == [(Scored, "0", 0.25), (Scored, "0", 1.5)]


@pytest.mark.parametrize("score", [1, True, numpy.float32(0.5), torch.tensor(0.5), Fraction(1, 3), float("inf")])
async def test_whatever_is_a_number_is_a_score(score, tmp_path):
    async with context(ScriptedEngine(["x"])) as ctx:
        ctx.open([4]).score(score)
        ctx.state.trace.save(tmp_path / "t.jsonl")
        (found,) = Trace.load(tmp_path / "t.jsonl").branches["0"].scores
        assert type(found) is float and found == float(score)


@pytest.mark.parametrize(
    "note",
    [
        lambda branch: branch.score("0.5"),
        lambda branch: branch.score(None),
        lambda branch: branch.score(torch.tensor([0.5, 1.0])),
        lambda branch: branch.score(10**400),
        lambda branch: branch.enter(None),
        lambda branch: branch.prune(5),
        lambda branch: branch.scope.open([4], label=5),
        lambda branch: branch.tool(5).__enter__(),
        lambda branch: branch.tool("x", a=[{(1, 2): 3}]).__enter__(),
        lambda branch: branch.join([5], {"nobody": True}),
        lambda branch: branch.join([5], {5: True}),
        lambda branch: branch.scope.count((1, 2)),
        lambda branch: branch.scope.count("x", 1.5),
        lambda branch: branch.scope.phase((1, 2)).__enter__(),
    ],
)
async def test_what_no_trace_can_hold_is_refused_when_it_is_said(note, tmp_path):
    async with context(ScriptedEngine(["x"])) as ctx:
        with pytest.raises(InvalidInput, match="is a number|is a text|keys must be|is joined|is counted"):
            note(ctx.open([4]))
        ctx.state.trace.save(tmp_path / "t.jsonl")
        again = Trace.load(tmp_path / "t.jsonl")
        assert list(again.branches) == ["0"] and not again.tools and not again.states and not again.joins
        assert not ctx.ledger.spent and not ctx.state.usage.counts and not ctx.state.usage.phases


OTHERS = [Path("a/b"), {1}, numpy.int64(5), numpy.float32(0.5), numpy.bool_(True), torch.tensor(3)]


async def test_what_a_tool_is_given_and_gives_back_can_be_read_again(tmp_path):
    async with context(ScriptedEngine(["x"])) as ctx:
        branch, cases = ctx.open([4]), [1, (2, 3)]
        with branch.tool("x", cases=cases, by={1: numpy.float64(0.5)}, others=OTHERS) as call:
            cases.clear()
            call.ok = numpy.bool_(True)
        with pytest.raises(InvalidInput, match="the output of a tool is a text, not 5"), branch.tool("x") as call:
            call.ok, call.output = True, 5
        trace = ctx.state.trace
        trace.save(tmp_path / "t.jsonl")
        assert Trace.load(tmp_path / "t.jsonl").tools == trace.tools
        first, second = trace.tools
        assert (
            first.arguments == {"cases": [1, [2, 3]], "by": {"1": 0.5}, "others": ["a/b", "{1}", 5, 0.5, True, 3]}
            and first.ok is True
        )
        assert (second.ok, second.outcome, second.output[:12]) == (False, "interrupted", "InvalidInput")


async def test_a_part_on_another_model_is_in_the_books():
    other = ScriptedEngine(["three more words"], tokenizer=WordTokenizer(), name="other", context_limit=100)
    async with context(ScriptedEngine(["ab", "cd"]), total_tokens=20) as ctx:
        own = ctx.open(ctx.tokenizer.encode("p"))
        await own.generate(SamplingParams())
        with ctx.on(other, parent=own) as part:
            assert part.context_limit == 100 and part.tokenizer is other.tokenizer
            branch = part.open(part.tokenizer.encode("to the other"))
            assert (await branch.generate(SamplingParams())).text == "three more words"
        assert not other.branches, "its branches close with the part"
        assert ctx.state.usage.generated_tokens == 3 + 6 and ctx.ledger.left == 20 - 9
        assert ctx.now == 9, "the clock goes on from the part's"
        trace = ctx.state.trace
        assert [branch.model for branch in trace.branches.values()] == [None, "other"]
        assert trace.branches[branch.id].parent == own.id
        assert [row.branch for row in trace.for_training()] == [own.id], "other vocabularies are not trained on"
        assert len(trace_mask(trace)) == len(own.tokens)
        list(trace.lines())
        pieces = [piece for segment in trace.segments_of(branch.id) for piece in segment.pieces]
        assert pieces[-1].chars is None, "the trace of this test knows no tokenizer of its own"
    await other.close()
