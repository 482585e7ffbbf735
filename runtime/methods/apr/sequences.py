"""Token statistics of a run as the paper counts them (arXiv 2504.15466, section 4; its evaluation code).

A *sequence* is a thread's whole context at the end of one call, prompt included. Every join begins a new one, which
repeats the thread's text before the spawn section.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Sequences:
    """Counts as sequences end; those that a thread did not live to end are left out."""

    count: int = 0
    tokens: int = 0
    shared: int = 0
    longest: int = 0

    def end(self, length: int, shared: int = 0) -> None:
        """A sequence of `length` tokens ends, whose first `shared` begin the thread's next one."""
        self.count += 1
        self.tokens += length
        self.shared += shared
        self.longest = max(self.longest, length)

    def summary(self) -> dict[str, int]:
        """`tokens`: of all sequences, as they are trained on; `tokens_once`: the paper's total, where what a thread's
        sequences share counts once; `longest`: what its code gives as sequential tokens."""
        return {
            "count": self.count,
            "tokens": self.tokens,
            "tokens_once": self.tokens - self.shared,
            "longest": self.longest,
        }
