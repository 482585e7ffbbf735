"""Requests that share a beginning wait for whoever computes it, and nobody waits for what is there or never comes."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from plait.runtime.engines.vllm.prefixes import Prefixes

TEXTS = st.lists(st.lists(st.integers(0, 1), max_size=9), min_size=1, max_size=6)


@given(TEXTS, st.integers(1, 4), st.integers(0, 50), st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_every_request_gets_its_turn_and_no_block_is_computed_by_two_at_once(texts, size, capacity, outcomes):
    computing: set[tuple[int, ...]] = set()

    async def request(prefixes, text, is_computed):
        finish = await prefixes.turn(text)
        known = [block for block in prefixes._blocks(text) if block in prefixes._known]
        blocks = {tuple(text[:end]) for end in range(size, len(text) + 1, size)[len(known) :]}
        assert not blocks & computing
        computing.update(blocks)
        await asyncio.sleep(0)
        computing.difference_update(blocks)
        finish(is_computed)

    async def run():
        prefixes = Prefixes(size, capacity)
        await asyncio.gather(*(request(prefixes, *pair) for pair in zip(texts, outcomes, strict=False)))
        assert not prefixes._pending and len(prefixes._known) <= capacity

    asyncio.run(run())


async def test_forks_wait_for_the_first_and_go_together_then():
    prefixes, order = Prefixes(4, 100), []
    shared = list(range(10))

    async def request(name):
        finish = await prefixes.turn([*shared, name])
        order.append(name)
        await asyncio.sleep(0.01)
        order.append(-name)
        finish(True)

    await asyncio.gather(*map(request, (1, 2, 3)))
    assert order == [1, -1, 2, 3, -2, -3]


async def test_whoever_gives_up_hands_the_turn_on():
    prefixes = Prefixes(2, 100)
    first = await prefixes.turn([1, 2, 3])
    second = asyncio.create_task(prefixes.turn([1, 2, 4]))
    third = asyncio.create_task(prefixes.turn([1, 2, 5]))
    await asyncio.sleep(0)
    assert not second.done() and not third.done()
    first(False)
    await asyncio.sleep(0.01)
    assert second.done() and not third.done()
    second.result()(True)
    (await third)(True)


async def test_what_is_known_is_not_waited_for():
    prefixes = Prefixes(2, 100)
    prefixes.remember([1, 2, 3, 4])
    first = await prefixes.turn([1, 2, 3, 4, 5])
    second = await asyncio.wait_for(prefixes.turn([1, 2, 3, 4, 6]), 1)
    first(True), second(True)
