"""Grading by the official harness of SWE-bench, in its images: where a docker daemon answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT
from contextlib import suppress
from pathlib import Path

from ....runtime.python_process import python_command
from ....runtime.settled import unhurried
from .grading import CannotGrade, Grade, phrase
from .instances import Instance

MODEL, RUN = "plait", "plait"
PATIENCE = 60.0
"""Seconds for the harness to remove its container when it is interrupted; and for what it does around the tests."""

# It cleans up when it is interrupted, which a process that a shell started in the background, and its children, ignore.
_HARNESS = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("swebench.harness.run_evaluation", run_name="__main__", alter_sys=True)
"""


def has_docker() -> bool:
    """Does a daemon answer to the harness's own client? Blocks for seconds."""
    ask = "import docker; docker.from_env(timeout=10).ping()"
    # In another process: the client leaves its socket open when it fails.
    done = subprocess.run(python_command("-c", ask), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


async def grade(instance: Instance, patch: str, seconds: float) -> Grade:
    """Run the harness on one patch of an instance that is `is_official`. Cancelling it removes the container. Raises
    `CannotGrade` where it gives no verdict."""
    with tempfile.TemporaryDirectory(prefix="plait-") as name:
        folder = Path(name)
        prediction = {"instance_id": instance.id, "model_name_or_path": MODEL, "model_patch": patch}
        (folder / "instances.json").write_text(json.dumps([{"instance_id": instance.id, **instance.model_dump()}]))
        (folder / "predictions.json").write_text(json.dumps([prediction]))
        output = await _run(folder, instance.id, seconds)
        logs = folder / "logs" / "run_evaluation" / RUN / MODEL / instance.id
        try:
            found = json.loads((logs / "report.json").read_text())[instance.id]
        except FileNotFoundError:
            log = (logs / "run_instance.log").read_text(errors="replace") if logs.is_dir() else ""
            return _without_report(instance, log, output, seconds)
    status = found.get("tests_status", {})
    said = [
        phrase(status.get(name, {}).get("failure", []), len(tests), f"{name} fail")
        for name, tests in (("FAIL_TO_PASS", instance.FAIL_TO_PASS), ("PASS_TO_PASS", instance.PASS_TO_PASS))
    ]
    if not found["patch_successfully_applied"]:
        said.append("the log shows no run of the tests")
    resolved = bool(found["resolved"])
    return Grade(resolved=resolved, reason="; ".join(["resolved" if resolved else "unresolved", *filter(None, said)]))


def _without_report(instance: Instance, log: str, output: str, seconds: float) -> Grade:
    if ">>>>> Patch Apply Failed" in log:
        return Grade(resolved=False, reason="the patch does not apply")
    if "Test timed out after" in log:
        return Grade(resolved=False, reason=f"the tests were stopped: timeout ({seconds:g} s at most)")
    last = "\n".join((log or output).strip().splitlines()[-5:])
    raise CannotGrade(f"{instance.id}: the official harness gives no report: {last[-2000:] or 'it said nothing'}")


async def _run(folder: Path, id: str, seconds: float) -> str:
    """What the harness printed."""
    options = {
        "dataset_name": "instances.json",
        "split": "test",
        "instance_ids": id,
        "predictions_path": "predictions.json",
        "max_workers": "1",
        "run_id": RUN,
        "timeout": str(int(seconds)),
        "report_dir": ".",
    }
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    with (folder / "output.txt").open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *python_command("-c", _HARNESS, *words),
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=DEVNULL,
            stdout=file,
            stderr=STDOUT,
            start_new_session=True,
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                await unhurried(_stop(process))
    return (folder / "output.txt").read_text(errors="replace")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Let it clean up, then end it for certain."""
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
