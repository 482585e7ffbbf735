"""Branch operations in any order, in a store that is too small for all of them and with steps of few rows, and in one
that finds nothing of what was written before: the tokens of a large one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from plait import SamplingParams
from plait.runtime.engines.native.branch import NativeBranch
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny

VOCABULARY = 31
_, FOLDER = tiny(
    "llama", vocab_size=VOCABULARY, max_position_embeddings=256, hidden_size=32, intermediate_size=48,
    num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, seed=5,
)  # fmt: skip
MODEL = load_model(FOLDER)
BLOCK = 16
LARGE, SMALL = 1 << 12, 320
PARAMS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.0, "logprobs": 0},
    {"temperature": 1.0, "stop": ("7.",), "logprobs": 0},
    {"temperature": 1.0, "logprobs": 0},
]

lengths = st.integers(1, 45)
params = st.sampled_from(range(len(PARAMS)))


def text(length: int, seed: int) -> list[int]:
    """Texts of one seed begin alike, so that the prefix index has something to find."""
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(length)]


class Copies:
    """One branch in all stores."""

    def __init__(self, branches: list[Any]) -> None:
        self.all: list[NativeBranch] = branches
        self.watchers = 0
        self.parent: Copies | None = None
        self.is_closed = False

    @property
    def is_packed(self) -> bool:
        return self.all[0].view.is_packed

    @property
    def length(self) -> int:
        return self.all[0].length

    @property
    def room(self) -> int:
        return self.all[0].context_limit - max(self.all[0].position, self.all[0].length)

    def holds(self) -> int:
        """Tokens of all that its view names, whole."""
        segments = {id(s): len(s.tokens) for s in self.all[0].view.segments}
        return sum(-(-n // BLOCK) * BLOCK for n in segments.values())


class Machine(RuleBasedStateMachine):
    """Three engines that are told the same."""

    branches = Bundle("branches")
    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        few_rows: dict[str, Any] = {"max_rows": 20, "prefill_chunk": 7}
        self.engines = [
            NativeEngine(MODEL, IdTokenizer(VOCABULARY, (3,)), NativeOptions(block_size=BLOCK, **options))
            for options in ({"kv_tokens": LARGE}, {"kv_tokens": SMALL, **few_rows}, {"kv_tokens": LARGE})
        ]
        self.engines[2].store.match = lambda lineage, tokens: []  # type: ignore[method-assign]
        self.opened: list[Copies] = []
        self.held: list[list[Any]] = []
        self.count = 0
        for engine in self.engines:
            self.run(engine.start())

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def tell(self, copies: Copies, work: Callable[[NativeBranch], Any]) -> list[Any]:
        return [work(branch) for branch in copies.all]

    def add(self, branches: list[Any], parent: Copies | None = None) -> Copies:
        copies = Copies(branches)
        copies.parent = parent
        self.opened.append(copies)
        return copies

    async def _finish(self, branches: list[NativeBranch], chosen: list[SamplingParams]) -> list[Any]:
        generations = [b.generate(p) for b, p in zip(branches, chosen, strict=True)]

        async def one(generation: Any) -> Any:
            return await generation

        return await asyncio.gather(*map(one, generations))

    def generate(self, several: list[Copies], tokens: int, kind: int) -> None:
        chosen = [SamplingParams(max_tokens=min(tokens, p.room), **PARAMS[kind]) for p in several]
        found = [self.run(self._finish([p.all[i] for p in several], chosen)) for i in range(3)]
        for large, *others in zip(*found, strict=True):
            assert large.finish_reason != "memory"
            for other in others:
                assert (other.token_ids, other.finish_reason) == (large.token_ids, large.finish_reason)
                assert other.logprobs == large.logprobs

    def fits(self, several: list[Copies], tokens: int) -> bool:
        """Can this be computed in the small store by whoever needs it?"""
        return sum(copies.holds() + tokens + 2 * BLOCK for copies in several) <= SMALL

    def can_decode(self, copies: Copies) -> bool:
        view = copies.all[0].view
        return copies.room > 1 and (view.num_own > 0 or view.continues)

    @initialize(target=branches)
    def crowd(self) -> Any:
        """More than the small store holds."""
        opened = [self.open_one(45 - i, i % 7, "ab"[i % 2]) for i in range(9)]
        self.generate(opened, 0, 0)
        return multiple(*opened)

    def open_one(self, length: int, seed: int, job: str) -> Copies:
        self.count += 1
        path = (self.count,)
        return self.add([e.open(text(length, seed), path=path, seed=1, job=job) for e in self.engines])

    # -- rules -------------------------------------------------------------------------------------------------

    @rule(target=branches, length=lengths, seed=st.integers(0, 5), job=st.sampled_from(["a", "b"]))
    def open(self, length: int, seed: int, job: str) -> Copies:
        return self.open_one(length, seed, job)

    @rule(copies=branches, length=st.integers(1, 20), seed=st.integers(0, 5))
    def extend(self, copies: Copies, length: int, seed: int) -> None:
        if not copies.is_closed and copies.room > length:
            self.tell(copies, lambda b: b.extend(text(length, seed)))

    @rule(copies=branches, tokens=st.integers(0, 20), kind=params)
    def decode(self, copies: Copies, tokens: int, kind: int) -> None:
        if not copies.is_closed and self.fits([copies], tokens) and (tokens == 0 or self.can_decode(copies)):
            self.generate([copies], tokens, kind)

    @rule(several=st.lists(branches, min_size=2, max_size=6, unique_by=id), tokens=st.integers(1, 30), kind=params)
    def decode_all(self, several: list[Copies], tokens: int, kind: int) -> None:
        several = [p for p in several if not p.is_closed and self.fits([p], tokens) and self.can_decode(p)]
        if several and not any(s.is_live for p in several for s in p.all[0].view.spans):
            self.generate(several, tokens, kind)

    @rule(
        several=st.lists(branches, min_size=2, max_size=3, unique_by=id), tokens=st.integers(1, 12), watch=st.booleans()
    )
    def lockstep(self, several: list[Copies], tokens: int, watch: bool) -> None:
        several = [p for p in several if not p.is_closed and p.all[0].job == "a" and p.room > 3]
        if len(several) < 2:
            return
        if watch and not several[0].is_packed:
            self.tell_to_watch(several[0], several[1])
        for copies in several:
            self.tell(copies, lambda b: b.extend([5]))
        if not self.fits(several, tokens):
            return
        for copies in several:
            self.tell(copies, lambda b: b.lockstep("g"))
        self.generate(several, tokens, 3)
        for copies in several:
            self.tell(copies, lambda b: b.lockstep(None))

    @rule(copies=branches, other=branches)
    def watch(self, copies: Copies, other: Copies) -> None:
        if copies is other or copies.is_closed or other.is_closed or copies.is_packed or copies.room < 3:
            return
        self.tell_to_watch(copies, other)
        self.tell(copies, lambda b: b.extend([7]))

    def tell_to_watch(self, copies: Copies, other: Copies) -> None:
        for one, two in zip(copies.all, other.all, strict=True):
            one.watch(two, 3)

    @rule(target=branches, copies=branches, n=st.integers(1, 3))
    def fork(self, copies: Copies, n: int) -> Any:
        if copies.is_closed:
            return multiple()
        forks = self.tell(copies, lambda b: b.fork(n))
        return multiple(*[self.add(list(one), copies) for one in zip(*forks, strict=True)])

    @rule(copies=branches, attach=st.booleans())
    def merge(self, copies: Copies, attach: bool) -> None:
        children = [p for p in self.opened if p.parent is copies and not p.is_closed][:2]
        if copies.is_closed or not children:
            return
        if max(p.all[0].position for p in [copies, *children]) + sum(p.length for p in children) > 200:
            return
        for i in range(3):
            others = [p.all[i] for p in children]
            if attach:
                copies.all[i].attach(others, temperature=0.8, scale=0.9)
            else:
                copies.all[i].merge(others)
        self.tell(copies, lambda b: b.extend([2]))

    @rule(copies=branches, seed=st.integers(0, 3), length=st.integers(1, 20))
    def contexts(self, copies: Copies, seed: int, length: int) -> None:
        if not copies.is_closed and copies.room > length + 2 and not copies.is_packed:
            self.tell(copies, lambda b: b.attach_contexts([text(length, seed), text(length // 2 + 1, seed + 1)]))
            self.tell(copies, lambda b: b.extend([4]))

    @rule(copies=branches, share=st.floats(0, 1))
    def rewind(self, copies: Copies, share: float) -> None:
        if copies.is_closed:
            return
        view = copies.all[0].view
        first = view.num_text if copies.is_packed else 0
        to = first + int(share * (copies.length - first))
        self.tell(copies, lambda b: b.rewind(to))

    @rule(copies=branches, forward=st.integers(0, 9))
    def seek(self, copies: Copies, forward: int) -> None:
        if not copies.is_closed and copies.room > forward + 2 and not copies.is_packed:
            to = copies.all[0].position + forward
            self.tell(copies, lambda b: b.seek(to))
            self.tell(copies, lambda b: b.extend([1]))

    @rule(target=blocks, copies=branches, seal=st.booleans())
    def block(self, copies: Copies, seal: bool) -> Any:
        if copies.is_closed:
            return multiple()
        found = self.tell(copies, lambda b: b.seal() if seal else b.block())
        self.held.append(found)
        return (copies, found, seal)

    @rule(copies=branches, some=st.lists(blocks, min_size=1, max_size=2, unique_by=id))
    def arrange(self, copies: Copies, some: list[Any]) -> None:
        some = [one for one in some if one[1] in self.held and one[0] is not copies]
        if copies.is_closed or not some or sum(len(one[1][0].tokens) for one in some) > 100:
            return
        if any(one[1][0].spans[-1:] and one[1][0].spans[-1].is_live for one in some):
            return  # what is seen of it depends on who steps with whom
        if copies.all[0].view.num_own and not copies.is_packed:
            self.tell(copies, lambda b: b.seal().close())
        for i in range(3):
            copies.all[i].arrange([one[1][i] for one in some])
        if copies.room > 2:
            self.tell(copies, lambda b: b.extend([6]))

    @rule(one=consumes(blocks))
    def close_block(self, one: Any) -> None:
        if one[1] in self.held:
            self.held.remove(one[1])
            for block in one[1]:
                block.close()

    @rule(copies=consumes(branches))
    def close(self, copies: Copies) -> None:
        copies.is_closed = True
        self.tell(copies, lambda b: b.close())

    # -- what holds --------------------------------------------------------------------------------------------

    @invariant()
    def is_sound(self) -> None:
        for engine in self.engines:
            with engine.lock:
                engine.store.check_integrity()
                assert not engine.scheduler.running and not engine.scheduler.pressure.suspended
                swap = engine.store.swap
                assert swap is not None
                kept = [s for s in engine.store._alive if s.num_swapped]
                assert swap.used >= sum(s.num_swapped for s in kept) and len(kept) == len(swap._kept)
        for copies in self.opened:
            if not copies.is_closed:
                assert len({(tuple(branch.tokens), branch.position) for branch in copies.all}) == 1

    def teardown(self) -> None:
        try:
            for copies in self.opened:
                if not copies.is_closed:
                    self.tell(copies, lambda b: b.close())
            for found in self.held:
                for block in found:
                    block.close()
            for engine in self.engines:
                usage = engine.block_usage()
                assert usage.used == 0 and engine.store.num_swapped == 0 and engine.store.swap is not None
                assert engine.store.swap.used == 0
                engine.store.check_integrity()
        finally:
            for engine in self.engines:
                self.run(engine.close())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


TestPressure = Machine.TestCase
TestPressure.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
