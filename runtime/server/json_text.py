"""JSON of what models wrote and gave, which a client can read whatever it is."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi.responses import JSONResponse


def json_text(value: object) -> str:
    """In ASCII, so that halves of characters stand there as escapes; null in the place of numbers that are not
    finite."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"))


class JsonAnswer(JSONResponse):
    """As `json_text`."""

    def render(self, content: Any) -> bytes:
        return json_text(content).encode()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
