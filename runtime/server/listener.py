"""`Listener`: the HTTP server around an application, which ends in good order."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import resource
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import InvalidInput
from .app import make_app
from .problems import body
from .service import Service
from .settings import spread

logger = logging.getLogger(__name__)

OTHER_FILES = 128
"""Files that may be open beside connections."""
SECONDS_TO_CLOSE = 5
"""For which answers may still be sent once no job is left."""
BACKLOG = 2048
"""Connections that the system holds until they are taken."""
PART = 1 << 16
"""Bytes of an answer that a client has to take in `send_seconds`, or what is left of it: one that takes it byte by byte
would hold its connection for ever."""
TAKEN_AT_ONCE = 4
"""Connections taken in one turn of the loop: a thousand at once would hold up all others."""


class Listener(uvicorn.Server):
    """Serves a `Service`. At the first SIGTERM or SIGINT running jobs go on up to the limit while new ones get a 503;
    a second one cancels them."""

    def __init__(self, service: Service, *, on_start: Callable[[str], object] = str) -> None:
        """`on_start` is called with the URL once it listens. `serve` is given the sockets (`bound`)."""
        self.service = service
        self.on_start = on_start
        connections = descriptors_for(service.settings.max_connections)
        config = uvicorn.Config(
            make_app(service),
            http=_protocol(service, Connections(connections)),
            ws="none",
            log_config=None,
            log_level="error",  # Bad clients would fill the log: a line for each request that is no HTTP.
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_CLOSE,
            backlog=TAKEN_AT_ONCE,  # This is what it is to the loop, too.
        )
        super().__init__(config)
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for one in server.sockets:
                with one.dup() as listening:
                    listening.listen(BACKLOG)
                address, port = one.getsockname()[:2]
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
            # Behind its first step: a task that is cancelled before does nothing, and the server would go on for ever.
            asyncio.get_running_loop().call_soon(self._drain.cancel)

    async def _end(self) -> None:
        try:
            await self.service.drain()
        except asyncio.CancelledError:
            await self.service.close()
        finally:
            self.should_exit = True


def bound(host: str, port: int) -> list[socket.socket]:
    """Sockets at the addresses of the host, for `Listener.serve`; nobody is taken yet. Raises `InvalidInput` if one
    cannot be had, or none is there."""
    if not 0 <= port < 1 << 16:
        raise InvalidInput(f"cannot listen at {host}, port {port}: ports are 0 to 65535")
    made: list[socket.socket] = []
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            try:
                made.append(_bound(family, address))
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # else it is one of another network
                    raise
                problem = error
    except OSError as error:
        problem = error
        while made:
            made.pop().close()
    if not made:
        raise InvalidInput(f"cannot listen at {host}, port {port}: {problem.strerror if problem else 'no address'}")
    return made


def _bound(family: int, address: Any) -> socket.socket:
    # Asyncio has what is written sent at once only where a socket says that it is TCP's. Else the second part of an
    # answer waits until the first one is acknowledged, which clients put off for 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


class Connections:
    """Open connections, of which there are so many at most. Those whose next request has not come, or not whole, make
    room for new ones, the oldest first: who only holds connections keeps nobody out."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting: dict[TimedProtocol, None] = {}
        self.busy: set[TimedProtocol] = set()

    def add(self, connection: TimedProtocol) -> bool:
        """False: all others are busy."""
        if len(self.waiting) + len(self.busy) >= self.most:
            if not self.waiting:
                return False
            self.leave(oldest := next(iter(self.waiting)))
            oldest.refuse(408, "other clients need the connection", "too_many_connections")
        self.waiting[connection] = None
        return True

    def leave(self, connection: TimedProtocol) -> None:
        self.waiting.pop(connection, None)
        self.busy.discard(connection)

    def turn(self, connection: TimedProtocol, *, busy: bool) -> None:
        """It is asked for something now, or has been answered."""
        if connection in self.busy or connection in self.waiting:
            self.leave(connection)
            if busy:
                self.busy.add(connection)
            else:
                self.waiting[connection] = None


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that gives a client a limited time for its headers, and for what it is sent; made for a service by
    `_protocol`."""

    service: Service
    others: Connections
    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that nothing stays unsent without `pause_writing`
        if self.others.add(self):
            self._start_timer()
        else:
            self.refuse(503, f"there are {self.others.most} connections already", "too_many_connections")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_timer()
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:
            self._stop_timer()
        self._note()

    def on_response_complete(self) -> None:
        self.others.turn(self, busy=False)
        super().on_response_complete()
        self._note()  # The next request may have come already.

    def _note(self) -> None:
        """Is there a whole request to be answered?"""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            self.others.turn(self, busy=True)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_send_timer()

    def _await_taking(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self.service.settings.send_seconds, self._check_taken, unsent)

    def _check_taken(self, before: int) -> None:
        """Leave a client that takes too little: closing would wait until it has all."""
        if self.transport.get_write_buffer_size() <= before - PART:
            self._await_taking()
        else:
            self.service.metrics.refused.labels("slow").inc()
            self.transport.abort()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_send_timer()
        self.others.leave(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, msg, "malformed_http")

    def refuse(self, status: int, message: str, code: str) -> None:
        """Answer, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # An answer is on its way already: another one would be read as part of it.
            return
        self.service.metrics.refused.labels(str(status)).inc()
        told = json.dumps(body(status, message, code=code)).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-length: {len(told)}\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-type: application/json\r\n\r\n".encode() + told)
        self.transport.close()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(spread(self.service.settings.header_seconds), self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self.refuse(408, f"the headers did not come in {self.service.settings.header_seconds:g} s", "slow")


def _protocol(service: Service, others: Connections) -> type[asyncio.Protocol]:
    return type("ServedProtocol", (TimedProtocol,), {"service": service, "others": others})


def descriptors_for(connections: int) -> int:
    """Raise the process's limit of open files so that it can hold so many connections; how many it can hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    fit = max(soft - OTHER_FILES, 1)
    logger.warning("%d open files are allowed (ulimit -n): %d connections at most", soft, fit)
    return fit
