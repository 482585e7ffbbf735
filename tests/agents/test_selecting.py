"""What each trajectory sees."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from plait.agents.contexts import LEAST_PART, pack
from plait.agents.edits.base import Excerpt
from plait.agents.selecting import Chosen, block, deal

PARTS = [Excerpt(path=f"p{i}.py", text=f"x = {i}\n", name=f"f{i}") for i in range(4)]


def test_everyone_sees_all_or_one_part_each():
    chosen = Chosen(excerpts=PARTS)
    assert chosen.dealt(3, one_each=False) == [tuple(PARTS)] * 3
    assert [view[0].name for view in chosen.dealt(8, one_each=True)] == ["f0", "f1", "f0", "f2", "f0", "f1", "f0", "f3"]
    assert Chosen(excerpts=PARTS[:1]).dealt(2, one_each=True) == [(PARTS[0],)] * 2
    assert Chosen(excerpts=[]).dealt(2, one_each=True) == [(), ()]


@given(st.integers(1, 200), st.integers(2, 6))
def test_likelier_parts_are_seen_by_at_least_as_many(n, parts):
    places = deal(n, parts)
    counts = Counter(places)
    assert places[0] == 0 and all(0 <= place < parts for place in places)
    order = [counts[place] for place in range(parts)]
    assert order[0] >= n // 2 and (n < 2 ** (parts - 1) or min(order) >= 1)


@given(st.lists(st.integers(1, 50), max_size=8), st.integers(0, 200), st.none() | st.integers(0, 5))
def test_parts_that_fit_are_packed_in_order_and_long_ones_passed_over(lengths, tokens, most):
    parts = [Excerpt(path=str(i), text="x" * length) for i, length in enumerate(lengths)]
    chosen = pack(parts, lambda part: len(part.text), tokens, most=most)
    left, expected = tokens, []
    for i, length in enumerate(lengths):
        if left < LEAST_PART:
            break
        if length <= left and (most is None or len(expected) < most):
            expected.append(str(i))
            left -= length
    assert [part.path for part in chosen] == expected


def test_a_part_is_shown_with_its_place():
    assert block(PARTS[1]) == '<file path="p1.py" part="f1">\nx = 1\n</file>\n'
    assert block(Excerpt(path="a", text="no end")) == '<file path="a">\nno end\n</file>\n'
