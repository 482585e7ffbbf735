"""SIGTERM ends a command as Ctrl-C does: its trace is saved, and nothing is said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from plait import Trace
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
    (signal.SIGINT, signal.default_int_handler),
])  # fmt: skip
def test_a_signal_in_the_midst_of_a_job(tmp_path, number, interrupted):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "job.json").write_text(json.dumps({"method": {"method": "slow"}}))
    command = [sys.executable, "-m", "plait", "run", "--import", "slow.py", "job.json", "--trace", "trace.jsonl"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupted),
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and "Traceback" not in err
    trace = Trace.load(tmp_path / "trace.jsonl")
    assert trace.end is not None and trace.end["finish"] == "cancelled"


def test_the_handler_is_gone_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    assert main(["trace", "show", "/no/such/file"]) == 1
    assert signal.getsignal(signal.SIGTERM) is before
