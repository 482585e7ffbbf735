"""Traced branches: how much they take, what they are told of gangs, and what they leave to others to compute."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from plait import InvalidInput, SamplingParams, ScriptedEngine
from plait.runtime.engine import Capabilities
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.jobs.context import ParallelContexts
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.tools import context

MODEL = load_model(tiny()[1])


def native() -> NativeEngine:
    return NativeEngine(MODEL, IdTokenizer(MODEL.vocab_size), NativeOptions(kv_tokens=1024))


@pytest.mark.parametrize(
    ("limits", "room"),
    [({}, 17), ({"total_tokens": 9}, 9), ({"critical_tokens": 5}, 5), ({"total_tokens": 5, "critical_tokens": 9}, 5)],
)
async def test_room_is_what_window_and_ledgers_leave(limits, room):
    async with context(ScriptedEngine(["x"], context_limit=20), **limits) as ctx:
        branch = ctx.open([4, 4, 4])
        assert branch.room == room
        branch.extend([5] * 2)
        assert branch.room == room - 2
        branch.extend([5] * branch.room)
        assert branch.room == 0


async def test_text_behind_contexts_is_the_branchs_own():
    engine = ScriptedEngine(["x"], capabilities=Capabilities(parallel_contexts=True))
    async with context(engine) as ctx:
        around = ParallelContexts(at=2, texts=((7, 7, 7), (8,)), temperature=1.0, scale=1.0)
        branch = ctx.open([4, 5, 6, 9], contexts=around)
        assert branch.tokens == [4, 5, 6, 9] and branch.position == 4 + 3
        assert ctx.state.usage.prompt_tokens == 4 + 4


@pytest.mark.parametrize(("n", "labels"), [(1, ("a", "b")), (2, ["a", None]), (2, [1]), (0, ()), ("2", ("a",))])
async def test_labels_that_do_not_fit_fork_nothing(n, labels):
    async with context(ScriptedEngine(["x"])) as ctx:
        branch = ctx.open([4])
        with pytest.raises(InvalidInput, match="labels must be|cannot fork"):
            branch.fork(n, labels)
        assert list(ctx.state.branches) == [branch.id] and len(ctx.engine.branches) == 1
        assert [child.record.label for child in branch.fork(3, ("a", "b"))] == ["a", "b", ""]


@pytest.mark.parametrize("dropped", [0, 1, 3])
async def test_what_is_frozen_before_it_is_computed_is_waited_for_without_what_was_dropped(dropped):
    """Else nobody would ever have computed all of it."""
    async with context(native()) as ctx:
        seen, branch = ctx.open([1, 2]), ctx.open([3])
        branch.watch(seen)
        branch.extend([4, 5, 6, 7])
        branch.rewind(branch.length - dropped)
        branch.fork(1)
        ((_, length, block),) = ctx.state.late[-1:]
        assert length == 4 - dropped and block.computed == 0


async def test_what_a_branch_does_is_told_and_recorded():
    script = ScriptedEngine(lambda context: "out", capabilities=Capabilities(kv_merge=True, parallel_contexts=True))
    async with context(script) as ctx:
        reader = ctx.state.hub.subscribe()
        around = ParallelContexts(at=1, texts=((7, 7), (8,)), temperature=1.0, scale=1.0)
        root = ctx.open([4, 5], label="root", contexts=around)
        left, right = root.fork(2, ["left"])
        await left.generate(SamplingParams())
        root.join(ctx.tokenizer.encode_continuation([], "ab"), {left.id: True, right.id: False})
        root.merge([left])
        right.prune("too dear")
        told = [(e.type, *list(asdict(e).values())[2:]) for e in iter(reader.get_nowait, None)]
    assert told == [
        ("branch_started", "0", None, "root", 2 + 3),
        ("branch_started", "0.0", "0", "left", 0),
        ("branch_started", "0.1", "0", "", 0),
        ("forked", "0", ("0.0", "0.1")),
        ("text", "0.0", "out", 3),
        ("stopped", "0.0", "eos", 4),
        ("budget", 4, 4),
        ("joined", "0", ("0.0", "0.1"), ("0.0",), "ab"),
        ("merged", "0", ("0.0",)),
        ("pruned", "0.1", "too dear"),
    ]
    trace = ctx.state.trace
    joined, merged = trace.joins
    assert (joined.branch, joined.children, joined.found) == ("0", ("0.0", "0.1"), ("0.0",))
    assert [piece.text for piece in trace.segments[joined.segment].pieces][-1] == "ab"
    assert (merged.children, merged.found, merged.segment) == (("0.0",), ("0.0",), None)
    assert trace.branches["0.1"].pruned == "too dear" and trace.branches["0.1"].closed is not None


@pytest.mark.parametrize("is_read", [True, False])
async def test_what_late_tokens_saw_is_noted_once_they_are_computed_or_nobody_will(is_read):
    engine = native()
    await engine.start()
    async with context(engine) as ctx:
        seen, branch = ctx.open([1, 2]), ctx.open([3])
        await seen.generate(SamplingParams(max_tokens=0))
        branch.watch(seen)
        branch.extend([4, 5])
        (child,) = branch.fork(1)
        ((segment, length, block),) = ctx.state.late
        ctx.state.note_late()
        assert (length, segment.seen, len(ctx.state.late)) == (2, {}, 1)
        if is_read:
            await child.generate(SamplingParams(max_tokens=1))
            assert block.computed == 2 and list(segment.seen.values()) == [[2, 2]]
        ctx.state.finish()
        assert not ctx.state.late
        assert list(segment.seen.values()) == ([[2, 2]] if is_read else [])


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_blocks_outlive_their_part_and_are_freed_with_the_job_at_the_latest(is_sealed):
    engine = native()
    await engine.start()
    async with context(engine) as ctx:

        async def write(part, token):
            branch = part.open()
            branch.extend([token, token])
            await branch.generate(SamplingParams(max_tokens=0))
            return branch.seal() if is_sealed else branch.block()

        kept, closed = await ctx.parallel(write, [4, 5])
        closed.close()
        assert ctx.state.blocks == {kept}
        ctx.open().arrange([kept])
        ctx.state.finish()
        assert not ctx.state.blocks and engine.block_usage().used == 0


@pytest.mark.parametrize(
    ("end", "is_empty"),
    [
        (lambda ctx, branch: branch.fork(1), False),
        (lambda ctx, branch: branch.seek(branch.position + 5), False),
        (lambda ctx, branch: branch.rewind(branch.length - 1), False),
        (lambda ctx, branch: branch.merge([]), False),
        (lambda ctx, branch: branch.attach([]), False),
        (lambda ctx, branch: branch.attach_contexts([[7]]), False),
        (lambda ctx, branch: branch.watch(ctx.open([4])), False),
        (lambda ctx, branch: ctx.root.merge([branch]), False),
        (lambda ctx, branch: branch.seal(), False),
        (lambda ctx, branch: branch.fork(1), True),
        (lambda ctx, branch: branch.seek(branch.position + 5), True),
    ],
)
async def test_a_handle_grows_until_what_is_being_written_ends(end, is_empty):
    async with context(native()) as ctx:
        ctx.root = ctx.open([1, 2])
        (branch,) = ctx.root.fork(1)
        block = branch.block()
        branch.extend([] if is_empty else [4, 5, 6])
        end(ctx, branch)
        ended = block.tokens
        branch.extend([8, 9])
        assert block.tokens == ([8, 9] if is_empty else ended)
        segments = ctx.state.trace.segments
        told = [token for span in block.spans for token in segments[span.segment].token_ids[: span.length]]
        assert told[: len(block.tokens)] == block.tokens and len(told) == (2 if is_empty else 3)
        assert branch.seal().tokens[-2:] == [8, 9]
