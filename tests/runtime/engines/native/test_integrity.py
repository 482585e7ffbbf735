"""The checks themselves: each kind of damage is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plait.runtime.engines.native.integrity import check_alive, check_index, check_whole
from plait.runtime.engines.native.segment import GROWING, Segment


def held(blocks: list[int], tokens: int, *, end: int | None = None) -> Segment:
    """A segment that one view refers to."""
    segment = Segment(0)
    segment.append_blocks(blocks)
    segment.tokens = list(range(tokens))
    segment.computed = tokens
    segment.refs, segment.ends = 1, {GROWING if end is None else end: 1}
    return segment


def test_all_blocks_are_there_once():
    one, other = held([0, 3], 8), held([-1, 2], 8)
    check_whole(5, [4, 1], [one, other])
    for num_blocks, free in [(5, [4]), (5, [4, 1, 1]), (5, [4, 3, 1]), (6, [4, 1])]:
        with pytest.raises(RuntimeError, match="are not all"):
            check_whole(num_blocks, free, [one, other])


@pytest.mark.parametrize(("number", "is_there"), [(0, True), (1, False), (2, True), (3, True), (4, False)])
def test_the_index_names_what_is_in_the_pool_or_away(number, is_there):
    segment = held([0, -1, 2], 16)
    segment.num_swapped = 1
    if is_there:
        check_index([(segment, number)], [segment])
        with pytest.raises(RuntimeError, match="freed segment"):
            check_index([(segment, number)], [])
    else:
        with pytest.raises(RuntimeError, match="freed block"):
            check_index([(segment, number)], [segment])


DAMAGE: list[tuple[str, Callable[[Segment], object]]] = [
    ("unreferenced", lambda s: setattr(s, "refs", 0)),
    ("unreferenced", lambda s: setattr(s, "refs", 2)),
    ("unreferenced", lambda s: setattr(s, "ends", {6: 2})),
    ("neither", lambda s: setattr(s, "computed", 17)),
    ("nobody refers to", lambda s: s.append_blocks([7])),
    ("nobody refers to", lambda s: setattr(s, "num_swapped", 3)),
    ("nobody refers to", lambda s: setattr(s, "ends", {12: 1})),
]


def test_whom_nobody_holds_is_not_alive():
    segment = held([], 0)
    segment.refs, segment.ends = 0, {}
    with pytest.raises(RuntimeError, match="unreferenced"):
        check_alive([segment], 4)


@pytest.mark.parametrize(("said", "damage"), DAMAGE)
def test_what_views_refer_to_is_held_and_nothing_else(said, damage):
    segment = held([0, 1], 16, end=16)
    segment.num_swapped = 2
    check_alive([segment], 4)
    damage(segment)
    with pytest.raises(RuntimeError, match=said):
        check_alive([segment], 4)
