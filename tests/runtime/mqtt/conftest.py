"""Real brokers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("aiomqtt")

from plait.benchmarks.mosquitto import MOSQUITTO, Broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    yield from _running(Broker(tmp_path))


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Broker]:
    """A broker that takes small packets only, and says so."""
    yield from _running(Broker(tmp_path, "allow_anonymous true", "max_packet_size 9000"))


def _running(broker: Broker) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    broker.start()
    yield broker
    broker.stop()
