"""`/v1/jobs`: jobs as plait describes them, with their events, results and traces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ..job_spec import parse_job
from ..plain import json_text
from .answers import failure
from .json_text import JsonAnswer
from .problems import Refused, as_event
from .service import Service
from .streams import COMMENT, NO_BUFFER, PULSE, sse
from .work import Work


def add_jobs(app: FastAPI, service: Service) -> None:
    """Add the endpoints to the application."""

    def find(request: Request, id: str) -> Work:
        return service.find(request.state.client, id)

    @app.post("/v1/jobs", status_code=202)
    async def submit(request: Request) -> dict[str, Any]:
        data = await service.parse(await request.body())
        if isinstance(data, dict):
            service.allow(data.get("method"))
        spec = parse_job(data)
        await service.prepare([spec])
        (work,) = service.start(request.state.client, [spec], keep=True, headers=request.headers)
        return work.summary()

    @app.get("/v1/jobs")
    async def index(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [work.summary() for work in service.list(request.state.client)]}

    @app.get("/v1/jobs/{id}")
    async def state(request: Request, id: str) -> dict[str, Any]:
        return find(request, id).summary()

    @app.delete("/v1/jobs/{id}")
    async def cancel(request: Request, id: str) -> dict[str, Any]:
        work = find(request, id)
        work.cancel("cancelled by the client")
        await work.wait()
        return work.summary()

    @app.get("/v1/jobs/{id}/events")
    async def events(request: Request, id: str) -> Response:
        work = find(request, id)
        last = request.headers.get("last-event-id", "0")
        if not last.isdecimal() or len(last) > 15:
            raise Refused(400, f"Last-Event-ID is {last[:40]!r}: it should be the number of an event")
        return StreamingResponse(_events(work, int(last)), media_type="text/event-stream", headers=NO_BUFFER)

    @app.get("/v1/jobs/{id}/result")
    async def result(request: Request, id: str) -> Response:
        work = find(request, id)
        if not work.is_over:
            raise Refused(409, f"the job is {work.state}: its events tell when it has ended", code="not_ended")
        if work.result is None and work.state == "cancelled":
            raise Refused(409, "the job was cancelled", code="cancelled")
        if work.result is None:
            status, told = failure(work)
            return JSONResponse(told, status)
        return JsonAnswer(work.result.to_json())

    @app.get("/v1/jobs/{id}/trace")
    async def trace(request: Request, id: str) -> Response:
        work = find(request, id)
        if not work.is_over:
            raise Refused(409, f"the job is {work.state}: there is no whole trace", code="not_ended")
        if work.job is None:
            raise Refused(404, "the job ended before it began: there is no trace", code="no_trace")
        lines = (json_text(_told(work, line)) + "\n" for line in work.job.trace.lines())
        return StreamingResponse(lines, media_type="application/jsonl")


def _told(work: Work, line: dict[str, Any]) -> dict[str, Any]:
    """A line of the trace; its last one tells what the job failed by in the words of the `failed` event."""
    if work.error is None or line["type"] != "end" or "error" not in line:
        return line
    return {**line, "error": as_event(work.error)}


async def _events(work: Work, after: int) -> AsyncIterator[str]:
    async for some in work.follow(after, PULSE):
        yield "".join(sse(event.to_json(), id=number, event=event.type) for number, event in some) or COMMENT
