"""An evaluation on a pool of workers gives what one in this process does."""

from __future__ import annotations

import asyncio
import json

import pytest

from plait import BrokerUnreachable, InvalidInput, Runtime
from plait.evals import run
from plait.tests.evals.tools import engine, grid

pytest.importorskip("aiomqtt")

from plait.benchmarks.mosquitto import MOSQUITTO, Broker
from plait.runtime.mqtt.address import Address
from plait.runtime.mqtt.worker import Worker

OF_THE_MACHINE = ("measured", "origin", "threads")


def rows(folder):
    """What was found, without what depends on the machine or says that a row was derived."""
    units = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {
        (*unit["key"].values(), row["window"]): {k: v for k, v in row.items() if k not in (*OF_THE_MACHINE, "trace")}
        for unit in units
        for row in unit["rows"]
    }


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
async def test_a_pool_gives_what_this_process_does(tmp_path):
    broker = Broker(tmp_path)
    broker.start()
    try:
        config = grid(windows=[200, 40], model=broker.url())
        await run(config, tmp_path / "here", engine=engine())
        async with Runtime(engine=engine()) as local:
            one = Worker(local, Address.parse(broker.url()), capacity=3, beat_seconds=0.2)
            task = asyncio.create_task(one.run())
            report = await run(config, tmp_path / "pool")
            one.stop()
            await task
        here, there = rows(tmp_path / "here"), rows(tmp_path / "pool")
        assert here == there and len(there) == 24
        assert {row["finish"] for row in there.values()} == {"eos", "context"}
        assert all((tmp_path / "pool" / row).is_file() for row in traces(tmp_path / "pool"))
        assert report.read_text().startswith("<!doctype html>")
        before = report.read_bytes()
        broker.stop()
        # All is done: neither broker nor workers are needed.
        assert (await run(config, tmp_path / "pool")).read_bytes() == before
        with pytest.raises(BrokerUnreachable):
            await run(config, tmp_path / "new")
    finally:
        broker.stop()


def traces(folder):
    units = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {row["trace"] for unit in units for row in unit["rows"]}


def test_passwords_stand_in_no_report():
    for model in ("mqtt://me:secret@host/pool", "openai:http://me:secret@host:8000"):
        with pytest.raises(InvalidInput, match="PLAIT_MQTT_PASSWORD"):
            grid(model=model)
    for malformed in ("mqtt://me:secret#a@host/pool", "mqtt:/me:secret@host/pool", "mqtt://me:secret/pool"):
        with pytest.raises(InvalidInput, match="no address of a broker") as error:
            grid(model=malformed)
        assert "secret" not in str(error.value)
    for model in ("mqtt://me@host/pool", "openai:http://host:8000#claude@2"):
        assert grid(model=model).model == model
