"""Branch operations in any order, in a store that is too small for all of them: the tokens of a large one."""

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
    {"temperature": 0.0},
    {"temperature": 1.0, "stop": ("7.",)},
    {"temperature": 1.0, "logprobs": 0},
]

lengths = st.integers(1, 45)
params = st.sampled_from(range(len(PARAMS)))


def text(length: int, seed: int) -> list[int]:
    """Texts of one seed begin alike, so that the prefix index has something to find."""
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(length)]


class Pair:
    """The same branch in both stores."""

    def __init__(self, both: list[Any]) -> None:
        self.both: list[NativeBranch] = both
        self.watchers = 0
        self.parent: Pair | None = None
        self.is_closed = False
        self.is_packed = False

    @property
    def length(self) -> int:
        return self.both[0].length

    @property
    def room(self) -> int:
        return self.both[0].context_limit - max(self.both[0].position, self.both[0].length)

    def holds(self) -> int:
        """Tokens of all that its view names, whole."""
        segments = {id(s): len(s.tokens) for s in self.both[0].view.segments}
        return sum(-(-n // BLOCK) * BLOCK for n in segments.values())


class Machine(RuleBasedStateMachine):
    """Two engines that are told the same."""

    branches = Bundle("branches")
    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.engines = [
            NativeEngine(MODEL, IdTokenizer(VOCABULARY, (3,)), NativeOptions(kv_tokens=n, block_size=BLOCK))
            for n in (LARGE, SMALL)
        ]
        self.pairs: list[Pair] = []
        self.held: list[list[Any]] = []
        self.count = 0
        for engine in self.engines:
            self.run(engine.start())

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def both(self, pair: Pair, work: Callable[[NativeBranch], Any]) -> list[Any]:
        return [work(branch) for branch in pair.both]

    def add(self, both: list[Any], parent: Pair | None = None) -> Pair:
        pair = Pair(both)
        pair.parent = parent
        self.pairs.append(pair)
        return pair

    async def _finish(self, branches: list[NativeBranch], chosen: list[SamplingParams]) -> list[Any]:
        generations = [b.generate(p) for b, p in zip(branches, chosen, strict=True)]

        async def one(generation: Any) -> Any:
            return await generation

        return await asyncio.gather(*map(one, generations))

    def generate(self, pairs: list[Pair], tokens: int, kind: int) -> None:
        chosen = [SamplingParams(max_tokens=min(tokens, p.room), **PARAMS[kind]) for p in pairs]
        found = [self.run(self._finish([p.both[i] for p in pairs], chosen)) for i in (0, 1)]
        for large, small in zip(*found, strict=True):
            assert large.finish_reason != "memory" != small.finish_reason
            assert small.token_ids == large.token_ids
            assert small.logprobs == large.logprobs and small.finish_reason == large.finish_reason

    def fits(self, pairs: list[Pair], tokens: int) -> bool:
        """Can this be computed in the small store by whoever needs it?"""
        return sum(pair.holds() + tokens + 2 * BLOCK for pair in pairs) <= SMALL

    def can_decode(self, pair: Pair) -> bool:
        view = pair.both[0].view
        return pair.room > 1 and (view.num_own > 0 or view.continues)

    @initialize(target=branches)
    def crowd(self) -> Any:
        """More than the small store holds."""
        opened = [self.open_one(45 - i, i % 7, "ab"[i % 2]) for i in range(9)]
        self.generate(opened, 0, 0)
        return multiple(*opened)

    def open_one(self, length: int, seed: int, job: str) -> Pair:
        self.count += 1
        path = (self.count,)
        return self.add([e.open(text(length, seed), path=path, seed=1, job=job) for e in self.engines])

    # -- rules -------------------------------------------------------------------------------------------------

    @rule(target=branches, length=lengths, seed=st.integers(0, 5), job=st.sampled_from(["a", "b"]))
    def open(self, length: int, seed: int, job: str) -> Pair:
        return self.open_one(length, seed, job)

    @rule(pair=branches, length=st.integers(1, 20), seed=st.integers(0, 5))
    def extend(self, pair: Pair, length: int, seed: int) -> None:
        if not pair.is_closed and pair.room > length:
            self.both(pair, lambda b: b.extend(text(length, seed)))

    @rule(pair=branches, tokens=st.integers(0, 20), kind=params)
    def decode(self, pair: Pair, tokens: int, kind: int) -> None:
        if not pair.is_closed and self.fits([pair], tokens) and (tokens == 0 or self.can_decode(pair)):
            self.generate([pair], tokens, kind)

    @rule(pairs=st.lists(branches, min_size=2, max_size=6, unique_by=id), tokens=st.integers(1, 30), kind=params)
    def decode_all(self, pairs: list[Pair], tokens: int, kind: int) -> None:
        pairs = [p for p in pairs if not p.is_closed and self.fits([p], tokens) and self.can_decode(p)]
        if pairs and not any(s.is_live for p in pairs for s in p.both[0].view.spans):
            self.generate(pairs, tokens, kind)

    @rule(
        pairs=st.lists(branches, min_size=2, max_size=3, unique_by=id), tokens=st.integers(1, 12), watch=st.booleans()
    )
    def lockstep(self, pairs: list[Pair], tokens: int, watch: bool) -> None:
        pairs = [p for p in pairs if not p.is_closed and p.both[0].job == "a" and p.room > 3]
        if len(pairs) < 2:
            return
        if watch and not pairs[0].is_packed:
            self.both_watch(pairs[0], pairs[1])
        for pair in pairs:
            self.both(pair, lambda b: b.extend([5]))
        if not self.fits(pairs, tokens):
            return
        for pair in pairs:
            self.both(pair, lambda b: b.lockstep("g"))
        self.generate(pairs, tokens, 0)
        for pair in pairs:
            self.both(pair, lambda b: b.lockstep(None))

    def both_watch(self, pair: Pair, other: Pair) -> None:
        for one, two in zip(pair.both, other.both, strict=True):
            one.watch(two, 3)

    @rule(target=branches, pair=branches, n=st.integers(1, 3))
    def fork(self, pair: Pair, n: int) -> Any:
        if pair.is_closed:
            return multiple()
        forks = self.both(pair, lambda b: b.fork(n))
        return multiple(*[self.add(list(one), pair) for one in zip(*forks, strict=True)])

    @rule(pair=branches, attach=st.booleans())
    def merge(self, pair: Pair, attach: bool) -> None:
        children = [p for p in self.pairs if p.parent is pair and not p.is_closed][:2]
        if pair.is_closed or not children or pair.is_packed:
            return
        if max(p.both[0].position for p in [pair, *children]) + sum(p.length for p in children) > 200:
            return
        for i in (0, 1):
            others = [p.both[i] for p in children]
            if attach:
                pair.both[i].attach(others, temperature=0.8, scale=0.9)
            else:
                pair.both[i].merge(others)
        self.both(pair, lambda b: b.extend([2]))

    @rule(pair=branches, seed=st.integers(0, 3), length=st.integers(1, 20))
    def contexts(self, pair: Pair, seed: int, length: int) -> None:
        if not pair.is_closed and pair.room > length + 2 and not pair.is_packed:
            self.both(pair, lambda b: b.attach_contexts([text(length, seed), text(length // 2 + 1, seed + 1)]))
            self.both(pair, lambda b: b.extend([4]))

    @rule(pair=branches, share=st.floats(0, 1))
    def rewind(self, pair: Pair, share: float) -> None:
        if pair.is_closed:
            return
        view = pair.both[0].view
        first = view.num_text if view.is_packed else 0
        to = first + int(share * (pair.length - first))
        self.both(pair, lambda b: b.rewind(to))

    @rule(pair=branches, forward=st.integers(0, 9))
    def seek(self, pair: Pair, forward: int) -> None:
        if not pair.is_closed and pair.room > forward + 2 and not pair.is_packed:
            to = pair.both[0].position + forward
            self.both(pair, lambda b: b.seek(to))
            self.both(pair, lambda b: b.extend([1]))

    @rule(target=blocks, pair=branches, seal=st.booleans())
    def block(self, pair: Pair, seal: bool) -> Any:
        if pair.is_closed:
            return multiple()
        found = self.both(pair, lambda b: b.seal() if seal else b.block())
        self.held.append(found)
        return (pair, found, seal)

    @rule(pair=branches, some=st.lists(blocks, min_size=1, max_size=2, unique_by=id))
    def arrange(self, pair: Pair, some: list[Any]) -> None:
        some = [one for one in some if one[1] in self.held and one[0] is not pair]
        if pair.is_closed or not some or sum(len(one[1][0].tokens) for one in some) > 100:
            return
        if any(one[1][0].spans[-1:] and one[1][0].spans[-1].is_live for one in some):
            return  # what is seen of it depends on who steps with whom
        if pair.both[0].view.num_own and not pair.is_packed:
            self.both(pair, lambda b: b.seal().close())
        pair.is_packed = True
        for i in (0, 1):
            pair.both[i].arrange([one[1][i] for one in some])
        if pair.room > 2:
            self.both(pair, lambda b: b.extend([6]))

    @rule(one=consumes(blocks))
    def close_block(self, one: Any) -> None:
        if one[1] in self.held:
            self.held.remove(one[1])
            for block in one[1]:
                block.close()

    @rule(pair=consumes(branches))
    def close(self, pair: Pair) -> None:
        pair.is_closed = True
        self.both(pair, lambda b: b.close())

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
        for pair in self.pairs:
            if not pair.is_closed:
                large, small = pair.both
                assert (large.tokens, large.position) == (small.tokens, small.position)

    def teardown(self) -> None:
        try:
            for pair in self.pairs:
                if not pair.is_closed:
                    self.both(pair, lambda b: b.close())
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
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
