"""`Guard`: what holds for every request before anything looks at it: key, size, and time to send."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Refused, body
from .service import Service
from .settings import spread

OPEN = ("/health", "/", "/openapi.json")
"""Paths without a key."""


DISCARDED = 16 << 20
"""Bytes of a refused body that are read and forgotten at most."""
SECONDS_TO_DISCARD = 1.0


class Guard:
    """ASGI middleware. The body is read whole before the application is called, so that a slow sender holds no job."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            state: dict[str, Any] = scope.setdefault("state", {})
            if scope["path"] not in OPEN:
                state["client"] = self.service.keys.find(_header(scope, b"authorization"))
            content = await self._read(scope, receive)
        except Refused as error:
            self.service.metrics.refused.labels(str(error.status)).inc()
            await _discard(receive)
            told = body(error.status, str(error), code=error.code)
            # What the client still sends would be taken for its next request.
            await JSONResponse(told, error.status, {**error.headers, "Connection": "close"})(scope, receive, send)
            return
        if content is None:
            return
        unread = [content]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None: the client has gone. Raises `Refused`."""
        settings = self.service.settings
        if (_header(scope, b"content-encoding") or "identity").strip().lower() != "identity":
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            raise Refused(status, "compressed bodies are not taken: send it as it is", code="body_compressed")
        large = Refused(413, f"the body is larger than {settings.max_body} bytes", code="body_too_large")
        length = _header(scope, b"content-length")
        if length is not None and length.isdecimal() and int(length[:20]) > settings.max_body:
            raise large
        parts, size = [], 0
        try:
            async with asyncio.timeout(spread(settings.body_seconds)):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > settings.max_body:
                        raise large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            status = HTTPStatus.REQUEST_TIMEOUT
            raise Refused(status, f"the body did not come in {settings.body_seconds:g} s", code="slow") from None


async def _discard(receive: Receive) -> None:
    """Take what is still sent, within bounds: of a connection that is closed before, the client reads no answer."""
    left = DISCARDED
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_TO_DISCARD):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
