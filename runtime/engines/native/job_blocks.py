"""`JobBlocks`: how many KV blocks each job refers to, kept as it changes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .segment import Segment, Share


class JobBlocks:
    """A block counts once for a job, however many of its views refer to it, and not where only others do; segments say
    whose views they are in (`Segment.jobs`). Views of no job are not counted."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._used: dict[str, int] = {}

    def __getitem__(self, job: str) -> int:
        return self._used.get(job, 0)

    def acquire(self, segment: Segment, end: int, job: str) -> None:
        """One more of the job's views refers to the segment, up to `end`."""
        share = segment.jobs.setdefault(job, Share())
        share.ends[end] = share.ends.get(end, 0) + 1
        if share.ends[end] == 1:
            self._count(segment, share, job)

    def release(self, segment: Segment, end: int, job: str) -> None:
        """One of the job's views lets go."""
        share = segment.jobs[job]
        share.ends[end] -= 1
        if not share.ends[end]:
            del share.ends[end]
            self._count(segment, share, job)
            if not share.ends:
                del segment.jobs[job]

    def note(self, segment: Segment) -> None:
        """The segment has other blocks than before."""
        for job, share in segment.jobs.items():
            self._count(segment, share, job)

    def forget(self, job: str) -> None:
        """Its last view is closed."""
        self._used.pop(job, None)

    def is_right(self, segments: Iterable[Segment]) -> bool:
        """Do the counts equal those of the segments that are held?"""
        counted: dict[str, int] = {}
        for segment in segments:
            for job, share in segment.jobs.items():
                counted[job] = counted.get(job, 0) + self._held(segment, share)
        return counted == {job: used for job, used in self._used.items() if used or job in counted}

    def _count(self, segment: Segment, share: Share, job: str) -> None:
        held = self._held(segment, share)
        self._used[job] = self[job] + held - share.blocks
        share.blocks = held

    def _held(self, segment: Segment, share: Share) -> int:
        blocks = -(-max(share.ends, default=0) // self.block_size)
        if blocks >= len(segment.blocks):
            return segment.num_held
        return int(np.count_nonzero(segment.blocks[:blocks] >= 0))
