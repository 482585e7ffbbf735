"""Judges: did a thread tell the truth about its subproblem? What `per_thread` and `tree` credit need of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ...evals.benchmark import Sample
from ...evals.benchmarks.countdown import paths
from ...evals.benchmarks.countdown.solver import is_solvable, solve
from ...runtime.methods.apr import compact, paper
from ...runtime.methods.search_path import final_path
from ...runtime.plugins import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread that handed something to another one."""

    label: str
    """What its parent calls it."""
    prompt: str
    """What it was opened with; for a fork, what its root was opened with."""
    text: str
    """All that stands behind that in the end."""


class Judge(Protocol):
    """Never raises, whatever the model wrote."""

    def __call__(self, sample: Sample, thread: Thread) -> float | None:
        """1.0: it told the truth; 0.0: it did not, or told nothing; None: nobody can say."""
        ...


JUDGES: Registry[Judge] = Registry("judge", "plait.judges")
"""By the names of benchmarks; others may add theirs."""


def countdown(sample: Sample, thread: Thread) -> float | None:
    """A solution that checks, or that there is none where brute force finds none, in either language.

    Children of APR search the numbers they were given; paths of Multiverse the results of one row of the table.
    """
    words = thread.prompt.split()
    start = compact.read_prompt(words)
    if start is None:
        return _paper(sample, thread)
    if start.mode == "mv":
        return _path(start, thread)
    said = thread.text.split()
    told = compact.CompactDialect().result(" ".join((*words, *said)))
    if told is not None:
        return float(compact.replay(start.nums, compact.read_steps(told) or ()) == start.target)
    return float(said[-1:] == [compact.NONE] and not _can_be_solved(start.nums, start.target))


def _paper(sample: Sample, thread: Thread) -> float | None:
    """A child of APR in the paper's language."""
    start = paper.read_prompt(thread.prompt)
    # The state is what the model wrote: brute force is for no more numbers than the problem has.
    if start is None or not 0 < len(start[0]) <= len(sample.data.nums):
        return None
    nums, target = start
    path = final_path(thread.text)
    if path is not None:
        return float(paths.strict(nums, target, path).ok)
    last = thread.text.rstrip("\n").rpartition("\n")[2]
    return float(last == paper.NO_SOLUTION and not _is_solvable(nums, target))


def _path(problem: compact.Prompt, thread: Thread) -> float | None:
    pairs = compact.pairs(problem.nums)
    index = compact.number(thread.label)
    if index is None or not 1 <= index <= len(pairs):
        return None
    said = [word for word in thread.text.split() if not word.startswith("<")]
    if compact.ANSWER in said:
        _, *told = said[len(said) - said[::-1].index(compact.ANSWER) :] or [""]  # the index is one word: `2:`
        steps = compact.read_steps(" ".join(told))
        return float(steps is not None and compact.replay(problem.nums, steps) == problem.target)
    a, b, rest = pairs[index - 1]
    results = [r for r in compact.results(a, b) if r is not None]
    is_hopeless = not any(_can_be_solved((r, *rest), problem.target) for r in results)
    return float(said[-1:] == [compact.NONE] and is_hopeless)


@lru_cache(maxsize=1 << 16)
def _can_be_solved(nums: tuple[int, ...], target: int) -> bool:
    return solve(nums, target, compact.CAP) is not None


_is_solvable = lru_cache(maxsize=1 << 16)(is_solvable)
"""Without a cap, which the paper's language does not have."""

JUDGES.register("countdown", countdown)
