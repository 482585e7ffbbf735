"""Who steps together with whom, and sees the same of the others whatever a step has room for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait import InvalidInput, SamplingParams
from plait.runtime.engines.native.gangs import Gangs
from plait.tests.runtime.engines.native.stepped import Stepped
from plait.tests.runtime.engines.native.test_pressure import close, engine, prompt


class Branch:
    def __init__(self, number: int) -> None:
        self.path = (number,)
        self.gang: tuple[str, str] | None = None
        self.generation: Any = None


class Generation:
    def __init__(self, branch: Any) -> None:
        self.branch = branch


NAMES = st.one_of(st.none(), st.tuples(st.sampled_from("ab"), st.sampled_from("xy")))


@given(st.lists(st.tuples(st.integers(0, 4), NAMES, st.booleans())))
def test_gangs_are_those_who_said_so_last(moves):
    gangs = Gangs()
    branches: Any = [Branch(i) for i in range(5)]
    said: dict[int, tuple[str, str] | None] = dict.fromkeys(range(5))
    for number, name, is_running in moves:
        gangs.put(branches[number], name)
        said[number] = name
        branches[number].generation = Generation(branches[number]) if is_running else None
        assert len(gangs) == len({name for name in said.values() if name is not None})
        for other, branch in enumerate(branches):
            assert branch.gang == said[other]
            members = [branches[i] for i in range(5) if said[i] == said[other]]
            if said[other] is not None:
                assert gangs.members(said[other]) == [member.generation for member in members]
            if (g := branch.generation) is not None:
                together = [m.generation for m in members if m.generation] if said[other] is not None else [g]
                assert gangs.companions(g) == together


async def talk(script: list[tuple[str, int, int]], **options: Any) -> list[Any]:
    """What branches write that look at each other, and only ever step together."""
    native = engine(kv_tokens=8192, **options)
    await native.start()
    branches: Any = [native.open(prompt(9 + 12 * i, i), path=(i,)) for i in range(3)]
    left: list[Any] = []
    found: list[Any] = []
    for name, which, amount in [*script, ("go", 0, 3)]:
        at = (which + 1 + amount % 2) % 3
        branch, other = branches[which], branches[at]
        if name == "extend":
            branch.extend(prompt(amount, which))
        elif name == "watch":
            branch.watch(other)
            branch.extend([amount])
        elif name == "seal":
            branch.seal().close()
        elif name == "fork":
            left.append(other)
            branches[at] = branch.fork(1)[0]
        elif name == "merge":
            with suppress(InvalidInput):  # not its child
                branch.merge([other])
                branch.extend([amount])
        elif name == "close":
            branch.close()
            branches[which] = native.open(prompt(amount + 1, which), path=(which, len(found)))
        else:
            for i, one in enumerate(branches):
                one.extend([i])
                one.lockstep("g")
            params = SamplingParams(max_tokens=1 + amount % 4, temperature=1.0, logprobs=0, ignore_eos=True)
            found += await asyncio.gather(*(one.generate(params) for one in branches))
            for one in branches:
                one.lockstep(None)
            native.store.check_integrity()
    for branch in [*branches, *left]:
        branch.close()
    await close(native)
    return [(one.token_ids, one.logprobs) for one in found]


SCRIPTS = st.lists(
    st.tuples(
        st.sampled_from(["extend", "watch", "watch", "seal", "fork", "merge", "close", "go"]),
        st.integers(0, 2),
        st.integers(0, 40),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@example([("watch", 0, 0), ("watch", 1, 1), ("seal", 0, 0), ("seal", 1, 0)])
@example([("watch", 1, 13), ("watch", 2, 37), ("watch", 1, 37)])
@example([("fork", 0, 0), ("watch", 1, 0), ("merge", 0, 0), ("extend", 0, 20), ("seal", 0, 0)])
@given(SCRIPTS)
async def test_what_a_gang_sees_does_not_depend_on_what_a_step_has_room_for(script):
    expected = await talk(script)
    for options in ({"prefill_chunk": 7, "max_rows": 20}, {"prefill_chunk": 4, "max_rows": 4}):
        assert await talk(script, **options) == expected


async def test_a_gang_waits_for_a_step_with_room_for_the_frozen_text_that_looks_on_too():
    stepped = Stepped(kv_tokens=640, prefill_chunk=12, max_rows=20)
    one, other = (stepped.native.open(prompt(9, i), job="a", path=(i,)) for i in range(2))
    prompts = [branch.generate(SamplingParams(max_tokens=0)) for branch in (one, other)]
    stepped.until(lambda: all(g.is_done for g in prompts))
    one.watch(other)
    one.extend(prompt(11, 3))
    one.seal().close()
    beside = stepped.generate(prompt(40, 4), max_tokens=1, job="b")
    for branch in (one, other):
        branch.extend([1])
        branch.lockstep("g")
    found = [branch.generate(SamplingParams(max_tokens=4, ignore_eos=True)) for branch in (one, other)]
    stepped.until(lambda: all(g.is_done for g in (*found, beside)))
    assert max(sum(step.jobs.values()) for step in stepped.steps) <= 20
    for branch in (one, other):
        branch.close()
    await stepped.close()
