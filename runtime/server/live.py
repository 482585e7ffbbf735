"""The page at `/`, and what it shows."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from .service import Service

MOST = 50
"""Jobs that are shown."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
"""Texts of models come into the page: nothing but its own script may run, and nothing may be fetched elsewhere."""


def add_live(app: FastAPI, service: Service) -> None:
    """Add the endpoints to the application."""
    page = (files(__package__) / "static" / "live.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    @app.get("/v1/live")
    async def live(request: Request) -> dict[str, Any]:
        kv, client = service.runtime.engine.block_usage(), request.state.client
        mine = [work for work in service.works.values() if work.client is client]
        return {
            "model": service.model,
            "kv": {"used": kv.used, "cached": kv.cached, "total": kv.total},
            "running": sum(work.state == "running" for work in service.active),
            "queued": sum(work.state == "queued" for work in service.active),
            "tokens": service.tokens,
            "jobs": [
                {
                    "id": work.id,
                    "method": work.spec.method.method,
                    "state": work.state,
                    "tokens": work.threads.tokens,
                    "threads": work.threads.to_json(),
                }
                for work in reversed(mine[-MOST:])
            ],
        }
