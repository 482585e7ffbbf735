"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ..errors import PlaitError
from ..methods.registry import METHODS
from .answers import Answer, ChatAnswer, TextAnswer, failure
from .bodies import parse_fields
from .document import describe
from .guard import Guard
from .jobs import add_jobs
from .live import add_live
from .problems import Refused, as_refusal, body
from .requests import Body, ChatBody, CompletionBody
from .service import Service
from .streams import NO_BUFFER, answer_stream, cancel, finish, unless_gone
from .work import Work

logger = logging.getLogger(__name__)

B = TypeVar("B", bound=Body)


class JobsStream(StreamingResponse):
    """A stream that ends its jobs when it is left, be it before its first part."""

    def __init__(self, works: Sequence[Work], parts: AsyncIterator[str]) -> None:
        super().__init__(parts, media_type="text/event-stream", headers=NO_BUFFER)
        self.works = works

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            cancel(self.works)


def make_app(service: Service) -> FastAPI:
    """The application that serves `service`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="plait", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_errors(app, service)
    _add_models(app, service)
    _add_status(app, service)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _complete(service, request, await _read(service, request, CompletionBody), TextAnswer)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _complete(service, request, await _read(service, request, ChatBody), ChatAnswer)

    add_jobs(app, service)
    add_live(app, service)
    describe(app, service)
    app.add_middleware(Guard, service=service)
    return app


async def _read(service: Service, request: Request, cls: type[B]) -> B:
    return parse_fields(cls, await service.parse(await request.body()))


async def _complete(
    service: Service, request: Request, asked: Body, make: Callable[[str, Sequence[Work]], Answer]
) -> Response:
    specs = asked.specs(service.model, service.runtime.engine.tokenizer, service.allow)
    await service.prepare(specs)
    works = service.start(request.state.client, specs, headers=request.headers)
    answer = make(asked.model, works)
    if asked.stream:
        usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        stream = answer_stream(answer, usage=usage)
        return JobsStream(works, stream)
    if not await unless_gone(request, finish(works)):
        return Response(status_code=499)
    # One that failed has the others cancelled: what is told is its error.
    for work in sorted(works, key=lambda work: work.error is None):
        if work.result is None:
            status, told = failure(work)
            return JSONResponse(told, status)
    # Log-probabilities of a hundred thousand tokens are megabytes.
    text = answer.complete() if asked.top is None else await asyncio.to_thread(answer.complete)
    return Response(text, media_type="application/json")


def _add_models(app: FastAPI, service: Service) -> None:
    began = int(time.time())
    left_out: set[str] = set()
    """What the log has told of already."""

    def entry(name: str) -> dict[str, Any]:
        limit = service.runtime.engine.context_limit
        return {"id": name, "object": "model", "created": began, "owned_by": "plait", "max_model_len": limit}

    def check(name: str) -> None:
        """Raise `Refused` for a name that a request with nothing beside it would be refused for."""
        try:
            asked = CompletionBody(model=name, prompt="?")
            for spec in asked.specs(service.model, service.runtime.engine.tokenizer, service.allow):
                service.check_method(spec.method)
        except PlaitError as error:
            # The cause is what anybody's code raised, if it did.
            raise Refused(404, str(error), code="model_not_found") from error.__cause__

    def is_served(name: str) -> bool:
        try:
            check(name)
        except Refused as refusal:
            if refusal.__cause__ is not None and name not in left_out:
                left_out.add(name)
                logger.warning("%s is left out of the models: %s", name, refusal)
            return False
        return True

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [f"{service.model}:{name}" for name in METHODS.names() if name in service.settings.methods]
        return {"object": "list", "data": [entry(name) for name in (service.model, *names) if is_served(name)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        check(name)
        return entry(name)


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        state = "draining" if service.is_draining else "ok"
        return JSONResponse({"status": state, "model": service.model}, 503 if service.is_draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(PlaitError)
    async def refuse(request: Request, error: PlaitError) -> Response:
        refusal = as_refusal(error)
        service.metrics.refused.labels(str(refusal.status)).inc()
        told = body(refusal.status, str(refusal), code=refusal.code, param=refusal.param)
        return JSONResponse(told, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        service.metrics.refused.labels(str(error.status_code)).inc()
        return JSONResponse(body(error.status_code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        # uvicorn closes the connection behind an error that nobody expected: no next request is to be sent there.
        return JSONResponse(body(500, "internal error"), 500, {"Connection": "close"})
