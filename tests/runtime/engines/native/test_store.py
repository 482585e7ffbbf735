"""Blocks, the swap space and the prefix index, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait.runtime.engines.native.lineage import lineage_of
from plait.runtime.engines.native.pool import KVPool
from plait.runtime.engines.native.segment import ROOT, Segment, Span
from plait.runtime.engines.native.store import KVStore
from plait.runtime.engines.native.swap import SwapSpace
from plait.tests.runtime.engines.native.test_pressure import MODEL

SIZE = 16


class Memory:
    """A pool with something in it, its swap space and its store."""

    def __init__(self, blocks: int = 8, swap: int = 16) -> None:
        self.pool = KVPool(MODEL.config, blocks, SIZE, MODEL.dtype, MODEL.device)
        self.swap = SwapSpace(self.pool, swap)
        self.store = KVStore(blocks, SIZE, self.swap)
        self.scribble(0)

    def scribble(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        for tensor in (*self.pool.k, *self.pool.v):
            tensor.copy_(torch.randn(tensor.shape, generator=random))

    def segment(self, length: int, computed: int, *, seed: int = 0, job: str | None = "a") -> Segment:
        segment = Segment(0)
        self.store.acquire(segment, job=job)
        segment.tokens = [seed + i for i in range(length)]
        assert self.store.reserve(segment, length)
        self.store.advance(segment, computed)
        return segment

    def context(self, length: int) -> Segment:
        """An encoded one, called `name`."""
        segment = self.segment(length, length)
        segment.name = b"name"
        self.store.named[segment.name] = segment
        return segment

    def content(self, segment: Segment, blocks: int) -> list[torch.Tensor]:
        index = torch.tensor(segment.blocks[:blocks].tolist(), dtype=torch.int64)
        return [tensor[index].clone() for tensor in (*self.pool.k, *self.pool.v)]


def test_what_is_computed_goes_out_and_comes_back_bit_for_bit():
    memory = Memory()
    store, swap = memory.store, memory.swap
    segment = memory.segment(70, 33)
    before = memory.content(segment, 3)
    assert (store.by_job["a"], store.available) == (5, 3)
    assert store.swap_out(segment) == 5  # two of them held nothing yet
    assert (segment.num_swapped, store.num_swapped, len(segment.blocks)) == (3, 1, 0)
    assert (swap.used, swap.moved_out, swap.moved_in) == (3, 3, 0)
    assert (store.by_job["a"], store.available) == (0, 8) and store.holders() == []
    store.check_integrity()
    memory.scribble(1)
    other = memory.segment(16, 16, seed=500)
    assert store.bring_back(segment)
    assert (segment.num_swapped, store.num_swapped, len(segment.blocks)) == (0, 0, 3)
    assert (swap.used, swap.moved_out, swap.moved_in) == (0, 3, 3)
    assert (store.by_job["a"], store.available) == (4, 4) and store.holders() == [other, segment]
    assert all(map(torch.equal, memory.content(segment, 3), before))
    store.check_integrity()


def test_no_more_goes_than_there_is_room_for_on_the_other_side():
    memory = Memory(swap=4)
    store = memory.store
    first, second = memory.segment(33, 33), memory.segment(20, 17, seed=500)
    before = memory.content(second, 2)
    assert store.can_swap and store.swap_out(first) == 3
    assert store.can_swap and store.swap_out(second) == 1
    assert (len(second.blocks), second.num_swapped, memory.swap.used, store.num_swapped) == (1, 1, 4, 2)
    assert memory.swap.moved_out == 4
    assert not store.can_swap and store.swap_out(second) == 0
    third = memory.segment(70, 0, seed=900)
    assert not store.bring_back(first)  # 3 blocks, where 2 are left
    assert (first.num_swapped, memory.swap.used, store.num_swapped, memory.swap.moved_in) == (3, 4, 2, 0)
    assert store.swap_out(third) == 5 and third.num_swapped == 0 and store.num_swapped == 2
    assert store.bring_back(first) and store.bring_back(second) and store.num_swapped == memory.swap.used == 0
    assert all(map(torch.equal, memory.content(second, 2), before))
    store.check_integrity()


@pytest.mark.parametrize(
    ("length", "left"), [(60, 3), (48, 3), (40, 3), (33, 3), (32, 2), (17, 2), (16, 1), (1, 1), (0, 0)]
)
def test_what_is_cut_while_it_is_away(length, left):
    memory = Memory()
    store = memory.store
    segment = memory.segment(70, 40)
    before = memory.content(segment, 3)
    store.swap_out(segment)
    store.truncate(segment, length)
    assert (segment.num_swapped, segment.computed, len(segment.tokens)) == (left, min(40, length), length)
    assert store.num_swapped == bool(left) and (memory.swap.used > 0) == bool(left)
    store.check_integrity()
    memory.scribble(1)
    if left:
        assert store.bring_back(segment)
    assert (memory.swap.used, len(segment.blocks), memory.swap.moved_in) == (0, left, left)
    expected = [tensor[:left] for tensor in before]
    assert all(map(torch.equal, memory.content(segment, left), expected))
    store.check_integrity()


@pytest.mark.parametrize("part", ["load", "reserve"])
def test_what_does_not_come_back_stays_away(part, monkeypatch):
    memory = Memory()
    store = memory.store
    segment = memory.segment(70, 33)
    before = memory.content(segment, 3)
    store.swap_out(segment)
    owner, name = (memory.swap, "load") if part == "load" else (store, "_reserve")

    def broken(*_):
        raise RuntimeError("a device is lost")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        with pytest.raises(RuntimeError, match="lost"):
            store.bring_back(segment)
    assert (segment.num_swapped, store.num_swapped, memory.swap.used) == (3, 1, 3)
    assert (len(segment.blocks), store.usage().used, store.by_job["a"]) == (0, 0, 0)
    store.check_integrity()
    memory.scribble(1)
    assert store.bring_back(segment) and all(map(torch.equal, memory.content(segment, 3), before))
    store.check_integrity()


def test_what_the_host_has_no_memory_for_stays_in_the_pool(monkeypatch, caplog):
    memory = Memory()
    segment = memory.segment(70, 33)
    before = memory.content(segment, 5)
    monkeypatch.setattr(torch.Tensor, "cpu", None)
    assert memory.store.swap_out(segment) == 0 and "no memory for 3 KV blocks" in caplog.text
    assert (segment.num_swapped, memory.store.num_swapped, memory.swap.used) == (0, 0, 0)
    assert all(map(torch.equal, memory.content(segment, 5), before))
    memory.store.check_integrity()


def test_what_nobody_needs_of_a_segment_goes_alone_and_what_is_needed_first_comes_back_alone():
    memory = Memory()
    store = memory.store
    segment = memory.segment(70, 70)
    before = memory.content(segment, 5)
    assert [store.num_idle(segment, reach) for reach in (0, 1, 33, 70, 900)] == [5, 4, 2, 0, 0]
    assert store.swap_out(segment, 33) == 2 and store.swap_out(segment, 33) == 0
    assert (len(segment.blocks), segment.num_swapped, store.by_job["a"], store.holders()) == (3, 2, 3, [segment])
    assert store.swap_out(segment, 16) == 2 and store.bring_back(segment, 48)
    assert (len(segment.blocks), segment.num_swapped, memory.swap.used, store.num_swapped) == (3, 2, 2, 1)
    store.check_integrity()
    assert all(map(torch.equal, memory.content(segment, 3), (tensor[:3] for tensor in before)))
    store.release(segment, job="a")  # what is away is gone
    assert [span.end for span in store.match(ROOT, list(range(70)))] == [48]
    usage = store.usage()
    assert (usage.free, usage.cached, memory.swap.used, store.num_swapped) == (5, 3, 0, 0)
    store.check_integrity()


@settings(max_examples=100, deadline=None)
@given(
    room=st.integers(0, 6),
    steps=st.lists(st.tuples(st.sampled_from(["out", "back", "cut", "fill", "free"]), st.integers(0, 80)), max_size=20),
)
def test_whatever_goes_and_comes_back_of_a_segment_is_the_same(room, steps):
    memory = Memory(swap=room)
    store = memory.store
    segment = memory.segment(80, 70)
    before, others = memory.content(segment, 5), list[Segment]()
    for seed, (step, n) in enumerate(steps):
        held, total = len(segment.blocks), len(segment.blocks) + segment.num_swapped
        if step == "out":
            store.swap_out(segment, n)
            assert len(segment.blocks) >= min(held, -(-n // SIZE)) and memory.swap.used <= room
            assert not store.can_swap or len(segment.blocks) <= -(-n // SIZE)
        elif step == "back":
            is_back = store.bring_back(segment, n)
            assert len(segment.blocks) == (max(held, min(total, -(-n // SIZE))) if is_back else held)
            assert is_back or -(-n // SIZE) - held > store.available
        elif step == "cut":
            store.truncate(segment, max(0, len(segment.tokens) - n // 4))
        elif step == "fill" and n // SIZE <= store.available:
            others.append(memory.segment(n // SIZE * SIZE, 0, seed=1000 * seed))
        elif others:
            store.release(others.pop(), job="a")
        # Other blocks are anybody's.
        kept = memory.content(segment, len(segment.blocks))
        memory.scribble(seed)
        for tensor, blocks in zip((*memory.pool.k, *memory.pool.v), kept, strict=True):
            tensor[segment.blocks.astype("int64")] = blocks
        computed = min(-(-segment.computed // SIZE), len(segment.blocks))
        assert all(map(torch.equal, memory.content(segment, computed), (tensor[:computed] for tensor in before)))
        assert (memory.swap.used, store.num_swapped) == (segment.num_swapped, segment.num_swapped > 0)
        assert segment.num_swapped == 0 or computed + segment.num_swapped == -(-segment.computed // SIZE)
        store.check_integrity()
    for other in others:
        store.release(other, job="a")
    computed = -(-segment.computed // SIZE)
    assert store.bring_back(segment)
    assert all(map(torch.equal, memory.content(segment, computed), (tensor[:computed] for tensor in before)))


def test_what_is_let_go_of_while_it_is_away_is_gone():
    memory = Memory()
    segment = memory.segment(70, 40)
    memory.store.swap_out(segment)
    assert memory.store.match(segment.lineage, list(range(70)))[0].end == 32  # it can still be found
    memory.store.release(segment, job="a")
    assert (memory.swap.used, memory.store.num_swapped, segment.num_swapped) == (0, 0, 0)
    assert memory.store.match(segment.lineage, list(range(70))) == []
    usage = memory.store.usage()
    assert (usage.free, usage.cached, usage.used) == (8, 0, 0)
    memory.store.check_integrity()


def test_those_that_are_looked_for_on_disk_are_not_moved():
    memory = Memory()
    segment = memory.segment(20, 20)
    segment.is_loading = True
    assert memory.store.holders() == []


def test_reserving_takes_what_is_cached_longest_unused_and_else_nothing():
    memory = Memory()
    store = memory.store
    one, two = memory.segment(32, 32), memory.segment(32, 32, seed=500)
    for segment in (one, two):
        store.release(segment, job="a")
    assert store.usage().cached == 4 and store.available == 8
    assert [s.end for s in store.match(one.lineage, list(range(40)))] == [32]  # used again, so `two` goes first
    assert [s.end for s in store.match(one.lineage, list(range(32)))] == [16]  # the last token is left out
    big = memory.segment(80, 0, seed=900)
    assert store.usage().cached == 2 and store.available == 3
    assert store.match(two.lineage, list(range(500, 540))) == [] and store.match(one.lineage, list(range(40)))
    assert store.blocks_missing(big, 80) == 0 and store.blocks_missing(big, 81) == 1
    assert not store.reserve(big, 80 + 4 * SIZE)
    assert len(big.blocks) == 5 and store.usage().cached == 2
    assert store.reserve(big, 80 + 3 * SIZE) and store.available == 0 and store.usage().cached == 0
    store.check_integrity()


def test_only_full_blocks_stay_when_the_last_view_lets_go():
    memory = Memory()
    store = memory.store
    segment = memory.segment(40, 35)
    store.acquire(segment, job="b")
    store.release(segment, job="a")
    assert (store.usage().cached, store.by_job["a"], store.by_job["b"]) == (0, 0, 3)
    store.release(segment, job="b")
    assert (store.usage().cached, store.usage().free, store.usage().used) == (2, 6, 0)
    store.evict_all()
    assert store.usage().free == 8 and store.match(segment.lineage, list(range(40))) == []
    store.check_integrity()


def test_a_job_is_counted_what_its_views_reach_whatever_blocks_these_are():
    memory = Memory()
    store = memory.store
    segment = memory.segment(3 * SIZE, 3 * SIZE)
    assert store.reserve(segment, 8 * SIZE) and sorted(segment.blocks) == list(range(8)) and segment.blocks[7] != 0
    segment.tokens = list(range(8 * SIZE))
    store.advance(segment, 8 * SIZE)
    for end in range(1, 9):
        span = Span(segment, 0, end * SIZE - 1)
        store.hold([span], "b")
        assert store.by_job["b"] == end
        store.drop([span], "b")
        store.by_job.forget("b")
    store.release(segment, job="a")
    assert (store.by_job["a"], store.usage().cached) == (0, 8)
    store.by_job.forget("a")
    assert not store.by_job._used


def test_what_is_computed_twice_is_cached_once_whatever_blocks_it_has():
    memory = Memory()
    store = memory.store
    first = memory.segment(2 * SIZE, 0)
    found = memory.segment(2 * SIZE, 2 * SIZE)
    store.release(first, job="a")
    again = memory.segment(2 * SIZE, 2 * SIZE)
    assert 0 in again.blocks
    for segment in (again, found):
        store.release(segment, job="a")
        store.check_integrity()
    assert store.usage().cached == 2 and found.num_held == 2 and not again.num_held


def test_a_context_that_is_used_as_a_whole_stays_one():
    memory = Memory()
    store = memory.store
    context = memory.context(48)
    store.release(context, job="a")
    store.hold([Span(context, 0, 48)], "b")
    assert store.named == {b"name": context} and store.by_job["b"] == 3
    store.check_integrity()


def test_of_what_live_views_saw_only_that_before_the_cut_stays():
    memory = Memory()
    segment = memory.segment(40, 40)
    segment.seen = [(0, (3,)), (20, (4,)), (30, (5,))]
    memory.store.truncate(segment, 31)
    assert [first for first, _ in segment.seen] == [0, 20, 30]
    memory.store.truncate(segment, 30)
    assert [first for first, _ in segment.seen] == [0, 20]
    memory.store.truncate(segment, 0)
    assert segment.seen == []


def test_nothing_is_found_behind_a_gap():
    memory = Memory()
    store = memory.store
    tokens = list(range(3 * SIZE))
    parts: list[Segment] = []
    for at in range(3):
        part = Segment(at * SIZE)
        spans = tuple(Span(one, 0, SIZE, is_joined=i > 0) for i, one in enumerate(parts))
        part.lineage = lineage_of(spans, at * SIZE, SIZE, is_joined=at > 0)
        store.acquire(part)
        part.tokens = tokens[at * SIZE : (at + 1) * SIZE]
        assert store.reserve(part, SIZE)
        store.advance(part, SIZE)
        parts.append(part)
    assert [span.segment for span in store.match(ROOT, [*tokens, 1])] == parts
    store.distrust(parts[1])
    assert [span.segment for span in store.match(ROOT, [*tokens, 1])] == parts[:1]
    assert store.match(None, [*tokens, 1]) == []


def test_a_block_counts_once_for_a_job_however_many_of_its_views_hold_it():
    memory = Memory()
    store = memory.store
    segment = memory.segment(40, 40)
    for job in ("a", "a", "b"):
        store.acquire(segment, job=job)
    assert (store.by_job["a"], store.by_job["b"], store.by_job["c"]) == (3, 3, 0)
    store.reserve(segment, 50)
    store.release(segment, job="a")
    store.release(segment, job="a")
    assert (store.by_job["a"], store.by_job["b"]) == (4, 4)
    store.release(segment, job="a")
    assert (store.by_job["a"], store.by_job["b"]) == (0, 4)
    store.check_integrity()


def test_what_is_not_trusted_is_found_by_nobody():
    memory = Memory()
    segment = memory.segment(40, 40)
    memory.store.distrust(segment)
    assert memory.store.match(segment.lineage, list(range(40))) == []


def test_pending_text_keeps_what_it_sees_until_it_is_computed():
    memory = Memory()
    store = memory.store
    seen, reader = memory.segment(16, 16), memory.segment(20, 4, seed=500)
    reader.view = (Span(seen, 0, 16),)
    store.freeze(reader)
    store.freeze(reader)  # once is enough
    store.release(seen, job="a")
    assert seen.refs == seen.pins == 1
    store.advance(reader, 19)
    assert seen.refs == 1
    store.advance(reader, 20)
    assert seen.refs == 0 and store.usage().cached == 1
    store.check_integrity()


def test_a_context_of_which_only_the_beginning_is_used_is_none_any_more():
    memory = Memory()
    store = memory.store
    context = memory.context(55)
    store.release(context, job="a")
    assert (store.usage().cached, store.usage().used) == (4, 0)  # as a whole, its last block too
    whole = memory.content(context, 3)
    found = store.match(ROOT, list(range(20)))
    store.hold(found, "b")
    assert store.named == {} and (store.usage().cached, store.usage().used, store.by_job["b"]) == (2, 1, 1)
    store.check_integrity()
    spans = store.match(ROOT, list(range(60)))
    assert [(s.segment is context, len(s), s.is_joined) for s in spans] == [(True, 16, False), (False, 32, True)]
    found_again = [memory.content(s.segment, len(s) // SIZE) for s in spans]
    assert all(map(torch.equal, map(torch.cat, zip(*found_again, strict=True)), whole))
    big = memory.segment(7 * SIZE, 0, seed=500)
    assert len(big.blocks) == 7 and store.usage().cached == 0
    store.check_integrity()


def test_what_a_pass_computed_of_tokens_that_are_nobodys_any_more_is_not_noted():
    memory = Memory()
    store = memory.store
    segment = memory.segment(70, 20)
    span = Span(segment, 0, 20)
    store.hold([span], "b")
    version = segment.version
    store.release(segment, job="a")
    assert (len(segment.tokens), segment.version) == (32, version)
    store.advance(segment, 70)  # the pass had begun before
    assert segment.computed == 32 and store.usage().used == 2
    store.check_integrity()


@pytest.mark.parametrize("end", [10, 32, 33])
def test_only_what_is_referred_to_comes_back(end):
    memory = Memory()
    store = memory.store
    segment = memory.segment(70, 70)
    before = memory.content(segment, 3)
    span = Span(segment, 0, end)
    store.hold([span], "b")
    assert store.by_job["b"] == -(-end // SIZE) and store.swap_out(segment) == 5
    store.release(segment, job="a")
    memory.scribble(1)
    assert segment.num_swapped == -(-end // SIZE) and store.bring_back(segment)
    assert store.usage().used == store.by_job["b"] == -(-end // SIZE) and memory.swap.used == 0
    expected = [tensor[: -(-end // SIZE)] for tensor in before]
    assert all(map(torch.equal, memory.content(segment, -(-end // SIZE)), expected))
    store.check_integrity()


# -- texts with common beginnings ------------------------------------------------------------------------------


@dataclass(eq=False)
class Text:
    tokens: list[int]
    spans: list[Span]
    """What the store had of it."""
    segment: Segment
    """The rest."""
    job: str

    @property
    def blocks(self) -> set[int]:
        """Those that are held for it: of what it found all in front of it, too, which may stand twice."""
        table = [span.segment.blocks[: -(-(span.end or 0) // 2)] for span in self.spans]
        return {int(block) for blocks in (*table, self.segment.blocks) for block in blocks if block >= 0}


@dataclass
class Texts:
    """Texts that are opened, computed and let go of in a store of small blocks, and what was written to each block."""

    store: KVStore = field(default_factory=lambda: KVStore(10, 2))
    all: list[Text] = field(default_factory=list)
    written: dict[int, list[int]] = field(default_factory=dict)
    """Of each block, the text up to its end that was written there last."""

    def open(self, tokens: list[int]) -> None:
        store, size = self.store, self.store.block_size
        job = "ab"[len(tokens) % 2]
        spans = store.match(ROOT, tokens)
        store.hold(spans, job)
        known = sum(len(span) for span in spans)
        segment = Segment(known)
        segment.view, segment.lineage = tuple(spans), lineage_of(spans, known, size)
        store.acquire(segment, job=job)
        segment.tokens = tokens[known:]
        self.all.append(Text(tokens, spans, segment, job))

    def write(self, text: Text) -> None:
        text.tokens = [*text.tokens, 1]
        text.segment.tokens.append(1)

    def compute(self, text: Text) -> None:
        segment, size = text.segment, self.store.block_size
        if segment.pending and self.store.reserve(segment, len(segment.tokens)):
            for i, block in enumerate(segment.blocks.tolist()):
                self.written[block] = text.tokens[: segment.start + (i + 1) * size]
            self.store.advance(segment, len(segment.tokens))

    def end(self, text: Text) -> None:
        self.all.remove(text)
        self.store.release(text.segment, job=text.job)
        self.store.drop(text.spans, text.job)

    def check(self) -> None:
        self.store.check_integrity()
        # Whatever the store knows besides, what is in use is what these texts take.
        assert self.store.usage().used == len(set[int]().union(*(text.blocks for text in self.all)))
        for job in "ab":
            used = set[int]().union(*(text.blocks for text in self.all if text.job == job))
            assert self.store.usage(job).used == len(used)
        for text in self.all:
            own = [] if text.segment.pending else [Span(text.segment, 0, len(text.segment.tokens))]
            at = 0
            for span in (*text.spans, *own):
                for i in range(span.start, span.end or 0, self.store.block_size):
                    block = int(span.segment.blocks[i // self.store.block_size])
                    at += self.store.block_size
                    assert block >= 0 and self.written[block] == text.tokens[:at]


_steps = st.one_of(
    st.integers(1, 9).map([1].__mul__),  # mostly the same text, so that much is shared
    st.lists(st.sampled_from([1, 2]), min_size=1, max_size=9),
    st.tuples(st.sampled_from(["compute", "write", "end"]), st.integers(0, 9)),
)


@settings(max_examples=200)
@given(steps=st.lists(_steps, max_size=30))
# Two that do not know of each other compute a beginning. The later one keeps what is behind it, and is used once more.
@example(steps=[[1] * 3, [1] * 5, ("compute", 0), ("compute", 1), ("end", 0), ("end", 0), [1] * 6, ("end", 0), [2] * 4])
def test_texts_find_what_was_written_for_their_beginning(steps: list[list[int] | tuple[str, int]]):
    texts = Texts()
    for step in steps:
        if isinstance(step, list):
            texts.open(step)
        elif texts.all:
            text = texts.all[step[1] % len(texts.all)]
            getattr(texts, step[0])(text)
        texts.check()
    while texts.all:
        texts.end(texts.all[0])
    texts.store.check_integrity()
    assert texts.store.usage().used == 0
