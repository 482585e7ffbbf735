"""Who steps together with whom."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.engines.native.gangs import Gangs


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
