"""`View`: what one branch sees, and the segment it appends to. Pure bookkeeping over the `KVStore`.

    spans (text, live, attached, in order) | own segment (open; made with its first token)

Not thread-safe and without checks of what callers may do: `NativeBranch` takes the engine's lock and checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....attention.plan import Group
from .lineage import context_name, is_continued, lineage_of
from .segment import Segment, Span, locate, packed_shifts, text_of
from .store import KVStore


class View:
    """Holds a reference to every segment it names until `close`."""

    def __init__(
        self,
        store: KVStore,
        spans: tuple[Span, ...] = (),
        position: int = 0,
        *,
        is_packed: bool = False,
        job: str | None = None,
    ) -> None:
        self.store = store
        self.job = job
        """Whose blocks are counted."""
        self.spans = spans
        """In order, without the own segment."""
        self.base = len(spans)
        """Spans that came with the fork: what follows them is the branch's own work."""
        self.num_sealed = len(spans)
        """Spans that came with the fork, with `arrange`, or were sealed: a block is what follows them."""
        self.own: Segment | None = None
        """The open segment."""
        self.is_packed = is_packed
        """Are the spans read one behind another (`arrange`)?"""
        self.next_position = position
        """Of the next token, as long as the own segment is empty."""
        self._known = 0
        """`num_known`, unless what is computed tells."""
        self._rewound_to = 0
        """Tokens of the text that were there before what is being written began, if that was by a rewind."""
        store.hold(spans, job)

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def num_own(self) -> int:
        """Tokens of the own segment."""
        return 0 if self.own is None else len(self.own.tokens)

    @property
    def num_text(self) -> int:
        """Tokens of text before the own segment."""
        return sum(len(span) for span in self.spans if span.is_text)

    @property
    def num_open(self) -> int:
        """Tokens of the own segment and of what it goes on, which was found."""
        found = self.spans[self._first_found :] if self.own is not None and self.own.is_joined else ()
        return sum(map(len, found)) + self.num_own

    @property
    def _first_found(self) -> int:
        """The span in which what the own segment goes on begins, if it is joined."""
        return max(i for i, span in enumerate(self.spans) if not span.is_joined)

    @property
    def num_known(self) -> int:
        """Of those, how many would be computed now, had nothing been found or let go of: so many who looks on sees."""
        own = self.own
        if own is None:
            return 0
        there = max(own.computed, own.due)
        return self.num_open - len(own.tokens) + there if there else min(self._known, self.num_open)

    @property
    def tokens(self) -> list[int]:
        """The text: what is live or attached is only looked at."""
        text = text_of(self.spans)
        return text if self.own is None else text + self.own.tokens

    @property
    def length(self) -> int:
        """`len(tokens)`."""
        return self.num_text + self.num_own

    @property
    def position(self) -> int:
        """Of the next token, as the branch counts."""
        if self.is_packed:
            width = -packed_shifts(self.spans, [span.start + len(span) for span in self.spans], 0)[1]
            return width + self.num_own
        return self.own.start + self.num_own if self.own is not None and self.num_own else self.next_position

    @property
    def segments(self) -> list[Segment]:
        """Every segment, the own one last."""
        return [span.segment for span in self.spans] + ([] if self.own is None else [self.own])

    @property
    def continues(self) -> bool:
        """Was the last token of the spans written under exactly what stands before it? Then its logits can be had."""
        return is_continued(self.spans, self.store.block_size)

    def written(self) -> list[Span]:
        """The text since the fork."""
        return [span for span in self.spans[self.base :] if span.is_text]

    def _unsealed(self) -> list[Span]:
        """The frozen part of what a block made now covers: text, and what was attached to it."""
        return [span for span in self.spans[self.num_sealed :] if not span.is_live]

    @property
    def _is_observed(self) -> bool:
        """Does the own segment look on, or does somebody look at it?"""
        own = self.own
        return own is not None and (own.is_watched or self.is_packed or any(span.is_live for span in self.spans))

    # -- changes -----------------------------------------------------------------------------------------------

    def open_segment(self, *, is_joined: bool = False) -> Segment:
        """The segment to append to, made if there is none. `is_joined`: it is empty, and goes on the last span."""
        if self.own is None:
            self.own = Segment(self.next_position)
            self.store.acquire(self.own, job=self.job)
        if not self.own.tokens:
            self.own.is_joined = is_joined or self.own.is_joined
            self.own.view = self.spans
            self.own.start = self.next_position
            self.own.is_packed = self.is_packed
            self.own.lineage = None if self.is_packed else self._lineage(is_joined=self.own.is_joined)
        return self.own

    def show(self) -> Segment:
        """The own segment, for others to look at. They see all that is open, so none of it stays found elsewhere; and
        what is rewound is gone for them too, so nobody else may rely on it (`KVStore.match`)."""
        own = self.open_segment()
        if self._rewound_to > self.length - self.num_open:
            own = self._end_rewound()
        if own.is_joined or own.pins:
            own = self._anew(own)
        own.due = max(own.due, self.num_known)
        return own

    def _end_rewound(self) -> Segment:
        """A rewind ended what was being written, which went on in its segment as long as nobody could tell. What was
        written since, in a segment of its own."""
        since, known = self.tokens[self._rewound_to :], self.num_known
        ended = self._rewound_to - (self.length - self.num_open)
        self.cut(self._rewound_to)
        self.freeze()
        self.close_own()
        own = self.open_segment()
        own.tokens.extend(since)
        self._known = max(known - ended, 0)
        return own

    def _anew(self, own: Segment) -> Segment:
        """All that is open as one segment, of which nothing is computed yet, in place of the own one."""
        tokens, known, self.next_position = own.tokens, self.num_known, own.start
        self.close_own()
        if own.is_joined:
            first = self._first_found
            tokens = text_of(self.spans[first:]) + tokens
            self._keep(first, 0, is_open=True)
        own = self.open_segment()
        own.tokens.extend(tokens)
        self._known = known
        return own

    @property
    def can_let_go(self) -> bool:
        """Would what is open be the same if it was computed again, for everybody?"""
        return self.own is not None and self.own.lineage is not None and not self.own.is_watched

    def let_go(self) -> int:
        """Hold nothing of what is open but its text; how many tokens more are pending then. The store keeps of it what
        nobody else needs the blocks of."""
        assert self.own is not None and self.can_let_go
        pending = self.own.pending
        return self._anew(self.own).pending - pending

    def find_more(self) -> int:
        """Take from the store what it has got meanwhile of the open text; how many tokens less are pending."""
        own = self.own
        assert own is not None and self.can_let_go
        pending, tokens, known = own.pending, own.tokens, self.num_known
        kept = own.computed - own.computed % self.store.block_size
        if kept:
            # What is computed becomes text in front of what is not.
            self.freeze()
            self._keep(len(self.spans) - 1, kept, is_open=True)
        else:
            self.store.truncate(own, 0)
            self.next_position = own.start
        found = self.reuse(tokens[kept:])
        own = self.open_segment()
        own.tokens.extend(tokens[kept + found :])
        self._known = known
        return pending - own.pending

    def reuse(self, tokens: Sequence[int]) -> int:
        """Take from the prefix index what it has of `tokens`, which are about to be appended; how many it had."""
        # Only a text that is written in one go is looked up: decoded tokens are new anyway. And who watches the own
        # segment would not see what is found.
        own = self.open_segment()
        if own.tokens or own.is_watched:
            return 0
        found = self.store.match(own.lineage, tokens)
        count = sum(map(len, found))
        if found:
            first, spans = replace(found[0], is_joined=own.is_joined), self.spans
            if own.is_joined and (spans[-1].segment, spans[-1].end) == (first.segment, first.start):
                first = replace(spans[-1], end=first.end)
                spans = spans[:-1]
            self.replace((*spans, first, *found[1:]))
            self.next_position += count
            self.open_segment(is_joined=True)
        return count

    def _lineage(self, *, is_joined: bool = False) -> bytes | None:
        """Of what is written next, if nothing of it is yet."""
        return lineage_of(self.spans, self.next_position, self.store.block_size, is_joined=is_joined)

    def _context(self, tokens: Sequence[int]) -> Segment:
        """The segment of a text that is encoded on its own behind this view: the one there is, or a new one."""
        lineage = self._lineage()
        name = None if lineage is None else context_name(lineage, tokens)
        segment = None if name is None else self.store.named.get(name)
        if segment is None:
            segment = Segment(self.next_position)
            segment.view, segment.lineage = self.spans, lineage
            segment.tokens.extend(tokens)
            if name is not None:
                segment.name = name
                self.store.named[name] = segment
        return segment

    def append(self, spans: Sequence[Span]) -> None:
        """Put spans behind the others; behind text, the next token goes after the furthest position."""
        self.replace((*self.spans, *spans))
        if spans and spans[-1].is_text and not self.num_own:
            last = spans[-1]
            self._go_on_at(last.segment.start + last.start + len(last) + last.shift)

    def take(self, spans: Sequence[Span], position: int) -> None:
        """Append spans behind what was written, and go on at `position` at the earliest."""
        self.freeze()
        self.append(spans)
        self._go_on_at(position)

    def _go_on_at(self, position: int) -> None:
        """At the earliest. An arranged view has room for spans wherever they are: there only what is written counts."""
        if not self.is_packed:
            self.next_position = max(self.next_position, position)

    def attach_contexts(self, texts: Sequence[Sequence[int]], group: Group) -> list[Segment]:
        """See texts that are each encoded on their own behind this view as one group; their segments."""
        self.freeze()
        segments = [self._context(text) for text in texts if text]
        longest = max(map(len, texts), default=0)
        self.take([Span(s, 0, len(s.tokens), 0, group) for s in segments], self.next_position + longest)
        return segments

    def replace(self, spans: tuple[Span, ...]) -> None:
        old, self.spans = self.spans, spans
        self.num_sealed = min(self.num_sealed, len(spans))
        self.store.hold(spans, self.job)
        self.store.drop(old, self.job)

    def freeze(self) -> None:
        """Turn the own segment into a span; an empty one stays, since others may watch it already."""
        own = self.own
        if own is None:
            return
        if not own.tokens:
            own.is_joined = False
            return
        self.next_position = own.start + len(own.tokens)
        self._known = 0
        self.store.freeze(own)
        self.append([Span(own, 0, len(own.tokens), is_joined=own.is_joined)])
        self.close_own()

    def fork(self) -> View:
        """A view of the same, which goes on from here."""
        self.freeze()
        return View(self.store, self.spans, self.next_position, is_packed=self.is_packed, job=self.job)

    def rewind(self, length: int) -> None:
        """As `cut`, but what comes then does not take the place of what was seen there."""
        if length == self.length:
            return
        is_observed = self._is_observed
        self.cut(length)
        self._rewound_to = length
        if is_observed:
            self.freeze()
            self.close_own()

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens of the text, and what was watched or attached before the first that goes."""
        own, known = self.own, self.num_known
        before_own = self.num_text
        if length < before_own:
            at, keep = locate(self.spans, length)
            # Where the text is open that far back, it stays so.
            is_open = own is not None and own.is_joined and all(span.is_joined for span in self.spans[at + 1 :])
            self.close_own()
            self._keep(at, keep, is_open=is_open)
        elif own is not None and length < before_own + len(own.tokens):
            keep = length - before_own
            self.next_position = own.start + keep
            if own.pins:
                # Somebody else relies on the tokens: leave the segment to them and go on in a new one.
                self.store.freeze(own)
                self.append([Span(own, 0, len(own.tokens), is_joined=own.is_joined)])
                self.close_own()
                self._keep(len(self.spans) - 1, keep, is_open=True)
            else:
                self.store.truncate(own, keep)
        self._known = min(known, self.num_open)

    def _keep(self, at: int, length: int, *, is_open: bool) -> None:
        """Keep `length` tokens of span number `at`, and no later span. If `is_open`, the own segment goes on there, as
        if it were the own one that was cut."""
        span = self.spans[at]
        text = span.segment.tokens[span.start : span.start + length]
        rest = length % self.store.block_size if is_open else 0  # what is not a whole block is written once more
        kept = length - rest
        self.replace((*self.spans[:at], span.upto(kept)) if kept else self.spans[:at])
        self.next_position = span.segment.start + span.start + kept + span.shift
        self.base = min(self.base, len(self.spans))
        if is_open:
            self.open_segment(is_joined=kept > 0 or span.is_joined).tokens.extend(text[kept:])

    def block(self) -> list[Span]:
        """What was written since the view was last arranged or sealed, and what will be in the own segment."""
        live = Span(self.show(), 0, None)
        return [*self._unsealed(), live]

    def seal(self) -> list[Span]:
        """End what `block` stands for, which becomes fixed text."""
        self.freeze()
        self.close_own()  # if it is empty, nobody may append to it any more
        sealed = self._unsealed()
        self.num_sealed = len(self.spans)
        return sealed

    def arrange(self, spans: Sequence[Span]) -> None:
        """See these spans one behind another, and behind them what was written since the last arrangement."""
        own = self.own if self.num_own else None
        kept = self._unsealed() if self.is_packed else []
        if own is None and not kept:
            self.next_position = 0
        self.replace((*spans, *kept))
        self.base = self.num_sealed = len(spans)
        self._rewound_to = 0
        self.is_packed = True
        if own is not None:
            # What is there was computed under the view as it was; from here on the new one counts.
            own.view = self.spans

    def close_own(self) -> None:
        if self.own is not None:
            own, self.own = self.own, None
            if own.is_watched and own.due > own.computed:
                self.store.freeze(own)  # who watches makes that good
            self.store.release(own, job=self.job)

    def close(self) -> None:
        self.close_own()
        self.store.drop(self.spans, self.job)
        self.spans = ()
