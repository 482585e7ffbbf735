"""A pool of workers as a queue, in simulated time (by simpy).

Jobs arrive at random (Poisson), wait in one line, and go to the worker with the fewest jobs that has a free slot: what
the client of a pool does, which offers no more jobs than there are slots. A job's `work` is the seconds it takes on a
worker of its own. What runs beside it slows it down in two ways, each a factor on the speed of the job:

- k jobs on one worker get done `1 + gain (k - 1)` times the work of one. Gain 1: none is slowed down, as in small
  batches on a GPU, or where `work` was measured with as many beside it. Gain 0: they take turns.
- more busy workers than `cores`, where they share a machine, get `cores / busy` of one each.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import simpy

from ...runtime.errors import InvalidInput

WARM_UP = 0.1
"""Of the jobs: they find an emptier pool than the others and do not count."""

Work = float | Sequence[float]
"""Seconds of one job: the mean of an exponential distribution, or measured ones to draw from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    workers: int
    slots: int = 1
    """Jobs that run at once on one worker."""
    gain: float = 1.0
    cores: float | None = None
    """Of the machine that all workers share; None: each has its own."""

    def __post_init__(self) -> None:
        if not (self.workers > 0 and self.slots > 0 and 0 <= self.gain <= 1):
            raise InvalidInput("workers and slots are at least 1, the gain from 0 to 1")
        if self.cores is not None and self.cores <= 0:
            raise InvalidInput("cores are more than 0")

    def speeds(self, jobs: Sequence[int]) -> list[float]:
        """Of a job on each worker, which have so many."""
        busy = sum(n > 0 for n in jobs)
        share = 1.0 if self.cores is None or busy <= self.cores else self.cores / busy
        return [share * (1 + self.gain * (n - 1)) / n if n else 0.0 for n in jobs]

    @property
    def capacity(self) -> float:
        """Seconds of work that it does in a second."""
        return self.workers * self.slots * self.speeds([self.slots] * self.workers)[0]


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds; of jobs that arrived after the warm-up."""

    utilisation: float
    """Share of the slots that were taken."""
    waiting: float
    """Mean, until a job begins."""
    latency: float
    """Mean, from arrival to end."""
    p50: float
    p95: float


@dataclass(slots=True, eq=False)
class _Job:
    arrived: float
    left: float
    """Seconds of work."""
    begun: float = 0.0


def simulate(
    pool: Pool, rate: float, work: Work, *, jobs: int = 20_000, seed: int = 0, overhead: float = 0.0
) -> Figures:
    """`rate`: jobs a second. `overhead`: seconds that every job takes on top, waiting for nothing but messages. Raises
    `InvalidInput` if the line grows for ever."""
    check(pool, rate, work, jobs)
    source = random.Random(seed)

    def arrivals() -> Iterator[tuple[float, float]]:
        for _ in range(jobs):
            gap = source.expovariate(rate)
            yield gap, source.expovariate(1 / work) if isinstance(work, float) else source.choice(work)

    return _Run(pool, arrivals(), jobs).figures(overhead)


def replay(pool: Pool, jobs: Sequence[tuple[float, float]], *, overhead: float = 0.0) -> Figures:
    """What becomes of these jobs: seconds since the one before came, and of work."""
    return _Run(pool, iter(jobs), len(jobs)).figures(overhead)


class _Run:
    def __init__(self, pool: Pool, arrivals: Iterator[tuple[float, float]], jobs: int) -> None:
        self.pool, self.arrivals, self.jobs = pool, arrivals, jobs
        self.env = simpy.Environment()
        self.line: deque[_Job] = deque()
        self.workers: list[list[_Job]] = [[] for _ in range(pool.workers)]
        self.arrival = self.env.event()
        self.ended: list[tuple[float, float]] = []
        """Waiting and latency of the jobs that count."""
        self.taken = 0.0
        """Seconds of slots, after the warm-up."""
        self.counted_from = 0.0
        self.env.process(self._arrive())
        self.env.run(self.env.process(self._serve()))

    def _arrive(self) -> Generator[simpy.Event, None, None]:
        for number, (gap, work) in enumerate(self.arrivals):
            yield self.env.timeout(gap)
            if number == int(WARM_UP * self.jobs):
                self.counted_from = self.env.now
            self.line.append(_Job(self.env.now, work))
            self.arrival.succeed()
            self.arrival = self.env.event()

    def _serve(self) -> Generator[simpy.Event, None, None]:
        left = self.jobs
        while left:
            speeds = self.pool.speeds([len(jobs) for jobs in self.workers])
            next_end = min(
                (job.left / speed for jobs, speed in zip(self.workers, speeds, strict=True) for job in jobs),
                default=None,
            )
            began = self.env.now
            yield self.arrival if next_end is None else self.env.any_of([self.arrival, self.env.timeout(next_end)])
            passed = self.env.now - began
            for jobs, speed in zip(self.workers, speeds, strict=True):
                for job in jobs:
                    job.left -= passed * speed
                if self.counted_from:
                    self.taken += passed * len(jobs)
                for job in [job for job in jobs if job.left <= 1e-12 * self.env.now]:
                    jobs.remove(job)
                    left -= 1
                    if self.counted_from and job.arrived >= self.counted_from:
                        self.ended.append((job.begun - job.arrived, self.env.now - job.arrived))
            self._begin()

    def _begin(self) -> None:
        while self.line:
            worker = min(self.workers, key=len)
            if len(worker) == self.pool.slots:
                return
            job = self.line.popleft()
            job.begun = self.env.now
            worker.append(job)

    def figures(self, overhead: float) -> Figures:
        latencies = sorted(latency + overhead for _, latency in self.ended)
        count = len(latencies)
        return Figures(
            utilisation=self.taken / (self.env.now - self.counted_from) / (self.pool.workers * self.pool.slots),
            waiting=sum(waiting for waiting, _ in self.ended) / count,
            latency=sum(latencies) / count,
            p50=latencies[count // 2],
            p95=latencies[int(0.95 * count)],
        )


def mean(work: Work) -> float:
    return work if isinstance(work, float) else sum(work) / len(work)


def check(pool: Pool, rate: float, work: Work, jobs: int) -> None:
    """Raises `InvalidInput`."""
    if not isinstance(work, float) and not work:
        raise InvalidInput("there is no job whose seconds are known")
    if not (rate > 0 and mean(work) > 0 and jobs >= 100):
        raise InvalidInput("rate and seconds are more than 0, jobs at least 100")
    if rate * mean(work) >= pool.capacity:
        raise InvalidInput(
            f"{rate:g} jobs a second are {rate * mean(work):.3g} seconds of work a second; "
            f"{pool.workers} workers do {pool.capacity:.3g}: the line would grow for ever"
        )
