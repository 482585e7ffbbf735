"""Whether a solution passes all tests: it runs in a sandbox, its outputs are compared here, as in LiveCodeBench."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ....agents.repository import Snapshot
from ....agents.sandbox.base import Execution, Sandbox
from .driver import START_SECONDS
from .problems import Problem, Test, read_value

SETUP_SECONDS = 30.0
"""Of a whole run, besides its tests."""
PATIENCE = 5
"""Seconds to wait for each that a test may compute: a program that sleeps ends too."""
ROOM_BYTES = 10_000
"""That an output may have besides twice the right one's."""
ENDED = ["exit", "error", "timeout"]
"""What the driver says of a test."""
ESCAPED = 6
"""Characters in JSON for a byte of output, at most."""
_ERROR = re.compile(r"^([A-Za-z_][\w.]{0,60})(?::|$)", re.ASCII)


async def grade(problem: Problem, code: str, sandbox: Sandbox, snapshot: Snapshot, seconds: float) -> str:
    """`correct`, or what is wrong. `seconds`: that one test may compute. Raises what the sandbox raises."""
    tests = await asyncio.to_thread(problem.tests)
    rooms = [ROOM_BYTES + 2 * len(test.output.encode()) for test in tests]
    job = {
        "function": problem.function,
        "seconds": seconds,
        "patience": PATIENCE,
        "tests": [{"input": test.input, "room": room} for test, room in zip(tests, rooms, strict=True)],
    }
    here = Path(__file__).parent
    files = {name: (here / name).read_text(encoding="utf-8") for name in ("driver.py", "harness.py")}
    files |= {"solution.py": code, "job.json": json.dumps(job)}
    limits = sandbox.limits.model_copy(
        update={
            "seconds": SETUP_SECONDS + PATIENCE * len(tests) * (seconds + START_SECONDS),
            "output_chars": 2 * (ESCAPED * sum(rooms) + 1000 * len(tests)),  # It is the beginning that is kept.
        }
    )
    found = await sandbox.run(("python", "driver.py"), snapshot, files=files, limits=limits)
    return await asyncio.to_thread(_verdict, found, problem, tests, seconds)


def _verdict(found: Execution, problem: Problem, tests: Sequence[Test], seconds: float) -> str:
    reports = _reports(found.output)
    for number, test in enumerate(tests):
        where = f"test {number + 1} of {len(tests)}"
        report = reports.get(number)
        if report is None:
            what = f"its {found.seconds:.0f} seconds" if found.has_timed_out else f"the limit of {found.ended}"
            return f"{where}: stopped at {what}" if found.ended != "exit" else f"{where}: it did not come to its end"
        if report["ended"] == "timeout":
            return f"{where}: not within {seconds:g} s"
        if report["ended"] == "error":
            return f"{where}: {_error(report.get('error'))}"
        output = report.get("output")
        if not isinstance(output, str):
            return f"{where}: too much output"
        if problem.function and not output:
            return f"{where}: no value"
        if not (same_value if problem.function else same_lines)(output, test.output):
            return f"{where}: wrong answer"
    return "correct"


def _reports(output: str) -> dict[int, dict[str, Any]]:
    """What the driver printed, by test; other lines may stand among its own."""
    reports: dict[int, dict[str, Any]] = {}
    for line in output.split("\n"):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict) and type(data.get("test")) is int and data.get("ended") in ENDED:
            reports.setdefault(data["test"], data)
    return reports


def _error(text: object) -> str:
    """The kind of exception that a traceback ends with."""
    lines = text.strip().splitlines() if isinstance(text, str) else []
    match = _ERROR.match(lines[-1]) if lines else None
    return match[1] if match else "it ended with an error"


def same_value(given: str, right: str) -> bool:
    """Of a function, in JSON."""
    try:
        return bool(read_value(given) == read_value(right))
    except (ValueError, RecursionError):
        return False


def same_lines(given: str, right: str) -> bool:
    """Of a program: line by line without the space around them; a line of numbers by their values."""
    lines, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (given, right))
    return len(lines) == len(wanted) and all(
        one == other or _same_numbers(one, other) for one, other in zip(lines, wanted, strict=True)
    )


def _same_numbers(line: str, wanted: str) -> bool:
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(word) for word in wanted.split()]
    except InvalidOperation:
        return False
