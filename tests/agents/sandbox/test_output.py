"""Output in bounded memory, against the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plait.agents.sandbox.output import Output


def read(data, limit, cuts):
    output = Output(limit)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in zip(edges, edges[1:], strict=False):
        output.add(data[start:end])
    output.add(b"", final=True)
    return output.text()


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode), st.integers(2, 50), st.lists(st.integers(0, 99)))
def test_both_ends_are_kept_and_the_middle_is_counted(data, limit, cuts):
    whole = data.decode(errors="replace")
    text = read(data, limit, cuts)
    if len(whole) <= limit:
        assert text == whole
    else:
        head, tail = limit // 2, limit - limit // 2
        assert text == f"{whole[:head]}\n[{len(whole) - limit} characters left out]\n{whole[-tail:]}"


def test_a_character_in_two_pieces_is_one():
    assert read("aé".encode(), 10, [2]) == "aé"


def test_what_is_left_out_is_not_held():
    output = Output(100)
    for _ in range(1000):
        output.add(b"x" * 1000)
    assert sum(map(len, output._tail)) <= 50 + 1000
