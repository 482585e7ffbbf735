"""Parts that raise: the generation that they worked for ends, and, where that is not known, all that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from plait import BranchClosed, Constraint, InvalidInput, SamplingParams
from plait.runtime.engines.constraints.matcher import Matcher
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.constraints.byte_model import save_byte_model
from plait.tests.runtime.engines.native.faults import Injected, Panic, fault
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny
from plait.tests.runtime.engines.native.test_engine import running
from plait.tests.runtime.engines.native.test_non_finite import fresh

VOCAB = 131
MODEL = load_model(tiny()[1])
BAD = 77


class Brittle(IdTokenizer):
    """Fails where a text holds `BAD`."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(VOCAB)
        self.error = error

    def decode(self, token_ids: Sequence[int]) -> str:
        if BAD in token_ids:
            raise self.error("no such piece")
        return super().decode(token_ids)


async def outcome(generation):
    try:
        return (await generation).token_ids
    except Exception as error:
        return error


@pytest.mark.parametrize("error", [Injected, Panic])
@pytest.mark.parametrize("stop", [(), ("never",), ("3.",)])
async def test_what_the_tokenizer_raises_ends_one_generation(stop, error):
    engine = NativeEngine(MODEL, Brittle(error), NativeOptions(kv_tokens=2048))
    async with running(engine):
        healthy = SamplingParams(max_tokens=30, forbidden_ids=(BAD,), stop=("never",))
        expected = await fresh(engine, [[i, 5, 9] for i in range(2)], healthy)
        good = [engine.open([i, 5, 9]) for i in range(2)]
        bad = engine.open([8, 8])
        forced = SamplingParams(max_tokens=6, forced=(1, 2, BAD, 3, 4, 5), stop=stop)
        *rest, failed = await asyncio.wait_for(
            asyncio.gather(*(outcome(b.generate(healthy)) for b in good), outcome(bad.generate(forced))), 30
        )
        assert rest == expected
        # Of a panic, which would pass for an order to end, an ordinary error is made.
        assert isinstance(failed, Injected if error is Injected else RuntimeError) and "no such piece" in str(failed)
        assert bad.tokens[:5] == [8, 8, 1, 2, BAD]
        bad.rewind(4)
        assert await outcome(bad.generate(SamplingParams(max_tokens=1, forced=(9,)))) == [9]
        for branch in [*good, bad]:
            branch.close()


@pytest.mark.parametrize("name", ["kernel", "kernel's panic", "planning", "sampling", "out of memory in bookkeeping"])
async def test_what_a_pass_raises_all_who_wait_hear_of_and_the_next_goes_on(name):
    engine = NativeEngine(MODEL, IdTokenizer(VOCAB), NativeOptions(kv_tokens=2048))
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    async with running(engine):
        branches = [engine.open([i, 5, 9]) for i in range(3)]
        with fault(engine, name, 2) as injected:
            failed = await asyncio.wait_for(asyncio.gather(*(outcome(b.generate(params)) for b in branches)), 30)
        assert injected.has_struck and {"is broken" in str(error) for error in failed} == {True}
        engine.store.check_integrity()
        for branch in branches:
            branch.rewind(3)
        again = await asyncio.gather(*(outcome(b.generate(params)) for b in branches))
        for branch in branches:
            branch.close()
        engine.store.evict_all()
        assert again == await fresh(engine, [[i, 5, 9] for i in range(3)], params)


async def crowd(engine, count=12):
    """(tokens or error) of branches that do not fit together."""
    branches = [engine.open([i, *range(60)]) for i in range(count)]
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    found = await asyncio.wait_for(asyncio.gather(*(outcome(b.generate(params)) for b in branches)), 30)
    for branch in branches:
        branch.close()
    engine.store.check_integrity()
    return found


@pytest.mark.parametrize("way", ["out", "back"])
async def test_keys_and_values_that_are_lost_on_their_way_are_not_found_again(way):
    async with running(NativeEngine(MODEL, IdTokenizer(VOCAB), NativeOptions(kv_tokens=2048))) as engine:
        expected = await crowd(engine)
    async with running(NativeEngine(MODEL, IdTokenizer(VOCAB), NativeOptions(kv_tokens=256))) as engine:
        for at in (1, 2, 3):
            with fault(engine, f"keys and values on their way {way}", at) as injected:
                found = await crowd(engine)
            assert injected.has_struck and engine.store.num_swapped == engine.store.swap.used == 0
            # Who finds no place outside goes on where it is; who does not come back cannot.
            assert found == expected if way == "out" else any(isinstance(one, Injected) for one in found)
            assert await crowd(engine) == expected


async def test_who_stops_reading_holds_nobody_up():
    engine = NativeEngine(MODEL, IdTokenizer(VOCAB), NativeOptions(kv_tokens=2048))
    params = SamplingParams(max_tokens=200, ignore_eos=True)
    async with running(engine):
        [expected] = await fresh(engine, [[4, 5, 9]], params)
        stalled, other = engine.open([4, 5, 9]), engine.open([4, 5, 9])
        generation = stalled.generate(params)
        tokens = aiter(generation)
        seen = [await anext(tokens)]
        assert await asyncio.wait_for(outcome(other.generate(params)), 30) == expected
        assert (await generation).token_ids == expected  # all of it was kept for the reader
        seen += [token async for token in tokens]
        assert seen == expected
        leaves = stalled.fork(1)[0]
        begun = leaves.generate(params)
        await anext(aiter(begun))
        leaves.close()
        with pytest.raises(BranchClosed):
            await begun
        stalled.close()
        other.close()


async def test_what_a_constraint_raises_ends_one_generation(monkeypatch):
    allow = Matcher._allow

    def broken(self, mask):
        if self is generations[1].matcher and len(generations[1].sampled) == 4:
            raise Panic("lost")
        allow(self, mask)

    monkeypatch.setattr(Matcher, "_allow", broken)
    params = SamplingParams(max_tokens=40, constraint=Constraint(kind="regex", source="([0-9];){9}"))
    async with running(NativeEngine.load(save_byte_model(), kv_tokens=2048)) as engine:
        branches = [engine.open([65, 66]) for _ in range(3)]
        generations = [branch.generate(params) for branch in branches]
        first, failed, third = await asyncio.wait_for(asyncio.gather(*map(outcome, generations)), 30)
        assert isinstance(failed, InvalidInput) and "Panic: lost" in str(failed)
        assert branches[1].length == 6 and first == third and len(first) >= 18
        for branch in branches:
            branch.close()
