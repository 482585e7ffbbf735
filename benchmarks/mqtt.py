"""Chaos on a pool: three workers, one killed every few seconds, the broker restarted twice, messages repeated.

    python -m plait.benchmarks.mqtt --jobs 300 --kill-every 4

Says whether each job was answered exactly once, whether events of a job came in order, what a job costs more than in
the local runtime, and how long it took until a job whose worker was killed had begun anew. Needs mosquitto.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory

from ..runtime.budget import Budget
from ..runtime.events import Started, Stopped, Text
from ..runtime.job_spec import JobSpec
from ..runtime.jobs.job import Job
from ..runtime.methods.registry import parse_method
from ..runtime.mqtt.link import Link
from ..runtime.mqtt.remote import RemoteRuntime
from ..runtime.mqtt.remote_job import RemoteJob
from ..runtime.runtime import Runtime
from .mosquitto import Broker, start_worker

WORKERS = 3


def job_of(number: int) -> JobSpec:
    """Two in three are sequential, the others spawn."""
    fields = (
        {"method": "apr", "prompt": "apr 24 : 63 9 5 2 ;", "dialect": "compact", "depth": 2, "context_limit": 512}
        if number % 3 == 0
        else {"method": "sequential", "prompt": "seq 24 : 63 9 5 2 ;"}
    )
    return JobSpec(method=parse_method(fields), budget=Budget(), seed=number)


class Reader:
    """What one job's events say, checked as they come."""

    def __init__(self) -> None:
        self.ends = 0
        self.is_ordered = True
        self.begun: list[float] = []

    async def read(self, job: Job) -> None:
        last, started = -1.0, False
        async for event in job:
            if isinstance(event, Started):
                last, started = -1.0, True
                self.begun.append(time.monotonic())
            if isinstance(event, (Text, Stopped)):
                self.is_ordered &= started
            if event.type not in ("budget", "text"):  # These two may have waited and grown.
                self.is_ordered &= event.time >= last
                last = event.time
            self.ends += event.type in ("done", "failed")


async def overhead(url: str, count: int) -> dict[str, float]:
    """Milliseconds a job takes here and there, one after the other and without chaos; medians."""
    times: dict[str, list[float]] = {"local": [], "pool": []}
    async with Runtime("countdown") as local, Runtime(url) as remote:
        for number in range(count + 1):
            for name, runtime in (("local", local), ("pool", remote)):
                began = time.perf_counter()
                await (await runtime.submit(job_of(1)))
                if number:  # The first one warms up.
                    times[name].append(1000 * (time.perf_counter() - began))
    return {name: round(statistics.median(found), 1) for name, found in times.items()}


async def repeat(link: Link, runtime: RemoteRuntime) -> int:
    """Send what the workers and the client get once more, with what was said a while ago."""
    count = 0
    while True:
        await asyncio.sleep(0.3)
        for job in runtime.jobs[:3]:
            spec = job.spec
            assert isinstance(spec, JobSpec) and isinstance(job, RemoteJob)
            data = spec.model_dump(mode="json") | {"budget": {}}
            offer = {"type": "offer", "epoch": max(job.epoch, 1), "job": data}
            claim = {"type": "claim", "epoch": max(job.epoch, 1), "worker": "plait-worker-stale"}
            link.post(runtime.address.topic("jobs", runtime.client, job.id), json.dumps(offer).encode())
            if job.epoch:
                link.post(runtime.address.topic("reports", runtime.client, job.id), json.dumps(claim).encode())
            count += 2


async def chaos(args: argparse.Namespace, broker: Broker, workers: list[Popen[bytes]]) -> dict[str, object]:
    kills: list[float] = []

    async def kill() -> None:
        while True:
            await asyncio.sleep(args.kill_every)
            victim = workers.pop(0)
            victim.kill()
            await asyncio.to_thread(victim.wait)
            kills.append(time.monotonic())
            workers.append(start_worker(broker.url(), "--jobs", "2"))

    async def restart() -> None:
        for _ in range(2):
            await asyncio.sleep(1.3 * args.kill_every)
            await asyncio.to_thread(broker.stop)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(broker.start)

    began = time.monotonic()
    runtime = Runtime(broker.url(), max_epochs=50, lease=5.0)
    assert isinstance(runtime, RemoteRuntime)
    async with runtime:
        link = Link(
            runtime.address,
            "plait-chaos",
            subscriptions=["nothing"],
            will=("nothing", False),
            session_seconds=0,
            will_delay=0,
            receive=lambda topic, payload: None,
            connected=lambda: None,
        )
        async with link:
            tasks = [asyncio.create_task(kill()), asyncio.create_task(restart())]
            tasks.append(asyncio.create_task(repeat(link, runtime)))  # type: ignore[arg-type]
            jobs = [await runtime.submit(job_of(i)) for i in range(args.jobs)]
            readers = [Reader() for _ in jobs]
            reading = [asyncio.create_task(reader.read(job)) for reader, job in zip(readers, jobs, strict=True)]
            answers = asyncio.gather(*jobs, return_exceptions=True)
            while not answers.done():
                await asyncio.wait([answers], timeout=0.5)
                for task in tasks:
                    if task.done():
                        task.result()  # Raises what kept it from doing its work.
            results = await answers
            await asyncio.gather(*reading)
            seconds = time.monotonic() - began
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    recovered = []
    for killed in kills:
        after = [t for reader in readers for t in reader.begun[1:] if 0 <= t - killed < args.kill_every]
        recovered += [min(after) - killed] if after else []
    failed = [repr(result) for result in results if isinstance(result, BaseException)]
    texts = Counter(str(getattr(result, "text", "")) for result in results)
    return {
        "jobs": len(jobs),
        "answered exactly once": sum(reader.ends == 1 for reader in readers) - len(failed),
        "failed or lost": failed,
        "events in order": sum(reader.is_ordered for reader in readers),
        "different texts (2 kinds of jobs)": len(texts),
        "begun more than once": sum(len(reader.begun) > 1 for reader in readers),
        "kills": len(kills),
        "broker connections of the client": runtime._link.connections if runtime._link else 0,
        "seconds": round(seconds, 1),
        "seconds from a kill to the job's new beginning": sorted(round(t, 2) for t in recovered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--kill-every", type=float, default=5.0, metavar="SECONDS")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        workers = [start_worker(broker.url(), "--jobs", "2") for _ in range(WORKERS)]
        try:
            print(json.dumps({"milliseconds a job": asyncio.run(overhead(broker.url(), 20))}))
            print(json.dumps(asyncio.run(chaos(args, broker, workers)), indent=1))
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            broker.stop()


if __name__ == "__main__":
    main()
