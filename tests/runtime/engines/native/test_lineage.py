"""Keys of what stands before a token: one text has one key, however it came to be held in pieces."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.engines.native.lineage import _digest, block_key, context_name, is_continued, key_at, lineage_of
from plait.runtime.engines.native.segment import ROOT, Segment, Span

SIZE = 4


def segment(length: int, *, view: tuple[Span, ...] = (), start: int = 0, seed: int = 0) -> Segment:
    made = Segment(start)
    made.view = view
    made.lineage = lineage_of(view, start, SIZE)
    made.tokens = [seed + i for i in range(length)]
    return made


def end_of(view: tuple[Span, ...]) -> int:
    """The position behind its last token."""
    return view[-1].segment.start + view[-1].start + len(view[-1]) + view[-1].shift if view else 0


@st.composite
def views(draw: st.DrawFn) -> tuple[Span, ...]:
    """Pieces of segments, moved or not."""
    view: tuple[Span, ...] = ()
    for number in range(draw(st.integers(0, 3))):
        length = draw(st.integers(1, 12))
        one = segment(length, view=view, start=end_of(view) + draw(st.integers(0, 1)), seed=100 * (number + 1))
        begin = draw(st.integers(0, length - 1))
        view = (*view, Span(one, begin, draw(st.integers(begin + 1, length)), draw(st.sampled_from([0, 0, 3, -2]))))
    return view


@given(views(), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans())
def test_a_text_has_the_same_key_in_one_piece_and_in_several(view, parts, is_moved):
    whole = segment(sum(parts), view=view, start=end_of(view) + is_moved, seed=900)
    key = key_at(whole, len(whole.tokens), SIZE)
    spans, at, tails = view, 0, []
    for length in parts:
        spans, at = (*spans, Span(whole, at, at + length, is_joined=at > 0)), at + length
        tails.append(is_continued(spans, SIZE))
    if not is_moved:
        assert lineage_of(spans, whole.start + at, SIZE, is_joined=True) == key
        assert all(tails)
    cut = lineage_of(spans, whole.start + at, SIZE)
    assert cut not in (key, lineage_of(spans, whole.start + at + 1, SIZE), lineage_of(view, whole.start + at, SIZE))


@given(st.integers(0, 40), st.integers(0, 10))
def test_keys_that_are_kept_change_nothing(index, kept):
    one, other = segment(40), segment(40)
    for at in range(0, 4 * kept, 4):
        other.keys.append(block_key(other.keys[-1] if other.keys else ROOT, other.tokens[at : at + 4]))
    assert key_at(one, index, SIZE) == key_at(other, index, SIZE)


def test_the_last_token_goes_on_only_what_it_was_written_under():
    first, second, third = segment(8), segment(5, start=8, seed=50), segment(5, start=8, seed=70)
    text = (Span(first, 0, 8), Span(second, 0, 5))
    end = Span(segment(6, view=text, start=13, seed=90), 0, 6)
    assert is_continued((*text, end), SIZE)
    others = [
        (text[0], Span(third, 0, 5), end),  # one of those before it is another
        (text[0], end),
        (text[0], Span(second, 0, 4), end),
        (text[0], replace(text[1], shift=1), end),
        (*text, replace(end, start=1)),  # not from its beginning on
        (*text, replace(end, shift=1)),
        (*text, Span(end.segment, 0, None)),
        (),
    ]
    assert not any(is_continued(other, SIZE) for other in others)
    live = (Span(first, 0, None),)
    assert lineage_of(live, 8, SIZE) is None
    under = Segment(8)
    under.view, under.lineage, under.tokens = live, None, [1, 2, 3]
    assert key_at(under, 2, SIZE) is None and lineage_of((Span(under, 0, 2),), 10, SIZE) is None
    assert not is_continued((*live, Span(under, 1, 3)), SIZE)


def test_no_key_is_that_of_other_parts():
    parts = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc")]
    assert len({_digest(*one) for one in parts}) == len(parts)
    assert len({block_key(ROOT, [1, 2]), context_name(ROOT, [1, 2]), block_key(ROOT, [2, 1]), ROOT}) == 4
