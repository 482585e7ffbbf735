"""JSON of what models wrote and gave, which a client can read whatever it is."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from ..plain import json_text


def in_pieces(content: Any, depth: int) -> str:
    """As `json_text`, down to this depth part by part: while one is written, no other thread runs."""
    if not depth or not isinstance(content, dict | list):
        return json_text(content)
    if isinstance(content, dict):
        return "{" + ",".join(f"{json_text(name)}:{in_pieces(part, depth - 1)}" for name, part in content.items()) + "}"
    return "[" + ",".join(in_pieces(part, depth - 1) for part in content) + "]"


class JsonAnswer(JSONResponse):
    """As `json_text`."""

    def render(self, content: Any) -> bytes:
        return json_text(content).encode()
