"""Constraints in the fields that servers have for them."""

from __future__ import annotations

import json
from typing import Any

from ...constraint import Constraint

_ANY_OBJECT = {"type": "object"}


def constrained(constraint: Constraint, way: str) -> dict[str, Any]:
    """Fields of a request; `way`: as `ServerOptions.constraints`, and `response_format` for JSON alone."""
    value: Any = json.loads(constraint.source) if constraint.kind in ("json", "choice") else constraint.source
    if way == "structured_outputs":
        return {"structured_outputs": {constraint.kind: value}}
    if way == "guided":
        return {f"guided_{constraint.kind}": value}
    if way == "llama_cpp" and constraint.kind == "choice":
        return {"grammar": "root ::= " + " | ".join(map(_quoted, value))}
    if way == "llama_cpp":
        return {"response_format": {"type": "json_object", "schema": value}}
    if value == _ANY_OBJECT:
        return {"response_format": {"type": "json_object"}}
    # Not `strict`, which allows few schemas where it is more than a promise.
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "text", "schema": value}}}


def _quoted(text: str) -> str:
    """As a text of llama.cpp's grammars (GBNF)."""
    return '"' + "".join(f"\\U{ord(c):08X}" if c in '"\\' or not c.isprintable() else c for c in text) + '"'
