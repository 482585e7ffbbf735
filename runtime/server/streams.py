"""Server-sent events, and clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request

from ..engines.text_stream import unshown
from ..events import Text
from ..methods.base import Method
from ..methods.tools import CallReader, ToolCall
from ..plain import json_text
from ..settled import settled
from .answers import Answer, failure
from .json_text import in_pieces
from .sampled import Sampled
from .work import Work

PULSE = 10.0
"""Seconds of silence after which a comment is sent, so that nothing between thinks the connection dead."""
NO_BUFFER = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers of a stream: proxies pass its parts on as they come."""
Json = dict[str, Any]
COMMENT = ": still at work\n\n"


def sse(data: Any, *, id: int | None = None, event: str | None = None) -> str:
    """One server-sent event."""
    head = (f"id: {id}\n" if id is not None else "") + (f"event: {event}\n" if event else "")
    text = data if isinstance(data, str) else json_text(data)
    return f"{head}data: {text}\n\n"


async def gone(request: Request) -> None:
    """Return when the client has closed the connection; its body is read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, wanted: Awaitable[Any]) -> bool:
    """Wait for something or for the client to go away; True: it is still there."""
    watch = asyncio.ensure_future(gone(request))
    task = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait([watch, task], return_when=asyncio.FIRST_COMPLETED)
        return task.done()
    finally:
        for one in (watch, task):
            one.cancel()
        await settled((watch, task))
        for one in (watch, task):
            if not one.cancelled():
                one.result()


async def finish(works: Sequence[Work]) -> None:
    """Wait for all; when one fails, whichever it is, or the wait is cancelled, end the others."""
    waits = {asyncio.create_task(work.wait()): work for work in works}
    left = set(waits)
    try:
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            if any(waits[one].result is None for one in done):
                break
    finally:
        cancel(works)
        for one in waits:
            one.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def cancel(works: Sequence[Work]) -> None:
    """End those that have not ended."""
    for work in works:
        if not work.is_over:
            work.cancel("the client has gone, or does not need it any more")


async def answer_stream(answer: Answer, *, usage: bool) -> AsyncIterator[str]:
    """The answer in parts: text as it comes where a job is plain sampling, else its text in the end. Leaving it ends
    the jobs."""
    parts: asyncio.Queue[str | None] = asyncio.Queue()
    readers = [asyncio.create_task(_read(answer, work, parts)) for work in answer.works]
    try:
        left = len(readers)
        while left:
            part = await parts.get()
            if part is None:
                left -= 1
            else:
                yield part
                await asyncio.sleep(0)  # Many parts may be there already: others get their turn.
            if part is None and (broken := next((w for w in answer.works if w.is_over and not w.result), None)):
                yield sse(failure(broken)[1])
                return
        if usage:
            yield sse(answer.last())
        yield sse("[DONE]")
    finally:
        cancel(answer.works)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(answer: Answer, work: Work, parts: asyncio.Queue[str | None]) -> None:
    """Put the parts of one job's choices, and None behind them."""
    first, method = answer.first[work.id], work.spec.method
    count = method.n if isinstance(method, Sampled) else 1
    choices = [_Streamed(method) for _ in range(count)]
    for n in range(count):
        parts.put_nowait(sse(answer.chunk(first + n, answer.delta("", begins=True))))
    async for some in work.follow(pulse=PULSE):
        if not some:
            parts.put_nowait(COMMENT)
        for _, event in some:
            if isinstance(method, Sampled) and isinstance(event, Text):
                n = 0 if count == 1 else int(event.branch.rpartition(".")[2])
                for delta in choices[n].push(event.text, answer):
                    parts.put_nowait(sse(answer.chunk(first + n, delta)))
    if work.result is not None:
        for n, (choice, tail) in enumerate(answer.choices(work)):
            rest = partial(_rest, answer, first + n, choices[n], choice)
            # Log-probabilities of a long text are megabytes.
            for part in await asyncio.to_thread(rest) if choice.get("tokens") else rest():
                parts.put_nowait(part)
            parts.put_nowait(sse(answer.chunk(first + n, answer.delta(None), tail)))
    parts.put_nowait(None)


def _rest(answer: Answer, index: int, streamed: _Streamed, choice: Json) -> list[str]:
    """The parts of a choice that is done which were not sent yet."""
    return [sse(in_pieces(answer.chunk(index, delta), 5)) for delta in streamed.rest(choice, answer)]


class _Streamed:
    """One choice of a stream: what was sent of it."""

    def __init__(self, method: Method) -> None:
        self._reader: CallReader | None = None
        if isinstance(method, Sampled) and method.has_tools and method.marks is not None:
            self._reader = CallReader(method.marks, {tool.name for tool in method.tools})
        self._is_parallel = not isinstance(method, Sampled) or method.parallel_tool_calls
        self._text = ""
        self._calls = 0

    def push(self, text: str, answer: Answer) -> list[Json]:
        """Parts for more text."""
        return self._send([text] if self._reader is None else self._reader.push(text), answer)

    def rest(self, choice: Json, answer: Answer) -> list[Json]:
        """Parts for what a choice that is done has beyond what was sent."""
        text, tokens = unshown(choice["text"], self._text) or None, choice.get("tokens")
        parts = [answer.delta(text, tokens)] if text or tokens is not None else []
        return parts + [self._call(call, answer) for call in (choice.get("calls") or [])[self._calls :]]

    def _send(self, found: Sequence[str | ToolCall], answer: Answer) -> list[Json]:
        parts = []
        for one in found:
            if self._calls and not self._is_parallel:
                break
            if isinstance(one, str):
                self._text += one
                parts.append(answer.delta(one))
            else:
                parts.append(self._call(one.to_json(), answer))
        return parts

    def _call(self, call: Json, answer: Answer) -> Json:
        self._calls += 1
        return answer.call_delta(self._calls - 1, call)
