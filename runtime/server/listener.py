"""`Listener`: the HTTP server around an application, which ends in good order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import make_app
from .problems import body
from .service import Service

SECONDS_TO_CLOSE = 5
"""For which answers may still be sent once no job is left."""


class Listener(uvicorn.Server):
    """Serves a `Service`. At the first SIGTERM or SIGINT running jobs go on up to the limit while new ones get a 503;
    a second one cancels them."""

    def __init__(self, service: Service, *, host: str, port: int, on_start: Callable[[str], object] = str) -> None:
        """`on_start` is called with the URL once it listens."""
        self.service = service
        self.on_start = on_start
        config = uvicorn.Config(
            make_app(service),
            host=host,
            port=port,
            http=_protocol(service.settings.header_seconds),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=service.settings.max_connections,
            timeout_graceful_shutdown=SECONDS_TO_CLOSE,
        )
        super().__init__(config)
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for socket in server.sockets:
                address, port = socket.getsockname()[:2]
                self.on_start(f"http://{f'[{address}]' if ':' in address else address}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Called between two instructions of whatever runs: only the loop may start tasks.
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Begin to end; once more: end now."""
        if self._drain is None:
            self._drain = asyncio.create_task(self._end(), name="plait server drain")
        else:
            self._drain.cancel()

    async def _end(self) -> None:
        try:
            await self.service.drain()
        finally:
            self.should_exit = True


def _protocol(header_seconds: float) -> type[asyncio.Protocol]:
    """HTTP/1.1 that gives a client a limited time for its headers."""

    class TimedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(header_seconds, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._timer = self.loop.call_later(header_seconds, self._too_slow)
            cycle = self.cycle
            super().data_received(data)
            if self.cycle is not cycle:
                self._stop_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                told = json.dumps(body(408, f"the headers did not come in {header_seconds:g} s", code="slow")).encode()
                head = f"HTTP/1.1 408 Request Timeout\r\ncontent-length: {len(told)}\r\nconnection: close\r\n"
                self.transport.write(f"{head}content-type: application/json\r\n\r\n".encode() + told)
                self.transport.close()

    return TimedProtocol
