"""Trace files with any value changed: refused on reading, or shown and exported without a complaint."""

from __future__ import annotations

import copy
import gzip
import io
import json
import logging
import math
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from plait import InvalidInput, Runtime, ScriptedEngine, Sequential, Trace
from plait.runtime.cli.main import main
from plait.runtime.trace import reader, viewer
from plait.runtime.trace.perfetto import perfetto
from plait.runtime.trace.tree import show
from plait.tests.runtime.trace.viewer.samples import sample

FULL = Path("/dev/full")
NAMES = ("apr", "tree_search", "hogwild", "repair")
WRONG: tuple[Any, ...] = (
    None, True, -2, -1, 0, 1, 5, 10**30, -0.0, 0.5, 2.7, 5e-324, 1e308, math.nan, math.inf, -math.inf,
    "", "0", "a", "\0", "\u2028", "\ud800", "<b>", [], [0], [[]], [None], [2**63, -1], {}, {"a": 1},
)  # fmt: skip


@pytest.fixture(scope="module")
def recorded():
    found = {name: list(json.loads(json.dumps(list(sample(name).lines())))) for name in NAMES}
    for lines in found.values():
        if lines[-1]["type"] == "end":
            lines[-1]["usage"] = {
                **dict.fromkeys(("prompt_tokens", "generated_tokens", "injected_tokens", "total_tokens"), 9),
                **{"critical_tokens": 5, "peak_kv_blocks": 2, "seconds": 0.5, "phases": {"a": 0.5}, "counts": {"b": 1}},
            }
    assert any("usage" in lines[-1] for lines in found.values())
    return found


def look_at(trace):
    """All that can be done with a trace."""
    page = viewer.render(trace)
    embedded = page.partition('id="data">')[2].partition("</script>")[0]
    json.loads(embedded, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    json.dumps(perfetto(trace), allow_nan=False).encode()
    show(trace, Console(file=io.StringIO(), width=100))
    trace.for_training()


def places(value, found=()):
    """Every place in a JSON value."""
    if found:
        yield found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*found, key))


def put(lines, place, value):
    *way, last = place
    for key in way:
        lines = lines[key]
    lines[last] = value


@pytest.mark.parametrize("seed", range(120))
def test_a_changed_value(recorded, seed):
    rng = random.Random(seed)
    lines = copy.deepcopy(recorded[rng.choice(NAMES)])
    number = rng.randrange(len(lines))
    put(lines, (number, *rng.choice(list(places(lines[number])))), rng.choice(WRONG))
    try:
        trace = Trace.parse("\n".join(map(json.dumps, lines)).encode())
    except InvalidInput as error:
        str(error).encode()
        return
    look_at(trace)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("total_tokens", []),
            ("seconds", "x"),
            ("seconds", None),
            ("critical_tokens", 1.5),
            ("critical_tokens", None),
        ),
        *(("prompt_tokens", "5"), ("generated_tokens", None), ("injected_tokens", {}), ("peak_kv_blocks", "2")),
        *(("phases", {"a": None}), ("phases", [1]), ("counts", {"a": []}), ("counts", None)),
    ],
)
def test_usage_that_is_no_number(recorded, name, value):
    lines = copy.deepcopy(next(lines for lines in recorded.values() if "usage" in lines[-1]))
    lines[-1]["usage"][name] = value
    with pytest.raises(InvalidInput, match=f"usage.{name}"):
        Trace.parse("\n".join(map(json.dumps, lines)).encode())
    del lines[-1]["usage"][name]
    show(Trace.parse("\n".join(map(json.dumps, lines)).encode()), Console(file=io.StringIO(), width=100))


@pytest.mark.parametrize("value", [1e308, -1e13, math.nan])
def test_times_that_cannot_be(recorded, value):
    lines = copy.deepcopy(recorded["apr"])
    number = next(i for i, line in enumerate(lines) if line["type"] == "branch")
    lines[number]["opened"] = value
    with pytest.raises(InvalidInput, match=f":{number + 1}: opened: .* no time"):
        Trace.parse("\n".join(map(json.dumps, lines)).encode())


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e400])
def test_numbers_that_json_has_not(value):
    trace = Trace({"model": "m", "settings": {"metadata": {"a": [value]}}})
    assert "NaN" not in viewer.page.embed(viewer.trace_data(trace)) and "Infinity" not in viewer.page.embed([value])


def test_an_export_is_json_whatever_the_trace_holds(recorded, tmp_path):
    lines = copy.deepcopy(recorded["tree_search"])
    next(line for line in lines if line["type"] == "branch")["scores"] = [math.nan, math.inf]
    file, out = tmp_path / "trace.jsonl", tmp_path / "out.json"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert main(["trace", "export", "--perfetto", str(file), str(out)]) == 0
    json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("parent", [None, "own", "child"])
def test_a_branch_that_is_there_twice(recorded, parent):
    lines = copy.deepcopy(recorded["apr"])
    first, child = [line for line in lines if line["type"] == "branch"][:2]
    again = {**first, "parent": {None: None, "own": first["id"], "child": child["id"]}[parent]}
    lines.insert(len(lines) - 1, again)
    with pytest.raises(InvalidInput, match=f":{len(lines) - 1}: branch {first['id']} is there already"):
        Trace.parse("\n".join(map(json.dumps, lines)).encode())


def test_nothing_stands_behind_the_end(recorded):
    lines = next(lines for lines in recorded.values() if lines[-1]["type"] == "end")
    for line in (lines[-1], {**lines[1], "id": "more"}):
        with pytest.raises(InvalidInput, match=f":{len(lines) + 1}: a {line['type']} record behind the end"):
            Trace.parse("\n".join(map(json.dumps, [*lines, line])).encode())


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_trace_through_a_pipe(recorded, tmp_path, pack):
    pipe, data = tmp_path / "pipe", pack("\n".join(map(json.dumps, recorded["apr"])).encode())
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    try:
        assert list(Trace.load(pipe).lines()) == list(
            Trace.parse("\n".join(map(json.dumps, recorded["apr"])).encode()).lines()
        )
    finally:
        writer.join()


def test_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_BYTES", 1 << 20)
    file = tmp_path / "trace.jsonl.gz"
    file.write_bytes(gzip.compress(b" " * (64 << 20)))
    assert file.stat().st_size < 1 << 20
    with pytest.raises(InvalidInput, match="MiB"):
        Trace.load(file)
    monkeypatch.undo()
    file.write_bytes(b"[" * 100_000)
    with pytest.raises(InvalidInput, match="not a trace record"):
        Trace.load(file)


async def test_a_trace_that_cannot_be_written_is_refused_at_submit(tmp_path):
    (tmp_path / "file").write_text("kept")
    async with Runtime(engine=ScriptedEngine(["a"])) as runtime:
        for path in (tmp_path, tmp_path / "file" / "trace.jsonl", "/proc/none/trace.jsonl"):
            with pytest.raises(InvalidInput, match="cannot write the trace"):
                await runtime.submit(Sequential(prompt="x"), trace_file=path)
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "device").symlink_to("/dev/null")
        for path in ("pipe", "device", "\0", "\ud800", "a" * 5000):
            with pytest.raises(InvalidInput, match="cannot write the trace") as caught:
                await runtime.submit(Sequential(prompt="x"), trace_file=tmp_path / path)
            str(caught.value).encode()
            assert len(str(caught.value)) < 400
            with pytest.raises(InvalidInput, match="cannot write the trace"):
                Trace({"model": "m"}).save(tmp_path / path)
        assert (tmp_path / "pipe").is_fifo() and (tmp_path / "device").is_symlink()
        assert not runtime.jobs
        job = await runtime.submit(Sequential(prompt="x", max_tokens=1), trace_file=tmp_path / "new" / "t.jsonl")
        assert not (tmp_path / "new" / "t.jsonl").exists()
        await job
    assert (tmp_path / "file").read_text() == "kept" and not list(tmp_path.glob(".*"))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["t.jsonl"]


@pytest.mark.skipif(not FULL.exists(), reason="no full device")
async def test_no_result_is_lost_for_a_trace(tmp_path, monkeypatch, caplog):
    """The disk is full when the job ends."""
    file = tmp_path / "trace.jsonl"
    file.write_text("before")

    whole = Path.open

    def full(self, *args, **options):
        return whole(FULL if args == ("wb",) else self, *args, **options)

    async with Runtime(engine=ScriptedEngine(["a"])) as runtime:
        job = await runtime.submit(Sequential(prompt="x", max_tokens=1), trace_file=file)
        monkeypatch.setattr(Path, "open", full)
        with caplog.at_level(logging.WARNING):
            result = await job
    assert result.text and "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "before"
    with pytest.raises(InvalidInput, match="No space left"):
        result.trace.save(file)
