"""A real server on a loopback port, in the test's own event loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from openai import AsyncOpenAI
from uvicorn.server import Server

from plait import Runtime
from plait.runtime.server.keys import Keys
from plait.runtime.server.listener import Listener, bound
from plait.runtime.server.service import Service
from plait.runtime.server.settings import ServerSettings


@dataclass
class Served:
    service: Service
    listener: Listener
    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def used(self):
        """KV blocks held by jobs."""
        return self.service.runtime.engine.block_usage().used

    def openai(self, key="none"):
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def http(self, key="none"):
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


@asynccontextmanager
async def serving(keys="", *, model="countdown", engine=None, **settings):
    """A server with these settings and lines of keys."""
    chosen = ServerSettings(**settings)
    runtime = Runtime(engine=engine) if engine is not None else Runtime(model)
    async with runtime:
        service = Service(runtime, "countdown", chosen, Keys(keys.splitlines(), max_jobs=chosen.jobs_per_key))
        sockets = bound("127.0.0.1", 0)
        port = sockets[0].getsockname()[1]
        listener = Listener(service)
        task = asyncio.create_task(Server._serve(listener, sockets))
        while not listener.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            yield Served(service, listener, port)
        finally:
            listener.stop()
            await task
            await listener._drain


@pytest.fixture
async def served():
    async with serving() as server:
        yield server
