"""What the viewer is given: all that is in the trace, at the right place on both axes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings

from plait import Capabilities, ScriptedEngine, Trace
from plait.runtime.trace.record import BranchRecord, Piece, ToolRecord
from plait.runtime.trace.viewer import trace_data
from plait.tests.runtime.tools import context
from plait.tests.runtime.trace.test_trace import OPERATIONS, Attaching, play
from plait.tests.runtime.trace.viewer.samples import SAMPLES, large, sample


@pytest.fixture(scope="module", params=[name for name in SAMPLES if name != "hostile"])
def trace(request):
    return sample(request.param)


def rows(data):
    """The pieces, as objects."""
    columns = data["pieces"]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_every_token_is_there_once(trace):
    data = trace_data(trace)
    pieces = [piece for segment in trace.segments for piece in segment.pieces]
    assert sum(data["pieces"]["count"]) == sum(len(piece.token_ids) for piece in pieces)
    assert {len(column) for column in data["tokens"].values()} == {sum(data["pieces"]["count"])}
    names = list(trace.branches)
    for number, name in enumerate(names):
        own = [row for row in rows(data) if row["branch"] == number]
        assert "".join(row["text"] for row in own) == trace.text_of(name)
        parent = data["branches"][number]["parent"]
        assert trace.branches[name].parent == (None if parent is None else names[parent])


def test_tokens_have_their_text_and_surprise():
    trace = sample("apr")
    data = trace_data(trace)
    decode = ScriptedEngine(lambda _: "").tokenizer.decode
    start, seen = 0, 0
    for row in rows(data):
        chars = data["tokens"]["chars"][start : start + row["count"]]
        surprise = data["tokens"]["surprise"][start : start + row["count"]]
        if row["kind"] == 2:
            ids = data["tokens"]["id"][start : start + row["count"]]
            assert chars == [len(decode([token])) for token in ids]
            assert surprise == [50] * row["count"]  # The scripted engine's.
            seen += 1
        else:
            assert set(chars) <= {0} and set(surprise) <= {-1}
        start += row["count"]
    assert seen


def test_text_is_measured_as_javascript_does():
    trace = Trace()
    trace.branches["0"] = BranchRecord(id="0", parent=None, origin="open", label="", level=0)
    text = "a\U0001f9f5b"
    piece = Piece(
        kind="sampled", token_ids=[1, 2, 3], text=text, chars=[1, 0, 2], logprobs=[-0.004, -1e9, float("nan")]
    )
    trace.new_segment("0", 0, ()).pieces.append(piece)
    data = trace_data(trace)
    assert data["tokens"]["chars"] == [1, 0, 3]
    assert data["tokens"]["surprise"] == [0, 9900, -1]


@pytest.mark.parametrize("name", ["apr", "multiverse", "samples"])
def test_steps_of_old_traces_follow_from_the_views(name):
    """Format 1 has no steps; what the views say is what the jobs' clocks said."""
    trace = sample(name)
    recorded = trace_data(trace)
    for record in [*trace.branches.values(), *(piece for s in trace.segments for piece in s.pieces)]:
        record.step = None
    trace.joins = [type(join)(**{**join_fields(join), "step": None}) for join in trace.joins]
    derived = trace_data(trace)
    assert derived["pieces"]["step"] == recorded["pieces"]["step"]
    assert [b["begin"] for b in derived["branches"]] == [b["begin"] for b in recorded["branches"]]
    assert [join["at"] for join in derived["joins"]] == [join["at"] for join in recorded["joins"]]


def join_fields(join):
    return {name: getattr(join, name) for name in ("branch", "children", "found", "segment", "step", "time")}


def test_nothing_happens_before_what_it_follows(trace):
    data = trace_data(trace)
    branches = data["branches"]
    for branch in branches:
        assert branch["begin"][0] <= branch["end"][0]
        if branch["parent"] is not None:
            parent = branches[branch["parent"]]
            assert parent["begin"][0] <= branch["begin"][0] and parent["begin"][1] <= branch["begin"][1]
    for number in range(len(branches)):
        own = [row for row in rows(data) if row["branch"] == number]
        for before, after in pairwise(own):
            taken = before["count"] if before["kind"] != 0 else 0
            assert before["step"] + taken <= after["step"] and before["ended"] <= after["began"]
    for join in data["joins"]:
        for child in join["children"]:
            assert branches[child]["end"][0] <= join["at"][0]


def test_live_views_are_stretches():
    data = trace_data(sample("hogwild"))
    names = [branch["label"] for branch in data["branches"]]
    watches = {(names[w["branch"]], names[w["watched"]]): w for w in data["watches"]}
    assert set(watches) == {("A", "B"), ("B", "A")}
    for (name, _), watch in watches.items():
        own = [row for row in rows(data) if names[row["branch"]] == name]
        assert watch["begin"] == [own[0]["step"], own[0]["began"]]
        assert watch["end"] == [own[-1]["step"] + own[-1]["count"], own[-1]["ended"]]
    assert trace_data(sample("apr"))["watches"] == []


def test_tools_and_states():
    trace = sample("repair")
    data = trace_data(trace)
    names = [branch["label"] for branch in data["branches"]]
    assert [branch["model"] for branch in data["branches"] if branch["label"] == "relevance"] == ["ranker"]
    assert {branch["model"] for branch in data["branches"] if branch["label"] != "relevance"} == {None}
    assert len(data["tools"]) == len(trace.tools) and len(data["states"]) == len(trace.states)
    outcomes = {tool["outcome"] for tool in data["tools"]}
    assert outcomes == {"ok", "failed", "interrupted"}
    for tool in data["tools"]:
        step, began = tool["begin"]
        assert tool["end"][0] == step and began < tool["end"][1]
        own = [row for row in rows(data) if row["branch"] == tool["branch"]]
        # The branch waits: before its tools are done it writes nothing, however they ended.
        assert all(row["ended"] <= began or row["began"] >= tool["end"][1] for row in own)
        assert all(row["step"] + row["count"] * (row["kind"] != 0) <= step for row in own if row["ended"] <= began)
    arguments = dict(data["tools"][0]["arguments"])
    assert arguments["on"] == "original" and arguments["number"] == "0" and "Blueprint" in arguments["script"]
    trunk = [state["state"] for state in data["states"] if names[state["branch"]] == "repository"]
    assert trunk == ["relevance", "test_and_edit", "cross_execution", "selection", "done"]
    times = [state["at"] for state in data["states"] if names[state["branch"]] == "edit 0"]
    assert times == sorted(times)


def test_where_an_interrupted_tool_ends():
    """Nobody noted it: before the branch's next text, before it was closed, or with the record."""
    trace = Trace()
    trace.branches["0"] = BranchRecord(id="0", parent=None, origin="open", label="", level=0, opened=0.0)
    trace.tools = [
        ToolRecord(branch="0", tool="a", arguments={}, began=1.0, step=0),
        ToolRecord(branch="0", tool="b", arguments={"n": [1, None]}, began=4.0, ended=5.0),
    ]

    def ends():
        return [(tool["outcome"], tool["end"]) for tool in trace_data(trace)["tools"]]

    assert ends() == [("interrupted", [0, 5.0]), ("failed", [0, 5.0])]
    trace.branches["0"].closed = 3.0
    assert ends()[0] == ("interrupted", [0, 3.0])
    piece = Piece(kind="injected", token_ids=[1], text="x", began=2.0, ended=2.5, step=0)
    trace.new_segment("0", 0, ()).pieces.append(piece)
    assert ends()[0] == ("interrupted", [0, 2.0])
    assert trace_data(trace)["tools"][1]["arguments"] == [["n", "[1, null]"]]


async def test_attached_contexts_have_their_time():
    """Else no trace with them could be drawn by the clock."""
    engine = ScriptedEngine("abc", capabilities=Capabilities(parallel_contexts=True))
    async with context(engine) as ctx:
        ctx.open(ctx.tokenizer.encode("q")).attach_contexts([[7, 8], [9]])
        data = trace_data(ctx.state.trace)
    assert [row["count"] for row in rows(data)] == [2, 2, 1]
    assert all(row["began"] is not None and row["began"] == row["ended"] for row in rows(data))


def test_pruned_branches_and_joins():
    trace = sample("tree_search")
    data = trace_data(trace)
    first = [(b["pruned"], b["scores"]) for b in data["branches"] if b["parent"] == 0]
    assert first == [(None, [0.9]), (None, [0.6]), ("beam: no continuation", [0.1]), ("beam: no continuation", [0.1])]
    assert [b["pruned"] for b in data["branches"]] == [record.pruned for record in trace.branches.values()]
    merges = trace_data(sample("multiverse"))["joins"]
    assert [join["merge"] for join in merges] == [True, True]
    (join,) = trace_data(sample("apr"))["joins"]
    assert not join["merge"] and len(join["children"]) == 2 and len(join["found"]) == 1


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(OPERATIONS)
async def test_kept_tokens_are_those_the_branch_still_sees(operations):
    async with context(Attaching(lambda _: "abcdefghij")) as ctx:
        branches = await play(ctx, operations)
        for branch in branches:
            branch.extend([1])  # A rewind is in the record once something is written behind it.
        trace = ctx.state.trace
        data = rows(trace_data(trace))
        for number, branch in enumerate(trace.branches.values()):
            live = next(b for b in branches if b.id == branch.id)
            kept = {
                (row["segment"], row["position"] + i)
                for row in data
                if row["branch"] == number
                for i in range(row["kept"])
            }
            seen = {
                (span.segment, trace.segments[span.segment].position + i)
                for span in live._segments.view()
                if trace.segments[span.segment].branch == branch.id
                for i in range(span.length if span.length is not None else len(trace.segments[span.segment]))
            }
            assert kept == seen


def test_a_token_costs_few_bytes():
    trace = large(num_branches=50, num_tokens=20_000)
    assert len(json.dumps(trace_data(trace), separators=(",", ":"))) < 16 * 20_000
