"""A mosquitto of one's own, on loopback, with persistence; strangers on it; workers in processes of their own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from plait.runtime.mqtt.address import Address
from plait.runtime.mqtt.link import Link

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
CODE = """
import argparse, sys
from plait.runtime.cli import worker
parser = argparse.ArgumentParser()
worker.add_arguments(parser)
sys.exit(worker.run(parser.parse_args()))
"""


class Broker:
    def __init__(self, folder: Path, *extra: str) -> None:
        self.folder = folder
        self.port = _free_port()
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "set_tcp_nodelay true",
            f"user {'root' if os.getuid() == 0 else 'nobody'}",
            "log_dest none",
            *(extra or ("allow_anonymous true",)),
        ]
        self.config = folder / "mosquitto.conf"
        self.config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, pool: str = "pool", user: str = "") -> str:
        return f"mqtt://{user}127.0.0.1:{self.port}/{pool}"

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen([MOSQUITTO, "-c", self.config], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError("mosquitto does not listen")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


def stranger(
    address: Address,
    name: str,
    receive: Callable[[str, bytes], None] = lambda topic, payload: None,
    *,
    topic: str = "nothing",
    session_seconds: int = 0,
    connected: Callable[[], None] = lambda: None,
) -> Link:
    """A connection that is neither a client's nor a worker's."""
    return Link(
        address,
        name,
        subscriptions=[topic],
        will=("nothing", False),
        session_seconds=session_seconds,
        will_delay=0,
        receive=receive,
        connected=connected,
    )


def _free_port() -> int:
    # Below those that connections get: while the broker is down, one to its port must not get that port itself.
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def start_worker(url: str, *options: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    if "PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return subprocess.Popen([sys.executable, "-c", CODE, "countdown", "--broker", url, *options], env=env)
