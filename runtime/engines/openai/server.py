"""`Server`: requests to an OpenAI-compatible API, and what becomes of their failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInput, PlaitError, PromptTooLong, ServerFailed, UnknownModel
from ...printable import printable
from .chunks import Chunk, Malformed, read_chunk
from .options import ServerOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai import APIStatusError

logger = logging.getLogger(__name__)

CONCURRENCY = 64
_SHOWN = 300
"""Characters of a server's message in ours."""
_NESTED = 20
"""Turns of the loop, more than the generators of a stream take to end."""
_FAILURES = ("abort", "error")
"""Finish reasons of answers that a server gave up."""
_TOO_LONG = ("context_length_exceeded", "context length", "maximum context", "too long")


class StreamBroken(Exception):
    """A stream ended before its answer did: another request may go on where it ended."""


class ConnectionLost(StreamBroken):
    """It was not the server that ended it."""


class Refused(InvalidInput):
    """The server does not take this request (400, 404, 422)."""


class InternalError(ServerFailed):
    """The server failed at this request (500), as some do at what they cannot read."""


class Server:
    """One client, for one event loop."""

    def __init__(self, options: ServerOptions) -> None:
        """Raises `InvalidInput` for proxies or certificates of the environment that cannot be used."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self.options = options
        self._key = options.api_key
        self._slots = asyncio.Semaphore(options.max_concurrency or CONCURRENCY)
        try:
            self._client = AsyncOpenAI(
                base_url=options.url,
                api_key=self._key or "none",
                timeout=options.timeout,
                max_retries=options.max_retries,
                http_client=DefaultAsyncHttpxClient(base_url=options.url, timeout=options.timeout),
            )
        except (ImportError, ValueError, OSError) as error:
            # The client reads the environment: proxies it has no package for, certificates that are not there.
            raise InvalidInput(self._clean(f"no client for {options.url} in this environment: {error}")) from None

    def limit(self, requests: int) -> None:
        """Of requests under way; before there are any."""
        self._slots = asyncio.Semaphore(requests)

    async def models(self) -> list[dict[str, Any]]:
        """What the server lists; empty where it lists nothing."""
        try:
            with self._errors():
                found = await self._client.get("/models", cast_to=object)
        except (Refused, UnknownModel):
            # `_refusal` finds the word "model" in a 404 that names the address, and here there is no other.
            return []
        data = found.get("data") if isinstance(found, Mapping) else None
        if not isinstance(data, list):
            return []
        return [one for one in data if isinstance(one, dict) and isinstance(one.get("id"), str)]

    async def stream(
        self, path: str, body: Mapping[str, Any], *, max_retries: int | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The pieces of an answer. Closing it closes the connection. Behind the piece with the finish reason the answer
        is whole: what is odd there is left out. `max_retries`: None is that of the options.

        Raises `StreamBroken`, `ServerFailed`, and `Refused`, `UnknownModel` or `PromptTooLong` for what is wrong with
        the request.
        """
        from openai import APIConnectionError, APIError, APIStatusError, AsyncStream

        client = self._client if max_retries is None else self._client.with_options(max_retries=max_retries)
        async with self._slots:
            with self._errors():
                events = await client.post(
                    path,
                    body={**body, **self.options.extra_body},
                    cast_to=object,
                    stream=True,
                    stream_cls=AsyncStream[object],
                )
            is_whole = is_begun = False
            try:
                async for data in events:
                    is_begun = True
                    chunk = read_chunk(data)
                    if chunk.finish in _FAILURES and not is_whole:
                        raise StreamBroken(f"finish_reason {chunk.finish}")
                    is_whole = is_whole or chunk.finish is not None
                    yield chunk
                form = events.response.headers.get("content-type", "no content type")
                if not is_begun and not form.startswith("text/event-stream"):
                    raise StreamBroken(self._clean(f"it answers with {form}, not with a stream of events"))
            except APIStatusError:
                raise
            except (APIError, Malformed, ValueError) as error:
                if not is_whole:
                    kind = ConnectionLost if isinstance(error, APIConnectionError) else StreamBroken
                    raise kind(self._clean(f"{type(error).__name__}: {error}")) from None
            finally:
                await events.close()

    async def close(self) -> None:
        await self._client.close()
        # The library drops generators half read, one in another; the loop closes them in tasks, one after another.
        for _ in range(_NESTED):
            await asyncio.sleep(0)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from openai import APIConnectionError, APIStatusError, OpenAIError

        try:
            yield
        except APIStatusError as error:
            raise self._refusal(error) from None
        except APIConnectionError as error:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            raise ServerFailed(self._clean(f"{self.options.url} cannot be reached: {error}{cause}")) from None
        except (OpenAIError, ValueError) as error:
            raise ServerFailed(self._clean(f"{self.options.url}: {type(error).__name__}: {error}")) from None

    def _refusal(self, error: APIStatusError) -> PlaitError:
        status, said = error.status_code, self._clean(str(error))
        variable = self.options.api_key_env
        if status in (401, 403):
            held = "holds a key that it does not take" if self._key else "is not set"
            return ServerFailed(f"{self.options.url} refuses access ({status}), and {variable} {held}: {said}")
        if status in (400, 413) and any(words in said.lower() for words in _TOO_LONG):
            return PromptTooLong(f"too long for {self.options.url}; set context_limit to what it takes: {said}")
        if status == 404 and "model" in said.lower():
            return UnknownModel(f"{self.options.url} has no model {self.options.model!r}: {said}")
        if status in (400, 404, 405, 422, 501):
            return Refused(f"{self.options.url} does not take this request ({status}): {said}")
        kind = InternalError if status == 500 else ServerFailed
        return kind(f"{self.options.url} failed ({status}), {self.options.max_retries} retries included: {said}")

    def _clean(self, text: str) -> str:
        """What others wrote, for messages and logs: short, harmless, without the key."""
        if self._key:
            # Where a message quotes it, its backslashes are doubled.
            text = text.replace(repr(self._key)[1:-1], "***").replace(self._key, "***")
        return printable(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
