"""`Forest`: the tokens of many traces as nodes, each of which needs to be computed only once.

Two tokens that are equal, at equal positions and with equal tokens in view have equal keys, values and hidden states:
they are one *node*, whether they stand in threads of one rollout or in different ones. So a prompt is one chain of
nodes for its whole group, and rollouts part where their samples do.

Where one view holds such tokens more than once, as behind the join of paths that begin alike, each has a node of its
own: attention weighs every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...runtime.errors import InvalidInput
from ...runtime.trace.record import SegmentRecord, SpanRecord
from ...runtime.trace.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was sampled in one segment of a rollout."""

    branch: str
    tokens: list[int]
    logprobs: list[float]
    """Of the tokens, when they were sampled."""
    sources: list[int]
    """Nodes from whose logits they were sampled."""


@dataclass(slots=True)
class _Placed:
    """A segment whose tokens have nodes."""

    nodes: list[int]
    contexts: list[int]
    """What the segment's first token sees, its second one, ..., one that followed its last."""


class Forest:
    """Grows by whole traces."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.contexts: list[int] = []
        """What each node sees besides itself. Nodes come after all that they see."""
        self._nodes: dict[tuple[int, int, int], list[int]] = {}
        """The first, the second, ... of equal tokens in one view."""
        self._steps: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        """A context is another one and some nodes more; number 0 is the empty one."""
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, trace: Trace) -> list[Call]:
        """The calls of a job. What was sampled without log-probabilities, as in a generation that was stopped, is
        context at most. Raises `InvalidInput` for views that no mask can express: contexts in groups, shifted and live
        spans (Hogwild!)."""
        placed: dict[int, _Placed] = {}
        viewers = _viewers(trace)
        held: dict[int, int] = {}
        calls = []
        for segment in trace.segments:
            if trace.model_of(segment.branch) is not None or not len(segment):
                continue
            _check(segment)
            placed[segment.id] = own = self._place(segment, placed, viewers[segment.id], held)
            last = [span for span in segment.view if span.length]
            origin = placed[last[-1].segment].nodes[(last[-1].length or 0) - 1] if last else None
            call = _call(segment, own.nodes, origin)
            if call.tokens:
                calls.append(call)
        return calls

    def _place(self, segment: SegmentRecord, placed: dict[int, _Placed], viewers: int, held: dict[int, int]) -> _Placed:
        """`viewers`: bits of those of the segment; `held`: of those that hold a node already."""
        context = 0
        for span in segment.view:
            seen = placed[span.segment]
            length = span.length or 0
            # A span that continues what stands before it, as a prefix does, continues its chain of contexts.
            is_next = seen.contexts[0] == context
            context = seen.contexts[length] if is_next else self._context(context, tuple(seen.nodes[:length]))
        own = _Placed([], [context])
        for offset, token in enumerate(segment.token_ids):
            node = self._node((token, segment.position + offset, context), viewers, held)
            context = self._context(context, (node,))
            own.nodes.append(node)
            own.contexts.append(context)
        return own

    def _node(self, key: tuple[int, int, int], viewers: int, held: dict[int, int]) -> int:
        equal = self._nodes.setdefault(key, [])
        node = next((one for one in equal if not held.get(one, 0) & viewers), None)
        if node is None:
            node = len(self.tokens)
            equal.append(node)
            token, position, context = key
            self.tokens.append(token)
            self.positions.append(position)
            self.contexts.append(context)
        held[node] = held.get(node, 0) | viewers
        return node

    def _context(self, before: int, nodes: tuple[int, ...]) -> int:
        if not nodes:
            return before
        key = before, nodes
        context = self._known.get(key)
        if context is None:
            context = self._known[key] = len(self._steps)
            self._steps.append(key)
        return context

    def step(self, context: int) -> tuple[int, tuple[int, ...]]:
        """What a context is made of: another one, and the nodes that it has besides."""
        return self._steps[context]

    def needed(self, call: Call) -> set[int]:
        """The nodes that a call is computed from: its sources, all that they see, and so on."""
        found: set[int] = set()
        todo = list(call.sources)
        while todo:
            node = todo.pop()
            if node in found:
                continue
            found.add(node)
            context = self.contexts[node]
            while context:
                context, nodes = self._steps[context]
                todo += nodes
                if len(nodes) == 1 and self.contexts[nodes[0]] == context:
                    break  # the rest is what this node sees
        return found


def _viewers(trace: Trace) -> list[int]:
    """For each segment a number whose bits are the segments that see it."""
    found = [0] * len(trace.segments)
    for segment in trace.segments:
        for span in segment.view:
            found[span.segment] |= 1 << segment.id
    return found


def _call(segment: SegmentRecord, nodes: Sequence[int], origin: int | None) -> Call:
    call = Call(branch=segment.branch, tokens=[], logprobs=[], sources=[])
    at = 0
    for piece in segment.pieces:
        if piece.kind == "sampled" and piece.logprobs is not None:
            for offset, (token, logprob) in enumerate(zip(piece.token_ids, piece.logprobs, strict=True), at):
                source = nodes[offset - 1] if offset else origin
                if source is not None:
                    call.tokens.append(token)
                    call.logprobs.append(logprob)
                    call.sources.append(source)
        at += len(piece.token_ids)
    return call


def _check(segment: SegmentRecord) -> None:
    def is_plain(span: SpanRecord) -> bool:
        return span.length is not None and not span.shift and span.group is None

    if segment.views or segment.is_packed or not all(map(is_plain, segment.view)):
        raise InvalidInput(
            f"segment {segment.id} (branch {segment.branch}) saw text that was live, shifted or in a group, which no "
            f"attention mask can say: Hogwild! and parallel contexts cannot be trained this way"
        )
    if len({span.segment for span in segment.view}) < len(segment.view):
        raise InvalidInput(f"segment {segment.id} (branch {segment.branch}) saw a segment twice: no mask can hold it")
