"""SIGTERM and SIGHUP end a command as Ctrl-C does: its trace is saved, and nothing is said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from plait import Trace
from plait.runtime.cli.exit_status import exit_status, is_terminated
from plait.runtime.cli.main import main

SLOW = """
import asyncio
import sys
from typing import Literal

from plait import Method, register


@register
class Slow(Method):
    method: Literal["slow"] = "slow"

    async def run(self, ctx):
        sys.stdout.write("ready\\n")
        sys.stdout.flush()
        await asyncio.sleep(100)


"""


@pytest.mark.parametrize(("number", "interrupted"), [
    (signal.SIGTERM, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_IGN),  # as what a shell starts with &
    (signal.SIGHUP, signal.default_int_handler),  # as where the terminal is closed
    (signal.SIGINT, signal.default_int_handler),
])  # fmt: skip
def test_a_signal_in_the_midst_of_a_job(tmp_path, number, interrupted):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "job.json").write_text(json.dumps({"method": {"method": "slow"}}))
    command = [sys.executable, "-m", "plait", "run", "--import", "slow.py", "job.json", "--trace", "trace.jsonl"]

    def handled() -> None:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests by nohup ignores it

    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=handled
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and "Traceback" not in err
    trace = Trace.load(tmp_path / "trace.jsonl")
    assert trace.end is not None and trace.end["finish"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_handler_is_gone_afterwards(number):
    before = signal.getsignal(number)
    assert main(["trace", "show", "/no/such/file"]) == 1
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_is_not_ctrl_c_can_be_told(number):
    told = []

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        told.append(is_terminated())

    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        assert exit_status(run) == 0
    finally:
        signal.signal(number, before)
    assert told == [number != signal.SIGINT]
