"""The OpenAPI document: what FastAPI finds out by itself, with bodies, answers and errors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from ..job_spec import job_schema
from .guard import OPEN
from .requests import ChatBody, CompletionBody
from .service import Service

Json = dict[str, Any]

EVENTS = "text/event-stream"
LINES = "application/jsonl"
_MEANINGS = {
    400: "What is asked for is malformed, or not supported",
    401: "No key, or one that is not known",
    403: "A method that this server does not allow",
    404: "There is no such thing",
    408: "Headers or body did not come in time",
    409: "The job has not ended, or was cancelled",
    413: "The body is too large",
    415: "The body is compressed",
    429: "The key's jobs or tokens are used up",
    500: "A mistake of the server's",
    503: "Too many wait, or the server is shutting down",
}
_START = (400, 403, 404, 429, 500, 503)
_ANSWERS: dict[tuple[str, str], tuple[int, dict[str, str], Iterable[int]]] = {
    ("post", "/v1/completions"): (200, {"application/json": "Completion", EVENTS: "ServerSentEvent"}, _START),
    ("post", "/v1/chat/completions"): (200, {"application/json": "ChatCompletion", EVENTS: "ServerSentEvent"}, _START),
    ("get", "/v1/models"): (200, {"application/json": "Models"}, ()),
    ("get", "/v1/models/{name}"): (200, {"application/json": "Model"}, (400, 404)),
    ("get", "/health"): (200, {"application/json": "Health"}, ()),
    ("get", "/metrics"): (200, {"text/plain": ""}, ()),
    ("post", "/v1/jobs"): (202, {"application/json": "JobState"}, _START),
    ("get", "/v1/jobs"): (200, {"application/json": "JobStates"}, ()),
    ("get", "/v1/jobs/{id}"): (200, {"application/json": "JobState"}, (404,)),
    ("delete", "/v1/jobs/{id}"): (200, {"application/json": "JobState"}, (404,)),
    ("get", "/v1/jobs/{id}/events"): (200, {EVENTS: "ServerSentEvent"}, (400, 404)),
    ("get", "/v1/jobs/{id}/result"): (200, {"application/json": "Object"}, (400, 404, 409, 500, 503)),
    ("get", "/v1/jobs/{id}/trace"): (200, {LINES: ""}, (404, 409)),
    ("get", "/v1/live"): (200, {"application/json": "Object"}, ()),
}
"""Status, media types with their schemas ("": text; of a stream, that of an event), and errors beside those that all
endpoints have."""
_BODIES = {"/v1/completions": "CompletionBody", "/v1/chat/completions": "ChatBody", "/v1/jobs": "Job"}


def describe(app: FastAPI, service: Service) -> None:
    """Let `/openapi.json` be the whole document."""
    found: Json = {}

    def openapi() -> Json:
        if not found:
            found.update(_document(app, service))
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, service: Service) -> Json:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = _schemas(service)
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            status, kinds, errors = _ANSWERS[verb, path]
            is_open = path in OPEN
            common = (408, 413, 415) if is_open else (401, 408, 413, 415)
            content = {kind: {"schema": _ref(name) if name else _TEXT} for kind, name in kinds.items()}
            operation["responses"] = {str(status): {"description": "What was asked for", "content": content}}
            for code in sorted({*errors, *common}):
                told = {"description": _MEANINGS[code], "content": {"application/json": {"schema": _ref("Error")}}}
                operation["responses"][str(code)] = told
            if verb == "post":
                told = {"application/json": {"schema": _ref(_BODIES[path])}}
                operation["requestBody"] = {"required": True, "content": told}
            if not is_open and not service.keys.is_open:
                operation["security"] = [{"key": []}]
    paths = document["paths"]
    paths["/health"]["get"]["responses"]["503"] = {**paths["/health"]["get"]["responses"]["200"]}
    paths["/health"]["get"]["responses"]["503"]["description"] = "It is shutting down"
    paths["/v1/jobs/{id}/events"]["get"]["parameters"].append(
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "description": "Number of the last event that is known",
            "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
        }
    )
    document["components"] = {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    return document


def _schemas(service: Service) -> Json:
    schemas = dict(_PLAIN)
    for name, schema in (
        ("Job", job_schema(service.settings.methods)),
        *((cls.__name__, cls.model_json_schema()) for cls in _body_classes()),
    ):
        # Definitions stand beside the schemas here, not inside them.
        moved = json.loads(json.dumps(schema).replace('"#/$defs/', '"#/components/schemas/'))
        schemas.update(moved.pop("$defs", {}))
        schemas[name] = moved
    return schemas


def _body_classes() -> tuple[type[BaseModel], ...]:
    return CompletionBody, ChatBody


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Json) -> Json:
    """An object that has these fields, and may have others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _maybe(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
_OBJECT = {"type": "object"}
_FINISH = {"enum": ["stop", "length", "tool_calls"]}
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT, plait=_OBJECT)
_HEAD: Json = {"id": _TEXT, "object": _TEXT, "created": _COUNT, "model": _TEXT, "usage": _USAGE}
_CHOICE: Json = {"index": _COUNT, "finish_reason": _FINISH, "logprobs": _maybe(_OBJECT), "plait": _OBJECT}
_JOB = _object(
    id=_TEXT, object={"const": "job"}, state={"enum": ["queued", "running", "done", "failed", "cancelled"]},
    created=_NUMBER, ended=_maybe(_NUMBER), method=_TEXT, seed={"type": "integer"}, events=_COUNT,
    error=_maybe(_TEXT), usage=_maybe(_OBJECT),
)  # fmt: skip
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_COUNT, owned_by=_TEXT, max_model_len=_COUNT)
_ERROR = _object(message=_TEXT, type=_TEXT, param=_maybe(_TEXT), code=_maybe(_TEXT))
_PLAIN: Json = {
    "Completion": _object(**_HEAD, choices=_list(_object(**_CHOICE, text=_TEXT))),
    "ChatCompletion": _object(**_HEAD, choices=_list(_object(**_CHOICE, message=_object(role=_TEXT)))),
    "Error": _object(error=_ERROR),
    "Health": _object(status={"enum": ["ok", "draining"]}, model=_TEXT),
    "JobState": _JOB,
    "JobStates": _object(object={"const": "list"}, data=_list(_JOB)),
    "Model": _MODEL,
    "Models": _object(object={"const": "list"}, data=_list(_MODEL)),
    "Object": _OBJECT,
    "ServerSentEvent": _object(data=_TEXT),
}
