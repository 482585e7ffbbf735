"""What bad clients cost a good one: its latency with and without them, on one server.

    python -m plait.benchmarks.server --requests 60

The good client asks for four tokens at a time; the bad ones hold idle connections, send headers and bodies byte by
byte, read nothing, and send bodies that are too large, malformed or take long to look at. The rounds without them come
before and behind, so that what else the machine does shows; the bad ones are a process of their own on it. Beside the
latency stands what passed meanwhile in the server: its CPU time, and how long its threads waited for a processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

GOOD = {"model": "countdown", "prompt": "seq 24 : 8 3 1 ;", "max_tokens": 4, "temperature": 0}
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer bad\r\n"
KEYS = "good good\nbad bad jobs=4\n"

Attack = Callable[[str, int], Awaitable[str]]


async def exchange(host: str, port: int, *parts: bytes, pause: float = 0.0) -> str:
    """Send these, and read until the other side closes: the status, or `closed`."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(30):
            return (await reader.read(12)).decode("latin-1")[9:] or "closed"
    except (OSError, TimeoutError):
        return "closed"
    finally:
        writer.close()


async def idle(host: str, port: int) -> str:
    return await exchange(host, port)


async def slow_headers(host: str, port: int) -> str:
    return await exchange(host, port, *(bytes([byte]) for byte in HEAD), pause=0.5)


async def slow_body(host: str, port: int) -> str:
    return await exchange(host, port, HEAD + b"content-length: 900\r\n\r\n", *[b" "] * 900, pause=0.5)


def sending(content: bytes) -> Attack:
    """A client that sends this body, again and again."""
    whole = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(content), content)

    async def send(host: str, port: int) -> str:
        return await exchange(host, port, whole)

    return send


ATTACKS: dict[str, tuple[int, Attack]] = {
    "idle connections": (400, idle),
    "headers byte by byte": (300, slow_headers),
    "bodies byte by byte": (290, slow_body),
    "malformed JSON": (2, sending(b'{"model": ')),
    "deep nesting": (2, sending(b'{"metadata": ' + b"[" * 100_000)),
    "a body of 2 MB": (2, sending(b" " * (2 << 20))),
    "a text of 0.9 MB": (1, sending(json.dumps({**GOOD, "prompt": "8 3 " * 225_000}).encode())),
    "prompts of mixed kinds": (1, sending(json.dumps({**GOOD, "prompt": [1, "a"] * 80_000}).encode())),
    "n of a milliard": (1, sending(json.dumps({**GOOD, "n": 10**9}).encode())),
    "another model": (1, sending(json.dumps({**GOOD, "model": "gpt"}).encode())),
}
"""How many clients do it at a time: 1,000 in all."""


async def attack_until_eof(host: str, port: int) -> None:
    """All bad clients, in a process of their own; each begins anew when it was turned away. Ends with standard input,
    and prints what they were told."""
    told: Counter[tuple[str, str]] = Counter()

    async def keep(name: str, attack: Attack) -> None:
        while True:
            told[name, await attack(host, port)] += 1
            await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(keep(name, attack)) for name, (n, attack) in ATTACKS.items() for _ in range(n)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps([[*key, count] for key, count in sorted(told.items())]))


@contextmanager
def attacking(address: str, told: list[tuple[str, str, int]]) -> Iterator[None]:
    """The bad clients are at it; `told` gets (attack, answer, how often) in the end."""
    command = [sys.executable, "-m", "plait.benchmarks.server", "--attack", address]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield
        told += json.loads(process.communicate(timeout=60)[0])
    finally:
        process.kill()
        process.wait()


def scheduled(process: int) -> tuple[float, float]:
    """Seconds that a process's threads have had of processors, and that they waited for one; Linux alone knows."""
    found = [0.0, 0.0]
    for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):  # The thread has ended.
            for number, value in enumerate(file.read_text().split()[:2]):
                found[number] += int(value) / 1e9
    return found[0], found[1]


async def latencies(url: str, count: int, process: int) -> list[tuple[float, float, float]]:
    """Seconds of each of the good client's requests, all of which must be answered; and `scheduled` meanwhile."""
    found = []
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer good"}, timeout=60) as http:
        for _ in range(count):
            before, began = scheduled(process), time.perf_counter()
            answer = await http.post("/v1/completions", json=GOOD)
            seconds, after = time.perf_counter() - began, scheduled(process)
            found.append((seconds, after[0] - before[0], after[1] - before[1]))
            answer.raise_for_status()
            await asyncio.sleep(0.05)
    return found


async def measure(url: str, count: int, process: int) -> None:
    told: list[tuple[str, str, int]] = []
    await latencies(url, 5, process)
    rounds = [("without", await latencies(url, count, process))]
    with attacking(url.removeprefix("http://"), told):
        await asyncio.sleep(8)  # until all have begun
        rounds.append(("with 1,000 bad clients", await latencies(url, count, process)))
    await asyncio.sleep(2)
    rounds.append(("without", await latencies(url, count, process)))
    print(
        "| bad clients | requests | p50 ms | p95 ms | longest ms | CPU, p50 ms | p95 | longest | waited, p50 ms | p95 |"
    )
    print("| --- | " + " | ".join(["--:"] * 9) + " |")
    for name, samples in rounds:
        total, cpu, waited = ([*_marks(column)] for column in zip(*samples, strict=True))
        print(f"| {name} | {len(samples)} | {' | '.join(f'{1000 * v:.1f}' for v in (*total, *cpu, *waited[:2]))} |")
    print("\n| what they do | clients | answers |\n| --- | --- | --- |")
    for name, (clients, _) in ATTACKS.items():
        answers = [f"{answer}: {n}" for attack, answer, n in told if attack == name]
        print(f"| {name} | {clients} | {', '.join(answers) or 'none yet'} |")


def _marks(seconds: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1], max(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60, help="of the good client, in each of three rounds")
    parser.add_argument("--attack", metavar="HOST:PORT", help="only be the bad clients, until standard input ends")
    options = parser.parse_args()
    if options.attack:
        host, _, port = options.attack.rpartition(":")
        asyncio.run(attack_until_eof(host, int(port)))
        return
    command = [sys.executable, "-m", "plait", "serve", "countdown", "--port", "0", "--keys", "/dev/stdin"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stderr is not None
    try:
        process.stdin.write(KEYS)
        process.stdin.close()
        line = next((line for line in process.stderr if "http://" in line), "")
        asyncio.run(measure(re.findall(r"http://[\d.:]+", line)[0], options.requests, process.pid))
        if process.poll() is not None:
            raise SystemExit("the server has died")
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


if __name__ == "__main__":
    main()
