"""`Running`: the generations that may be in the next step, in the order in which they are served.

A job may have thousands of which a step takes a few, so nothing here looks at all of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import attrgetter

from .generation import NativeGeneration

_COUNTED = 64
"""Generations of a job of which it is looked up what they want; the others count as one row each."""

_by_arrival = attrgetter("sequence")


class Peers:
    """The generations of a job that have one priority and one deadline."""

    def __init__(self, job: str, priority: int, deadline: float) -> None:
        self.job = job
        self.priority = priority
        self.deadline = deadline
        self._begun: list[NativeGeneration] = []
        """By arrival, as are the next ones."""
        self._fresh: list[NativeGeneration] = []
        """Had not sampled when it was last looked."""

    def __len__(self) -> int:
        return len(self._begun) + len(self._fresh)

    def add(self, g: NativeGeneration) -> None:
        insort(self._begun if g.sampled else self._fresh, g, key=_by_arrival)

    def remove(self, g: NativeGeneration) -> None:
        for part in (self._fresh, self._begun):
            at = bisect_left(part, g.sequence, key=_by_arrival)
            if part[at : at + 1] == [g]:
                del part[at]
                return
        raise KeyError(g)

    def begun(self) -> Iterator[NativeGeneration]:
        """Those that have sampled: whoever decodes first, then those of which more is to be computed."""
        return _decoding_first(self._begun)

    def fresh(self) -> Iterator[NativeGeneration]:
        """Those that have not, in the same order."""
        return _decoding_first(self._fresh)

    @property
    def num_begun(self) -> int:
        return len(self._begun)

    def look(self) -> None:
        """See who has sampled meanwhile."""
        begun = [g for g in self._fresh if g.sampled]
        if begun:
            self._fresh = [g for g in self._fresh if not g.sampled]
            for g in begun:
                self.add(g)

    def some(self) -> Iterator[NativeGeneration]:
        """The first ones."""
        return islice((g for part in (self._begun, self._fresh) for g in part), _COUNTED)


def _decoding_first(generations: list[NativeGeneration]) -> Iterator[NativeGeneration]:
    """By arrival, but prompts behind the others: so a full step has room for whoever has just come."""
    prompts = []
    for g in generations:
        own = g.branch.view.own
        # What is put into a gang's member must not keep the others waiting.
        if own is not None and own.pending > 1 and g.branch.gang is None:
            prompts.append(g)
        else:
            yield g
    yield from prompts


class Running:
    """A set, iterated in the order in which generations came or went on."""

    def __init__(self) -> None:
        self._peers: dict[tuple[str, int, float], Peers] = {}
        self._of: dict[NativeGeneration, Peers] = {}
        self.without_logits: dict[NativeGeneration, None] = {}
        """Those that only want their pending tokens computed."""
        self.num_begun = 0
        """How many had sampled when `in_order` was last asked for."""

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[NativeGeneration]:
        return iter(self._of)

    def __contains__(self, g: object) -> bool:
        return g in self._of

    def add(self, g: NativeGeneration) -> None:
        branch = g.branch
        key = branch.job, branch.priority, branch.deadline
        peers = self._peers.get(key)
        if peers is None:
            peers = self._peers[key] = Peers(*key)
        peers.add(g)
        self._of[g] = peers
        if not g.wants_logits:
            self.without_logits[g] = None

    def remove(self, g: NativeGeneration) -> None:
        """Raises `KeyError` if it is not there."""
        peers = self._of.pop(g)
        peers.remove(g)
        self.without_logits.pop(g, None)
        if not len(peers):
            del self._peers[peers.job, peers.priority, peers.deadline]

    def in_order(self, served: Mapping[str, int]) -> list[Peers]:
        """By priority, then deadline, then fair share: `served` are the rows that each job was given."""
        for peers in self._peers.values():
            peers.look()
        self.num_begun = sum(peers.num_begun for peers in self._peers.values())
        return sorted(self._peers.values(), key=lambda one: (-one.priority, one.deadline, served[one.job]))

    def peers(self) -> Iterator[Peers]:
        """In no order."""
        return iter(self._peers.values())
