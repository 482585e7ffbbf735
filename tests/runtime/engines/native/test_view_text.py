"""Views of plain text, whatever is done to them: their text and places, and what was written to their blocks."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait.runtime.engines.native.segment import Segment, text_of
from plait.runtime.engines.native.store import KVStore
from plait.runtime.engines.native.view import View

SIZE, BLOCKS = 2, 60


class Texts:
    """Views in a store of small blocks, beside the texts that they are to have."""

    def __init__(self) -> None:
        self.store = KVStore(BLOCKS, SIZE)
        self.views: list[View] = []
        self.texts: list[list[int]] = []
        self.written: dict[tuple[int, int], tuple[list[int], int]] = {}
        """(block, slot) -> (text up to the token that was computed there last, its position)."""

    def slot(self, segment: Segment, i: int) -> tuple[int, int]:
        return int(segment.blocks[i // SIZE]), i % SIZE

    def compute(self, segment: Segment) -> None:
        assert self.store.reserve(segment, len(segment.tokens))
        before = text_of(segment.view)
        for i in range(segment.computed, len(segment.tokens)):
            self.written[self.slot(segment, i)] = [*before, *segment.tokens[: i + 1]], segment.start + i
        self.store.advance(segment, len(segment.tokens))

    def seen(self, view: View) -> Iterator[tuple[Segment, int, int]]:
        """(segment, index of a token, its shift), token by token."""
        for span in view.spans:
            for i in range(span.start, span.end or 0):
                yield span.segment, i, span.shift
        for i in range(view.num_own):
            assert view.own is not None
            yield view.own, i, 0

    def apply(self, name: str, number: int, amount: int) -> None:
        at = number % len(self.views)
        view, text = self.views[at], self.texts[at]
        length = amount % (len(text) + 1)
        if name == "write":
            view.open_segment().tokens.append(1 + amount % 2)
            text.append(1 + amount % 2)
        elif name == "compute":
            for segment in view.segments:
                self.compute(segment)
        elif name in ("cut", "rewind"):
            getattr(view, name)(length)
            del text[length:]
        elif name == "fork":
            self.views.append(view.fork())
            self.texts.append([*text])
        elif name in ("let_go", "find_more") and view.can_let_go:
            assert view.own is not None
            pending = view.own.pending
            told = getattr(view, name)()
            assert told == (view.own.pending - pending) * (1 if name == "let_go" else -1)
        elif name == "close":
            view.close()
            del self.views[at], self.texts[at]

    def open(self, text: list[int]) -> None:
        view = View(self.store)
        found = view.reuse(text)
        view.open_segment().tokens.extend(text[found:])
        self.views.append(view)
        self.texts.append([*text])

    def check(self) -> None:
        self.store.check_integrity()
        for view, text in zip(self.views, self.texts, strict=True):
            assert (view.tokens, view.length, view.position) == (text, len(text), len(text))
            for at, (segment, i, shift) in enumerate(self.seen(view)):
                assert segment.start + i + shift == at
                if i < segment.computed:
                    assert self.written[self.slot(segment, i)] == (text[: at + 1], at)


_texts = st.integers(1, 9).map([1].__mul__) | st.lists(st.sampled_from([1, 2]), min_size=1, max_size=9)
_names = ["write", "write", "compute", "compute", "cut", "rewind", "fork", "let_go", "find_more", "close"]
_steps = _texts | st.tuples(st.sampled_from(_names), st.integers(0, 5), st.integers(0, 12))


@settings(max_examples=300)
@given(steps=st.lists(_steps, max_size=30))
# Two that do not know of each other compute a beginning; what is found is the first's, and the end of the second's.
@example([[1] * 3, [1] * 7, ("compute", 0, 0), ("compute", 1, 0), ("close", 1, 0), [1] * 8, ("cut", 1, 5)])
# What was found and what comes behind it are let go of as one.
@example([[1] * 7, ("compute", 0, 0), [1] * 7, ("let_go", 1, 0), ("compute", 1, 0), ("find_more", 1, 0), ("cut", 1, 3)])
def test_a_view_has_its_text_whatever_it_shares(steps: list[list[int] | tuple[str, int, int]]) -> None:
    texts = Texts()
    for step in steps:
        if isinstance(step, list):
            texts.open(step)
        elif texts.views:
            texts.apply(*step)
        texts.check()
    for view in texts.views:
        view.close()
    texts.store.check_integrity()
    assert texts.store.usage().used == 0


def test_of_what_is_shown_behind_a_rewind_no_more_is_due_than_was_computed() -> None:
    texts = Texts()
    texts.open([1, 2, 1, 2])
    (view,) = texts.views
    for name, amount in (("compute", 0), ("rewind", 3), ("write", 0), ("write", 1)):
        texts.apply(name, 0, amount)
    own = view.show()
    assert own.tokens == [1, 2] and view.tokens == texts.texts[0]
    assert own.due == view.num_known == 0
