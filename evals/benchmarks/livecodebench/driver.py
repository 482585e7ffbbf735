"""Runs a solution on every test, inside the sandbox, and prints what came of each as a line of JSON.

It is given the inputs and not what has to come out: that is compared outside, so a solution that takes over this
process gains nothing. Each test is a process of its own. Its limit is the processor's time, with that of its children:
beside other programs it takes longer, and computes no more. Standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

START_SECONDS = 1.0
"""For starting Python, besides a test's own time."""
SHOWN_BYTES = 2000


def run(job: dict[str, Any], number: int) -> dict[str, Any]:
    """One test: `ended` is `exit`, `error` or `timeout`; `output` is what was written or returned, None: there is
    too much of it."""
    test = job["tests"][number]
    limit = job["seconds"] + START_SECONDS
    before = computed()
    with ExitStack() as stack:
        # Without names: the solution cannot take them away, or put other things in their places.
        given, written, errors, result = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(4))
        given.write(test["input"].encode("utf-8", "surrogateescape"))
        given.seek(0)
        command = [sys.executable, "harness.py"]
        command += [job["function"], str(result.fileno())] if job["function"] else []
        process = subprocess.Popen(
            command,
            stdin=given,
            stdout=written,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # as LiveCodeBench does: threads that wait for others compute
            pass_fds=[result.fileno()],
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 1)),
        )
        try:
            code = process.wait(job["patience"] * limit)
        except subprocess.TimeoutExpired:
            return {"test": number, "ended": "timeout"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if computed() - before > limit:
            return {"test": number, "ended": "timeout"}
        if code:
            return {"test": number, "ended": "error", "error": tail(errors)}
        return {"test": number, "ended": "exit", "output": head(result if job["function"] else written, test["room"])}


def computed() -> float:
    """Seconds that the tests so far have computed, with those of their children that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def head(file: IO[bytes], room: int) -> str | None:
    file.seek(0)
    data = file.read(room + 1)
    return None if len(data) > room else data.decode("utf-8", "replace")


def tail(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - SHOWN_BYTES))
    return file.read().decode("utf-8", "replace")


def main() -> None:
    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    for number in range(len(job["tests"])):
        report = run(job, number)
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        if report["ended"] != "exit":
            break  # It has failed, whatever comes.


if __name__ == "__main__":
    main()
