"""A pool of workers on this machine: what a job costs more than here, how jobs fare that arrive at random, and chaos.

    python -m plait.benchmarks.mqtt --jobs 300 --kill-every 4

Chaos: three workers, one that has jobs killed (-9) every few seconds, the broker ended twice, once by kill -9 and once
in order, messages repeated. Says whether each job was answered exactly once, whether events of a job came in order, and
how long it took until a job whose worker was killed had begun anew. Needs mosquitto and simpy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from ..runtime.events import Started, Stopped, Text
from ..runtime.job_spec import JobSpec
from ..runtime.jobs.job import Job
from ..runtime.mqtt.link import Link
from ..runtime.mqtt.remote import RemoteRuntime
from ..runtime.mqtt.remote_job import RemoteJob
from .mosquitto import Broker, stranger
from .pool.jobs import job_of
from .pool.load import arrivals, overhead
from .pool.workers import Workers

WORKERS = 3


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


async def chaos(args: argparse.Namespace, broker: Broker, workers: Workers) -> dict[str, object]:
    kills: list[float] = []
    births: list[float] = []
    outages: list[float] = []

    async def kill() -> None:
        while True:
            await asyncio.sleep(args.kill_every)
            # One that has nothing yet would be no loss.
            while (victim := workers.oldest(runtime._state.holders)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.to_thread(workers.kill, victim)
            killed = time.monotonic()
            kills.append(killed)
            name = await asyncio.to_thread(workers.start)
            while name not in runtime.workers:  # noqa: ASYNC110 - a beat tells
                await asyncio.sleep(0.05)
            births.append(time.monotonic() - killed)

    async def restart() -> None:
        for number in (signal.SIGKILL, signal.SIGTERM):
            await asyncio.sleep(1.3 * args.kill_every)
            before = link.connections
            began = time.monotonic()
            await asyncio.to_thread(broker.stop, number)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(broker.start)
            while link.connections == before:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.02)
            outages.append(time.monotonic() - began)

    began = time.monotonic()
    runtime = RemoteRuntime(broker.url(), max_epochs=50, lease=5.0)
    async with runtime:
        async with stranger(runtime.address, "plait-chaos") as link:
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
        "broker restarts": len(outages),
        "seconds": round(seconds, 1),
        "seconds from a broker's end to a new connection": [round(t, 2) for t in outages],
        "seconds from a kill to the new worker's first beat": sorted(round(t, 2) for t in births),
        "seconds from a kill to the job's new beginning": sorted(round(t, 2) for t in recovered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300, help="of the chaos (300); 0: none")
    parser.add_argument("--kill-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--compared", type=int, default=20, metavar="JOBS", help="that run here and there (20)")
    parser.add_argument(
        "--arrivals", type=int, default=120, metavar="JOBS", help="that arrive at random (120); 0: none"
    )
    parser.add_argument("--load", type=float, default=0.5, help="of the pool by these (0.5)")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        assert broker.process is not None
        try:
            with Workers(broker.url("one"), 1) as workers:
                more = asyncio.run(overhead(broker.url("one"), workers, broker.process.pid, args.compared))
            print(json.dumps({"milliseconds a job": more}, indent=1), flush=True)
            if args.arrivals:
                seconds = max(more["more in the pool"]["wall"], 0.0) / 1000
                with Workers(broker.url("load"), WORKERS, "--jobs", "1") as workers:
                    times = asyncio.run(arrivals(broker.url("load"), workers, args.arrivals, args.load, seconds))
                print(json.dumps({"arrivals": times}, indent=1), flush=True)
            if args.jobs:
                with Workers(broker.url(), WORKERS, "--jobs", "2") as workers:
                    print(json.dumps({"chaos": asyncio.run(chaos(args, broker, workers))}, indent=1))
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
