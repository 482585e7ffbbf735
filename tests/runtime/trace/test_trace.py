"""Traces: every sampled token once, views as the engine has them, files that survive anything."""

from __future__ import annotations

import asyncio
import json
import pickle
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait import (
    Capabilities,
    Finish,
    InvalidInput,
    Method,
    Outcome,
    Runtime,
    SamplingParams,
    ScriptedEngine,
    Sequential,
    Trace,
)
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.engines.text_stream import piecewise
from plait.runtime.engines.token_branch import TokenBranch
from plait.runtime.trace.record import FORMAT, Piece
from plait.runtime.trace.sights import sights
from plait.tests.runtime.tools import context, run


class Blind(TokenBranch):
    """May watch, though it sees nothing: the trace records the same."""

    def watch(self, branch, shift=0):
        pass


class Attaching(ScriptedEngine):
    branch_type = Blind

    def __init__(self, script):
        super().__init__(script, capabilities=Capabilities(parallel_contexts=True))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["generate", "extend", "fork", "merge", "rewind", "open", "attach", "watch"]),
        st.integers(0, 5),
        st.integers(0, 9),
    ),
    max_size=14,
)


async def play(ctx, operations):
    """Do random operations; returns the open branches."""
    branches = [ctx.open(ctx.tokenizer.encode("prompt"), label="root")]
    for name, which, amount in operations:
        branch = branches[which % len(branches)]
        if name == "generate":
            await branch.generate(SamplingParams(max_tokens=amount, logprobs=0))
        elif name == "extend":
            branch.extend([100 + amount] * amount)
        elif name == "fork":
            branches += branch.fork(1 + amount % 2)
        elif name == "open":
            branches.append(ctx.open(ctx.tokenizer.encode("o" * amount)))
        elif name == "rewind":
            branch.rewind(branch.length * amount // 9)
        else:
            children = [b for b in branches if b.record.parent == branch.id and b.record.origin == "fork"]
            written = {s.segment for child in children for s in child._segments.view()}
            if not children or any(w in {s.segment for s in branch._segments.view()[1:]} for w in written):
                continue
            if name == "watch":
                branch.watch(children[0])
            elif name == "attach":
                branch.attach(children, temperature=0.5, scale=0.9)
            else:
                branch.merge(children)
    return branches


def tokens_of(trace, spans):
    tokens = []
    for span in spans:
        if span.is_text:
            tokens += trace.segments[span.segment].token_ids[: span.length]
    return tokens


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(OPERATIONS)
async def test_the_trace_knows_what_every_branch_sees(operations):
    async with context(Attaching(lambda _: "abcdefghij")) as ctx:
        branches = await play(ctx, operations)
        trace = ctx.state.trace
        for branch in branches:
            assert tokens_of(trace, branch._segments.view()) == branch.tokens
        rows = trace.for_training()
        sampled = sum(len(p.token_ids) for s in trace.segments for p in s.pieces if p.kind == "sampled")
        assert sum(sum(row.mask) for row in rows) == sampled == ctx.state.usage.generated_tokens
        for row in rows:
            assert len(row.token_ids) == len(row.mask) == len(row.logprobs) == len(row.positions)
            assert all((logprob is not None) == masked for logprob, masked in zip(row.logprobs, row.mask, strict=True))
        with tempfile.TemporaryDirectory() as folder:
            trace.save(f"{folder}/trace")
            loaded = Trace.load(f"{folder}/trace")
        assert (loaded.branches, loaded.segments, loaded.joins) == (trace.branches, trace.segments, trace.joins)
        assert loaded.for_training() == rows


async def recorded(tmp_path, operations):
    async with context(Attaching(lambda _: "abcdefghij")) as ctx:
        await play(ctx, operations)
        trace = ctx.state.trace
        trace.end = {"finish": "eos", "answer": None, "usage": ctx.state.usage.to_json()}
    path = tmp_path / "deep" / "trace.jsonl"
    trace.save(path)
    return trace, path


FULL = [
    ("generate", 0, 5),
    ("fork", 0, 1),
    ("generate", 1, 3),
    ("generate", 2, 4),
    ("merge", 0, 0),
    ("extend", 0, 2),
    ("generate", 0, 3),
    ("rewind", 0, 5),
    ("generate", 0, 2),
]


async def test_round_trip(tmp_path):
    trace, path = await recorded(tmp_path, FULL)
    loaded = Trace.load(path)
    assert json.dumps(list(loaded.lines())) == json.dumps(list(trace.lines()))
    assert loaded.for_training() == trace.for_training()
    assert loaded.segments == trace.segments and loaded.joins == trace.joins


async def test_results_can_be_pickled_whatever_the_tokenizer_is():
    tokenizer = CharTokenizer()
    tokenizer.bound = lambda: tokenizer  # no pickle takes this
    engine = ScriptedEngine(lambda _: "abcdefghij", tokenizer=tokenizer)
    result, _ = await run(Sequential(prompt="p", max_tokens=7), None, engine=engine)
    read = pickle.loads(pickle.dumps(result))
    assert read.to_json() == result.to_json()
    assert list(read.trace.lines()) == list(result.trace.lines())
    assert read.trace.segments == result.trace.segments and read.trace.segments[-1].pieces[-1].chars


async def test_texts_may_hold_what_ends_lines_elsewhere(tmp_path):
    """A tool that writes JSON anew may leave such characters as they are."""
    async with context(ScriptedEngine(["a\u2028b\x85c\u2029d"])) as ctx:
        await ctx.open(ctx.tokenizer.encode("p\u2028")).generate(SamplingParams())
        trace = ctx.state.trace
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in trace.lines()), newline="")
    assert list(Trace.load(path).lines()) == list(trace.lines())


TEXTS = st.text() | st.sampled_from(["\ud800", "\ud83d\ude00", "\U0001f600", "a\udfff"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from([2**64, -(10**400)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just(2**64), inner, max_size=3),
    max_leaves=8,
)


def nested(value, depth):
    for _ in range(depth):
        value = [value]
    return value


class Told(Method):
    """Says what it is given wherever a method can say something."""

    method: Literal["test_told"] = "test_told"
    said: ClassVar[tuple[Any, str, bool]]

    def settings(self, engine):
        return {"told": self.said[0]}

    async def run(self, ctx):
        value, text, is_failed = self.said
        branch = ctx.open(ctx.tokenizer.encode(text), label=text)
        branch.enter(text)
        with branch.tool(text, value=value) as call:
            call.output = text
        with suppress(ValueError), branch.tool("broken"):
            raise ValueError(text)
        branch.record.error = text
        if is_failed:
            raise ValueError(text)
        return Outcome(text=text, answer=text, finish=Finish.EOS, details={text: text})


@given(VALUES, st.sampled_from([0, 0, 100]), TEXTS, st.booleans())
def test_whatever_a_method_says_its_trace_loads_again(value, depth, text, is_failed):
    async def end(path):
        async with Runtime(engine=ScriptedEngine(["x"])) as runtime:
            job = await runtime.submit(Told(), trace_file=path)
            await job.wait()
        assert Trace.load(path).end["finish"] == job.trace.end["finish"] == ("failed" if is_failed else "eos")
        assert json.dumps(list(Trace.load(path).lines())) == json.dumps(list(job.trace.lines()))

    Told.said = nested(value, depth), text, is_failed
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(end(Path(folder, "trace.jsonl")))


async def test_rewound_text_is_its_own_row_and_positions_follow_merges(tmp_path):
    trace, _ = await recorded(tmp_path, FULL)
    rows = {row.segment: row for row in trace.for_training()}
    assert [row.branch for row in rows.values()] == ["0", "0.0", "0.1", "0", "0"]
    merged = rows[3]
    assert merged.token_ids[12:19] == rows[1].token_ids[12:] + rows[2].token_ids[12:]
    assert merged.positions[12:19] == [12, 13, 14, 12, 13, 14, 15]
    assert merged.positions[19:] == [16, 17, 18, 19, 20] and not merged.is_causal
    assert merged.mask == [False] * 21 + [True] * 3
    rewound = rows[4]
    assert len(rewound.token_ids) == 24 * 5 // 9 + 2 and rows[1].is_causal
    assert trace.joins[0].children == ("0.0", "0.1") and trace.joins[0].segment is None
    assert trace.text_of("0").count("prompt") == 1
    assert [child.id for child in trace.children_of("0")] == ["0.0", "0.1"]


async def test_files_of_format_1_still_load(tmp_path):
    trace, path = await recorded(tmp_path, FULL)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["format"] = 1
    for line in lines[1:]:
        for record in [line, *line.get("pieces", [])]:
            for name in ("step", "opened", "closed", "began", "ended", "chars", "time"):
                record.pop(name, None)
    path.write_text("\n".join(map(json.dumps, lines)))
    old = Trace.load(path)
    assert old.header["format"] == FORMAT and old.for_training() == trace.for_training()
    assert old.segments[0].pieces[0].step is old.branches["0"].opened is old.joins[0].time is None
    old.save(path)
    assert Trace.load(path).segments == old.segments


async def test_groups_in_a_row_that_are_alike_stay_apart(tmp_path):
    """Also where each is put behind the other in an arranged view; in format 2 they could not be told apart."""
    async with context(Attaching(lambda _: "abc")) as ctx:
        root, reader = ctx.open([40, 41]), ctx.open([])
        for length in (3, 2):
            documents = root.fork(2)
            for document in documents:
                document.extend(range(50, 50 + length))
            root.attach(documents, temperature=0.9, scale=0.9)
        root.extend([60])
        trace = ctx.state.trace
        own = trace.segments_of(root.id)[-1]
        assert [span.group and span.group.id for span in own.view] == [None, 0, 0, 1, 1]
        packed = trace.new_segment(reader.id, 20, own.view, is_packed=True)
        packed.pieces.append(Piece(kind="prompt", token_ids=[1], text="x"))
        (seen,) = sights(trace, packed)
        begins = [trace.segments[sight.segment].position + sight.shift for sight in seen]
        assert begins == [20 - 2 - 3 - 2, 15, 15, 18, 18]
    trace.save(tmp_path / "t.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert Trace.load(tmp_path / "t.jsonl").segments == trace.segments
    lines[0]["format"] = 2
    for line in lines:
        for span in line.get("view", []):
            span["group"] = span["group"] and span["group"][1:3]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    groups = {span.group for segment in Trace.load(tmp_path / "t.jsonl").segments for span in segment.view}
    assert groups == {None, (0, 0.9, 0.9, 0.0)}


async def test_times_and_steps(tmp_path):
    trace, _ = await recorded(tmp_path, FULL)
    pieces = [(s.branch, p) for s in trace.segments for p in s.pieces]
    assert [(branch, p.kind, p.step) for branch, p in pieces] == [
        ("0", "prompt", 0),
        ("0", "sampled", 0),
        ("0.0", "sampled", 5),
        ("0.1", "sampled", 8),
        ("0", "injected", 12),
        ("0", "sampled", 14),
        ("0", "sampled", 17),
    ]
    times = [time for _, p in pieces for time in (p.began, p.ended)]
    assert times == sorted(times) and times[0] >= trace.branches["0"].opened
    assert trace.joins[0].step == 12 and pieces[3][1].ended <= trace.joins[0].time <= pieces[4][1].began
    children = [trace.branches[name] for name in ("0.0", "0.1")]
    assert [child.step for child in children] == [5, 5]
    assert all(pieces[1][1].ended <= child.opened <= trace.joins[0].time for child in children)


@pytest.mark.parametrize("text", ["plain", "gr\u00fc\u00dfe \U0001f9f5 \u4e2d\u6587", ""])
def test_every_token_has_its_characters(text):
    """Of a tokenizer whose tokens are bytes: a character belongs to the token that completes it."""

    class Bytes(CharTokenizer):
        def decode(self, token_ids):
            return bytes(token_ids).decode("utf-8", errors="replace")

    encoded = text.encode()
    assert piecewise(Bytes(), [*encoded], text) == [len(char) * last for char in text for last in _last_byte(char)]
    cut = [*encoded, 0xF0, 0x9F]
    whole = Bytes().decode(cut)
    chars = piecewise(Bytes(), cut, whole)
    assert len(chars) == len(cut) and sum(chars) == len(whole) and whole.startswith(text)


def _last_byte(char):
    return [0] * (len(char.encode()) - 1) + [1]


async def test_an_unfinished_trace_is_a_valid_file(tmp_path):
    _, path = await recorded(tmp_path, FULL)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    assert Trace.load(path).end is None


BROKEN = {
    "empty": lambda lines: [],
    "no header": lambda lines: lines[1:],
    "another format": lambda lines: [{**lines[0], "format": 99}, *lines[1:]],
    "cut off": lambda lines: [*lines[:-1], '{"type": "segm'],
    "not an object": lambda lines: [*lines, [1]],
    "no type": lambda lines: [*lines, {"a": 1}],
    "unknown type": lambda lines: [*lines, {"type": "surprise"}],
    "unknown parent": lambda lines: [{**line, "parent": "9"} if line.get("id") == "0.0" else line for line in lines],
    "segment missing": lambda lines: [line for line in lines if line.get("id") != 0],
    "branch missing": lambda lines: [line for line in lines if line.get("id") != "0.1"],
    "span too long": lambda lines: [
        {**line, "view": [{**span, "length": 999} for span in line["view"]]} if line["type"] == "segment" else line
        for line in lines
    ],
    "logprobs too short": lambda lines: [
        {**line, "pieces": [{**piece, "logprobs": [0.0]} for piece in line["pieces"]]}
        if line["type"] == "segment"
        else line
        for line in lines
    ],
    "characters that do not fit": lambda lines: [
        {**line, "pieces": [{**piece, "chars": [1]} for piece in line["pieces"]]} if line["type"] == "segment" else line
        for line in lines
    ],
    "unknown kind": lambda lines: [
        {**line, "pieces": [{**piece, "kind": "dreamt"} for piece in line["pieces"]]}
        if line["type"] == "segment"
        else line
        for line in lines
    ],
    "join of nobody": lambda lines: [{**line, "children": ["7"]} if line["type"] == "join" else line for line in lines],
}


@pytest.mark.parametrize("how", BROKEN)
async def test_broken_files_are_refused_with_their_line(tmp_path, how):
    _, path = await recorded(tmp_path, FULL)
    lines = BROKEN[how]([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    with pytest.raises(InvalidInput, match="trace.jsonl"):
        Trace.load(path)


async def test_compressed_files(tmp_path):
    async with context(ScriptedEngine(lambda _: "abc" * 40)) as ctx:
        await ctx.open(ctx.tokenizer.encode("p")).generate(SamplingParams())
        trace = ctx.state.trace
    for name in ("a.jsonl.gz", "b.jsonl.gz", "plain.jsonl"):
        trace.save(tmp_path / name)
        assert list(Trace.load(tmp_path / name).lines()) == list(trace.lines())
    data = (tmp_path / "a.jsonl.gz").read_bytes()
    assert data == (tmp_path / "b.jsonl.gz").read_bytes()
    assert len(data) < (tmp_path / "plain.jsonl").stat().st_size / 2
    for damaged in (data[:-9], data[:40] + b"x" + data[41:]):
        (tmp_path / "damaged.gz").write_bytes(damaged)
        with pytest.raises(InvalidInput, match="damaged"):
            Trace.load(tmp_path / "damaged.gz")


def test_no_file_and_binary_files(tmp_path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for name in ("none", "binary"):
        with pytest.raises(InvalidInput):
            Trace.load(tmp_path / name)


async def test_live_and_attached_spans_are_recorded():
    async with context(Attaching(lambda _: "abc")) as ctx:
        root = ctx.open(ctx.tokenizer.encode("p"))
        seen, document = root.fork(2)
        document.extend([50, 51])
        root.watch(seen, shift=4)
        root.attach([document], temperature=0.2, scale=0.8)
        root.extend([60])
        await seen.generate(SamplingParams(max_tokens=2))
        own, live, attached, _ = root._segments.view()
        assert (own.length, live.length, live.shift) == (2, None, 4)
        assert attached.group == (0, 0.2, 0.8, 0.0)
        assert ctx.state.trace.segments[live.segment].branch == seen.id
        root.rewind(1)
        assert [span.length for span in root._segments.view()] == [1]
        row = ctx.state.trace.for_training()[0]
        assert row.branch == seen.id and row.is_causal
