"""Keys of the prefix index: what a segment's tokens were computed from, as a chain of hashes.

A key stands for tokens **and** positions **and** visibility: its chain starts from what the segment's view could see
(`lineage_of`), never from token ids alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ....attention.plan import Group
from .segment import ROOT, Segment, Span


def block_key(before: bytes, tokens: Sequence[int]) -> bytes:
    """Key of a full block of tokens behind what `before` stands for."""
    return _digest(before, _token_bytes(tokens))


def context_name(lineage: bytes, tokens: Sequence[int]) -> bytes:
    """Key of a text encoded on its own behind what `lineage` stands for."""
    return _digest(lineage, b"context", _token_bytes(tokens))


def key_at(segment: Segment, index: int, size: int) -> bytes | None:
    """Key of everything up to token `index` of the segment, its lineage included; `size`: of a block. None: it sees
    something live."""
    if segment.lineage is None:
        return None
    known = min(len(segment.keys), index // size)
    key = segment.keys[known - 1] if known else segment.lineage
    for at in range(known * size, index - index % size, size):
        key = block_key(key, segment.tokens[at : at + size])
    if index % size:
        key = _digest(key, b"tail", _token_bytes(segment.tokens[index - index % size : index]))
    return key


def lineage_of(view: Sequence[Span], position: int, size: int, *, is_joined: bool = False) -> bytes | None:
    """Key of an empty segment at `position` under `view`, which goes on its last span if `is_joined`; None if it sees
    something live. `size`: of a block.

    A span that merely continues what stands before it, as a prefix does, continues its chain of keys: one text has one
    key, whatever of it was found in the store. Where a branch was forked or sealed, another chain begins, even at the
    end of a block: attention reads what lies on the two sides apart, and adds up in another order.
    """
    state = ROOT
    expected = 0
    groups: dict[int, int] = {}
    for i, span in enumerate(view):
        if span.end is None:
            return None
        before = key_at(span.segment, span.start, size)
        after = key_at(span.segment, span.end, size)
        if before is None or after is None:
            return None
        first = span.segment.start + span.start + span.shift
        if i and not span.is_joined:
            state = _digest(state, b"cut")
        if before == state and first == expected and span.shift == 0 and span.group is None:
            state = after
        else:
            group = span.group
            tag = (-1,) if group is None else (groups.setdefault(id(group), len(groups)), *_params(group))
            state = _digest(state, after, before, _int_bytes(span.shift, *tag))
        expected = first + len(span)
    if view and not is_joined:
        state = _digest(state, b"cut")
    return state if position == expected else _digest(state, b"position", _int_bytes(position))


def is_continued(view: Sequence[Span], size: int) -> bool:
    """Was the last token of the view written under exactly what stands before it? `size`: of a block."""
    if not view or not view[-1].is_text or view[-1].shift:
        return False
    *before, last = view
    segment = last.segment
    if len(before) == len(segment.view) and all(_same(a, b) for a, b in zip(before, segment.view, strict=True)):
        return last.start == 0
    lineage = lineage_of(before, segment.start + last.start, size, is_joined=last.is_joined)
    return lineage is not None and lineage == key_at(segment, last.start, size)


def _same(a: Span, b: Span) -> bool:
    return (a.segment, a.start, a.end, a.shift, a.group) == (b.segment, b.start, b.end, b.shift, b.group)


def _params(group: Group) -> tuple[float, float, float]:
    return group.temperature, group.factor, group.bias


def _digest(*parts: bytes) -> bytes:
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(4, "little"))
        h.update(part)
    return h.digest()


def _token_bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype=np.int64).tobytes()


def _int_bytes(*numbers: float) -> bytes:
    return repr(numbers).encode()
