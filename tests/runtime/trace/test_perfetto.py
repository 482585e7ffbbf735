"""The export is what the Trace Event Format asks for."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest

from plait.runtime.cli.main import main
from plait.runtime.trace.perfetto import perfetto
from plait.tests.runtime.trace.viewer.samples import SAMPLES, large, sample


def check(data):
    """The rules of the format that a reader relies on; returns the slices of each thread, outer ones first."""
    json.dumps(data, allow_nan=False)
    slices, flows = defaultdict(list), defaultdict(dict)
    for event in data["traceEvents"]:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index") and event["args"]
            continue
        assert event["ts"] >= 0 and event["name"] and event["cat"]
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "i":
            assert event["s"] == "t"
        else:
            assert event["ph"] in ("s", "f") and event["ph"] not in flows[event["id"]]
            assert event["ph"] == "s" or event["bp"] == "e"
            flows[event["id"]][event["ph"]] = event
    for spans in slices.values():
        spans.sort(key=lambda span: (span[0], -span[1]))
        outer: list[float] = []
        for begin, end in spans:
            while outer and outer[-1] <= begin:
                outer.pop()
            # Slices of a thread lie inside one another or apart.
            assert not outer or end <= outer[-1] + 0.01
            outer.append(end)
    for ends in flows.values():
        assert ends["s"]["name"] == ends["f"]["name"] and ends["s"]["ts"] <= ends["f"]["ts"]
        for event in ends.values():
            assert any(begin <= event["ts"] <= end for begin, end in slices[event["tid"]])
    return slices


def count(data):
    return Counter(event["name"] for event in data["traceEvents"] if event["ph"] == "s")


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(name):
    trace = sample(name)
    data = perfetto(trace)
    slices = check(data)
    pieces = sum(len(segment.pieces) for segment in trace.segments)
    assert sum(map(len, slices.values())) == pieces + len(trace.branches) + len(trace.tools)
    instants = [event["name"] for event in data["traceEvents"] if event["ph"] == "i" and event["cat"] == "state"]
    assert instants == [state.state for state in trace.states]
    children = Counter({"open": "spawn", "fork": "fork"}[b.origin] for b in trace.branches.values() if b.parent)
    for join in trace.joins:
        children["merge" if join.segment is None else "join"] += len(join.found)
    assert count(data) == children


def test_tools_that_ran_at_once_lie_on_threads_of_their_own():
    trace = sample("repair")
    data = perfetto(trace)
    threads = {event["tid"]: event["args"]["name"] for event in data["traceEvents"] if event["name"] == "thread_name"}
    tools = [event for event in data["traceEvents"] if event.get("cat") == "tool"]
    assert len(tools) == len(trace.tools)
    for event, record in zip(tools, trace.tools, strict=True):
        label = trace.branches[record.branch].label
        assert threads[event["tid"]] in (f"{label} ({record.branch})", f"{label}: tools")
        assert event["args"] == {"outcome": record.outcome, "arguments": record.arguments, "output": record.output}
        if record.ended is not None:
            assert event["dur"] == pytest.approx((record.ended - record.began) * 1e6, abs=1)
    crossed = [event["tid"] for event in tools if "repository" in threads[event["tid"]]]
    assert len(set(crossed)) == len(crossed) == 6, "all six began before any had ended"
    (model,) = {e["args"]["model"] for e in data["traceEvents"] if e.get("cat") == "branch" and "model" in e["args"]}
    assert model == "ranker"


def test_without_times_a_step_is_a_millisecond():
    trace = large(num_branches=20, num_tokens=2000)
    for record in trace.branches.values():
        record.opened = record.closed = None
    check(perfetto(trace))
    data = perfetto(trace)
    first = next(event for event in data["traceEvents"] if event["ph"] == "X" and event["name"] == "sampled")
    assert first["ts"] == 0 and first["dur"] == 100_000
    assert data["otherData"]["time"] == "1000 us per critical-path token"


def test_the_command(tmp_path, capsys):
    sample("apr").save(tmp_path / "trace.jsonl.gz")
    out = tmp_path / "events.json"
    assert main(["trace", "export", "--perfetto", str(tmp_path / "trace.jsonl.gz"), str(out)]) == 0
    check(json.loads(out.read_text()))
    assert main(["trace", "export", "--perfetto", str(tmp_path / "trace.jsonl.gz"), str(tmp_path / "no" / "x")]) == 1
    assert capsys.readouterr().err.startswith("plait: cannot write ")
