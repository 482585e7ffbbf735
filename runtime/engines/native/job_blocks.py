"""`JobBlocks`: how many KV blocks each job holds, kept as it changes."""

from __future__ import annotations

from collections.abc import Iterable

from .segment import Segment


class JobBlocks:
    """A block counts once for a job, however many of its views hold the segment; segments say whose views they are in
    (`Segment.jobs`). Views of no job are not counted."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def __getitem__(self, job: str) -> int:
        return self._used.get(job, 0)

    def acquire(self, segment: Segment, job: str) -> None:
        """One more of the job's views holds the segment."""
        views = segment.jobs[job] = segment.jobs.get(job, 0) + 1
        if views == 1:
            self._used[job] = self[job] + segment.num_held

    def release(self, segment: Segment, job: str) -> None:
        """One of the job's views lets go."""
        segment.jobs[job] -= 1
        if not segment.jobs[job]:
            del segment.jobs[job]
            self._used[job] -= segment.num_held

    def note(self, segment: Segment, change: int) -> None:
        """The segment has so many blocks more."""
        for job in segment.jobs:
            self._used[job] += change

    def forget(self, job: str) -> None:
        """Its last view is closed."""
        self._used.pop(job, None)

    def is_right(self, segments: Iterable[Segment]) -> bool:
        """Do the counts equal those of the segments that are held?"""
        counted: dict[str, int] = {}
        for segment in segments:
            for job in segment.jobs:
                counted[job] = counted.get(job, 0) + segment.num_held
        return counted == {job: used for job, used in self._used.items() if used or job in counted}
