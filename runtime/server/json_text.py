"""JSON of what models wrote and gave, which a client can read whatever it is."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from ..plain import json_text


class JsonAnswer(JSONResponse):
    """As `json_text`."""

    def render(self, content: Any) -> bytes:
        return json_text(content).encode()
