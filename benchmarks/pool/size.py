"""How many workers a load needs, by simulation.

    python -m plait.benchmarks.pool.size --rate 2 --seconds 1.4 --slots 2 --p95 5
    python -m plait.benchmarks.pool.size --rate 2 --results runs/countdown --p95 5 --cores 2

`--results`: a folder of `plait eval`, whose jobs' wall times are drawn from; run that with a `--concurrency` equal to
`--slots` here, so that the times contain what jobs of one worker cost each other. Needs simpy
(`pip install 'plait[pool]'`).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ...evals.store import read_units
from ...runtime.errors import InvalidInput
from .simulation import Figures, Pool, Work, mean, simulate


def measured(folder: Path) -> list[float]:
    """Seconds of the jobs that ran in an evaluation. Raises `InvalidInput`."""
    units, _ = read_units(folder)
    found = [
        row.measured.seconds
        for unit in units.values()
        for row in unit.rows
        if row.measured is not None and row.origin == "run"
    ]
    if not found:
        raise InvalidInput(f"{folder} holds no job whose time was measured")
    return found


def smallest(
    pool: Pool, rate: float, work: Work, p95: float, *, jobs: int = 20_000, overhead: float = 0.0, most: int = 1000
) -> list[tuple[int, Figures]]:
    """Figures for each number of workers that keeps up, from the smallest to the first whose p95 is within bound.

    Raises `InvalidInput` if there is none."""
    tried: list[tuple[int, Figures]] = []
    for workers in range(1, most + 1):
        pool = replace(pool, workers=workers)
        if rate * mean(work) >= pool.capacity:
            if pool.cores is not None and workers > pool.cores:
                break
            continue
        figures = simulate(pool, rate, work, jobs=jobs, overhead=overhead)
        tried.append((workers, figures))
        if figures.p95 <= p95:
            return tried
        # More workers than this leave nobody waiting.
        if figures.waiting < 1e-4 * figures.latency or (pool.cores is not None and workers > pool.cores):
            break
    best = f"; {tried[-1][0]} workers have {tried[-1][1].p95:.3g}" if tried else ""
    raise InvalidInput(f"no number of workers keeps p95 within {p95:g} s{best}: jobs are too long, or cores too few")


def table(tried: list[tuple[int, Figures]]) -> str:
    lines = ["| workers | slots taken | waiting, mean s | latency, mean s | p50 s | p95 s |", "| --: " * 6 + "|"]
    for workers, found in tried:
        cells = (found.waiting, found.latency, found.p50, found.p95)
        lines.append(f"| {workers} | {found.utilisation:.0%} | " + " | ".join(f"{cell:.3g}" for cell in cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, required=True, help="jobs that arrive in a second, at random")
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--seconds", type=float, help="mean of a job's time, exponentially distributed")
    work.add_argument("--results", type=Path, metavar="FOLDER", help="of plait eval: its jobs' times")
    parser.add_argument("--p95", type=float, required=True, metavar="SECONDS", help="bound for 95 of 100 jobs")
    parser.add_argument("--workers", type=int, help="say how this many do, instead of looking for the fewest")
    parser.add_argument("--slots", type=int, default=1, help="jobs that run at once on one worker (1)")
    parser.add_argument("--gain", type=float, default=1.0, help="work that one more job adds, 0 to 1 (1)")
    parser.add_argument("--cores", type=float, help="that all workers share (each has its own)")
    parser.add_argument("--overhead", type=float, default=0.01, help="seconds that the broker adds to a job (0.01)")
    parser.add_argument("--jobs", type=int, default=20_000, help="to simulate (20,000)")
    args = parser.parse_args(arguments)
    seconds: Work = measured(args.results) if args.seconds is None else args.seconds
    pool = Pool(workers=args.workers or 1, slots=args.slots, gain=args.gain, cores=args.cores)
    try:
        if args.workers is not None:
            tried = [(args.workers, simulate(pool, args.rate, seconds, jobs=args.jobs, overhead=args.overhead))]
        else:
            tried = smallest(pool, args.rate, seconds, args.p95, jobs=args.jobs, overhead=args.overhead)
    except InvalidInput as error:
        parser.error(str(error))
    print(table(tried))


if __name__ == "__main__":
    main()
