"""What a job costs more in a pool than in the local runtime, and how long jobs take that arrive at random."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import Any

from ...runtime.mqtt.remote import RemoteRuntime
from ...runtime.runtime import Runtime
from .jobs import job_of
from .processor import Spent, spent
from .simulation import WARM_UP, Pool, replay, simulate
from .workers import Workers

REPLICATIONS = 200


async def overhead(url: str, workers: Workers, broker: int, count: int) -> dict[str, Any]:
    """Medians of jobs one after the other, the same here and there; milliseconds. `broker`: its process."""
    walls: dict[str, list[float]] = {"local": [], "pool": []}
    costs: dict[str, list[Spent]] = {"local": [], "pool": []}
    processes: tuple[int | str, ...] = ("self", broker, *workers.pids)
    async with Runtime("countdown") as local, Runtime(url) as remote:
        for number in range(count + 3):
            for name, runtime in (("local", local), ("pool", remote)):
                before, began = spent(*processes), time.perf_counter()
                await (await runtime.submit(job_of(1)))
                wall, cost = time.perf_counter() - began, spent(*processes) - before
                if number >= 3:  # The first ones warm up.
                    walls[name].append(wall)
                    costs[name].append(cost)
    found: dict[str, dict[str, float]] = {
        name: {
            "wall": statistics.median(walls[name]),
            "of a core": statistics.median(cost.running for cost in costs[name]),
            "waiting for a core": statistics.median(cost.waiting for cost in costs[name]),
        }
        for name in walls
    }
    found["more in the pool"] = {key: found["pool"][key] - found["local"][key] for key in found["pool"]}
    found["smallest"] = {name: min(walls[name]) for name in walls}
    return {name: {key: round(1000 * value, 1) for key, value in row.items()} for name, row in found.items()}


async def arrivals(url: str, workers: Workers, count: int, load: float, overhead: float) -> dict[str, Any]:
    """Poisson arrivals that keep such a part of a pool busy whose workers have one slot each: times, and what the
    simulation says from the jobs' own seconds. `overhead`: seconds."""
    size = len(workers.processes)
    found: dict[int, tuple[float, float]] = {}
    gaps: list[float] = []
    source = random.Random(7)

    async def one(number: int) -> None:
        began = time.perf_counter()
        result = await (await remote.submit(job_of(number)))
        found[number] = (time.perf_counter() - began, result.usage.seconds)

    async with Runtime(url) as remote:
        assert isinstance(remote, RemoteRuntime)
        while len(remote.workers) < size:  # noqa: ASYNC110 - beats tell
            await asyncio.sleep(0.1)
        await asyncio.gather(*map(one, range(6 * size)))
        rate = load * size / statistics.mean(seconds for _, seconds in list(found.values())[-4 * size :])
        found.clear()
        before = spent(*workers.pids)
        async with asyncio.TaskGroup() as group:
            last = time.perf_counter()
            for number in range(count):
                await asyncio.sleep(source.expovariate(rate))
                group.create_task(one(number))
                now = time.perf_counter()
                gaps.append(now - last)
                last = now
        rate = 1 / statistics.mean(gaps)
        cost = spent(*workers.pids) - before
    pool = Pool(workers=size)
    work = [found[number][1] for number in range(count)]
    # On a machine with other work jobs may become longer meanwhile, and the load more than the pool can do.
    seeds = range(REPLICATIONS if rate * statistics.mean(work) < size else 0)
    runs = [simulate(pool, rate, work, jobs=count, seed=seed, overhead=overhead) for seed in seeds]
    latencies = sorted(found[number][0] for number in range(int(WARM_UP * count), count))
    again = replay(pool, list(zip(gaps, work, strict=True)), overhead=overhead)
    return {
        "jobs": count,
        "workers": size,
        "jobs a second": round(rate, 2),
        "seconds of a job, mean": round(statistics.mean(work), 3),
        "load": round(rate * statistics.mean(work) / size, 2),
        "share of a core that a running worker got": round(cost.running / max(cost.running + cost.waiting, 1e-9), 2),
        "measured": {"p50": _place(latencies, 0.5), "p95": _place(latencies, 0.95)},
        "predicted from each job's own arrival and seconds": {"p50": round(again.p50, 3), "p95": round(again.p95, 3)},
        "predicted, median and 5 to 95 % of runs as long": runs
        and {
            "p50": _spread([run.p50 for run in runs]),
            "p95": _spread([run.p95 for run in runs]),
        },
    }


def _spread(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return _place(ordered, 0.5), _place(ordered, 0.05), _place(ordered, 0.95)


def _place(ordered: list[float], share: float) -> float:
    return round(ordered[int(share * len(ordered))], 3)
