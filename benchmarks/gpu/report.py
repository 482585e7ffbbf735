"""All of it, in order, within a time limit, and a report for docs/performance/.

    python -m plait.benchmarks.gpu.report --out FOLDER [--minutes 9] [--tests ARGUMENTS] [--dry]

Each topic is a process of its own with a limit of its own, so that one that fails or hangs costs no other one: what it
had found by then is in the report, and the last line of what went wrong. FOLDER gets results.jsonl (all figures) and
gpu_<card>_<date>.md. Exit status 1: something failed, or a bar is not met.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .floor import card
from .lines import FLOOR, OURS, Line, read

ROOT = Path(__file__).parents[2]
TOPICS = {"tests": 90, "floor": 15, "attention": 170, "numerics": 80, "engine": 140, "parallel": 60}
"""In this order; seconds of nine minutes that each gets, and what one leaves is shared by those behind it."""
TITLES = {
    "tests": "Tests of the kernels on the card",
    "floor": "What the card can do",
    "attention": "Span attention (per layer: 32 heads of 128, 8 of keys and values, bfloat16)",
    "numerics": "Is it right?",
    "engine": "Engine: one decode step, random bfloat16 weights",
    "parallel": "Parallel reasoning, Qwen3-4B's shape in bfloat16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a topic went."""

    topic: str
    command: str
    seconds: float
    error: str = ""
    """Empty: it went to its end."""
    last_line: str = ""


def run_topic(topic: str, command: list[str], limit: float, log: Path) -> Done:
    """Its output goes to `log` and to the terminal's end; what it started is ended with it."""
    start = time.monotonic()
    error = ""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT)
        try:
            status = process.wait(limit)
            if status:
                error = f"exit status {status}"
        except subprocess.TimeoutExpired:
            error = f"ended after {limit:.0f} s"
        finally:
            _end(process)
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else ""
    return Done(topic=topic, command=shown(command), seconds=time.monotonic() - start, error=error, last_line=last)


def shown(command: Sequence[str]) -> str:
    """As one would type it."""
    parts = list(command[1:])
    for option in ("--out", "--seconds"):
        if option in parts:
            at = parts.index(option)
            del parts[at : at + 2]
    return " ".join(["python", *parts])


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def commands(tests: str, out: Path, is_dry: bool) -> dict[str, list[str]]:
    """`--seconds` is added to those of our own."""
    shared = ["--out", str(out), *(["--dry"] if is_dry else [])]
    found = {
        topic: [sys.executable, "-m", f"plait.benchmarks.gpu.{topic}", *shared] for topic in TOPICS if topic != "tests"
    }
    if tests:
        return {"tests": [sys.executable, "-m", "pytest", "--tb=short", *shlex.split(tests)], **found}
    return found


def run_all(wanted: dict[str, list[str]], seconds: float, folder: Path) -> list[Done]:
    end = time.monotonic() + seconds
    done = []
    compiled = folder / "peers.log"
    with compiled.open("wb") as file:  # on the processor, while the card is at other things
        builder = subprocess.Popen(
            [sys.executable, "-m", "plait.benchmarks.gpu.peers"],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT,
        )  # fmt: skip
    try:
        topics = list(wanted)
        for i, topic in enumerate(topics):
            left = end - time.monotonic()
            limit = max(1.0, left * TOPICS[topic] / sum(TOPICS[later] for later in topics[i:]))
            command = wanted[topic]
            if topic != "tests":
                # Less than the limit, so that it ends by itself.
                command = [*command, "--seconds", f"{0.9 * limit:.0f}"]
            print(f"== {topic}, at most {limit:.0f} s", flush=True)
            log = folder / f"{topic}.log"
            done.append(run_topic(topic, command, limit, log))
            print(log.read_text(encoding="utf-8", errors="replace")[-6000:], flush=True)
            print(f"== {topic}: {done[-1].error or 'done'} in {done[-1].seconds:.0f} s", flush=True)
    finally:
        if builder.poll():
            print("== peers could not be compiled:", compiled.read_text(errors="replace")[-3000:], flush=True)
        _end(builder)
    return done


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cell(line: Line | None) -> str:
    if line is None:
        return ""
    if line.error:
        return f"failed: {line.error}".replace("|", "/")
    figure = "" if line.value is None else f"{number(line.value)} {line.unit}"
    return f"{figure} ({line.note})".strip() if line.note else figure


def verdict(lines: Sequence[Line]) -> str:
    asked = [line for line in lines if line.is_met is not None]
    return "; ".join(f"{'met' if line.is_met else '**not met**'}: {line.bar}" for line in asked)


def table(lines: Sequence[Line]) -> list[str]:
    """A row for each workload: its floor, ours, the share, and who else was measured."""
    others = list(dict.fromkeys(line.who for line in lines if line.who not in (FLOOR, OURS)))
    has_floor = any(line.who == FLOOR for line in lines)
    head = [
        "what",
        *(["floor"] if has_floor else []),
        OURS,
        *(["share of the floor"] if has_floor else []),
        *others,
        "bar",
    ]
    rows = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for what in dict.fromkeys(line.what for line in lines):
        of_it = [line for line in lines if line.what == what]
        by_who = {line.who: line for line in of_it}
        ours, floor = by_who.get(OURS), by_who.get(FLOOR)
        cells = [what]
        if has_floor:
            cells.append(cell(floor))
        cells.append(cell(ours))
        if has_floor:
            has_share = ours is not None and ours.value and floor is not None and floor.value
            cells.append(f"{floor.value / ours.value:.0%}" if has_share else "")  # type: ignore[union-attr, operator]
        cells += [cell(by_who.get(who)) for who in others]
        rows.append("| " + " | ".join([*cells, verdict(of_it)]) + " |")
    return rows


def versions() -> str:
    parts = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for name in ("triton", "transformers", "flashinfer"):
        try:
            parts.append(f"{name} {__import__(name).__version__}")
        except Exception:  # Not there, or not for this machine.
            continue
    return ", ".join(parts)


def page(lines: Sequence[Line], done: Sequence[Done], title: str, head: str) -> str:
    """The report, in Markdown."""
    asked = [line for line in lines if line.is_met is not None]
    failed = [line for line in lines if line.error]
    text = [f"# {title}", "", head, ""]
    text += [
        f"{sum(bool(line.is_met) for line in asked)} of {len(asked)} bars met, {len(failed)} measurements failed. "
        "Medians; every command is below its table. A floor is the time to move what must be moved at the rate of a "
        "large copy, or to do the arithmetic at that of a large matrix product, both measured in the same process.",
        "",
    ]
    for part in done:
        text += [f"## {TITLES[part.topic]}", ""]
        of_it = [line for line in lines if line.topic == part.topic]
        if of_it:
            text += [*table(of_it), ""]
        if part.topic == "tests" or part.error:
            text += [f"{part.error or 'Went to its end'}: `{part.last_line}`".replace("|", "/"), ""]
        text += [f"`{part.command}`, {part.seconds:.0f} s", ""]
    return "\n".join(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and the figures")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    parser.add_argument("--tests", default="", help="what pytest is given before anything is measured; empty: nothing")
    parser.add_argument("--only", nargs="*", default=[], choices=list(TOPICS), help="these topics alone")
    parser.add_argument("--dry", action="store_true", help="tiny shapes, on the CPU")
    found = parser.parse_args(arguments)
    if not found.dry and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry runs everything in tiny on the CPU")
    found.out.mkdir(parents=True, exist_ok=True)
    results = found.out / "results.jsonl"
    results.unlink(missing_ok=True)
    wanted = commands(found.tests, results, found.dry)
    if found.only:
        wanted = {topic: command for topic, command in wanted.items() if topic in found.only}
    with tempfile.TemporaryDirectory() as folder:
        done = run_all(wanted, found.minutes * 60, Path(folder))
    lines = read(results)
    device = torch.device("cpu" if found.dry else "cuda")
    name = (
        "dry" if found.dry else re.sub(r"\W+", "-", torch.cuda.get_device_name(device).removeprefix("NVIDIA ")).lower()
    )
    today = datetime.date.today().isoformat()
    text = page(lines, done, f"GPU: {name}, {today}", f"{card(device)}. {versions()}.")
    file = found.out / f"gpu_{name}_{today}.md"
    file.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {file}")
    is_fine = not any(part.error for part in done) and not any(line.error or line.is_met is False for line in lines)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
