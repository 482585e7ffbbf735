"""Jobs as data: the same object goes to a local runtime, over the wire and into a configuration file."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PydanticUserError, SerializeAsAny

from .budget import Budget
from .errors import InvalidInput, InvalidJob
from .methods.base import Method
from .methods.registry import METHODS, parse_method
from .plain import check_plain
from .spec import Spec

logger = logging.getLogger(__name__)


def _method(value: object) -> object:
    return parse_method(value) if isinstance(value, dict) else value


def _json(value: dict[str, Any]) -> dict[str, Any]:
    check_plain(value, only_json=True)
    return value


class JobSpec(Spec):
    """What to run: a method, its budget, its seed."""

    @classmethod
    def title(cls) -> str:
        return "job"

    method: Annotated[SerializeAsAny[Method], BeforeValidator(_method)]
    """How to reason: an object with the `method`'s name and its fields."""
    budget: Budget = Field(default_factory=Budget)
    """What the job may spend."""
    seed: int = 0
    """With a branch's place in the tree it determines all sampling."""
    priority: int = 0
    """Higher is served first."""
    metadata: Annotated[dict[str, Any], AfterValidator(_json)] = Field(default_factory=dict)
    """The caller's own JSON values; they come back in the trace."""

    @classmethod
    def of(
        cls,
        job: Method | JobSpec,
        *,
        budget: Budget | None = None,
        seed: int = 0,
        priority: int = 0,
        metadata: dict[str, Any] | None = None,
    ) -> JobSpec:
        """What `submit` is given, as one. Raises `InvalidJob` for what is no job, and where a `JobSpec` comes with what
        it has already."""
        if isinstance(job, Method):
            return cls(method=job, budget=budget or Budget(), seed=seed, priority=priority, metadata=metadata or {})
        if not isinstance(job, JobSpec):
            raise InvalidJob(f"a job is a method or a JobSpec, not {type(job).__name__}; plait.parse_job reads JSON")
        if budget is None and seed == 0 and priority == 0 and metadata is None:
            return job
        raise InvalidJob("a JobSpec brings its own budget, seed, priority and metadata: do not give them again")


def parse_job(data: str | bytes | dict[str, Any]) -> JobSpec:
    """The job that JSON text, or its value, describes.

    `{"method": {"method": "sequential", "prompt": "..."}, "budget": {"total_tokens": 500}, "seed": 1}`. Raises
    `InvalidJob` or `InvalidBudget`.
    """
    if isinstance(data, (str, bytes)):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidJob(f"malformed job JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidJob(f"a job is a JSON object, not {type(data).__name__}")
    for part in (data, data.get("budget")):
        if isinstance(part, dict) and not all(isinstance(key, str) for key in part):
            raise InvalidJob("the names of a job's fields are texts")
    if not isinstance(data.get("method"), dict):
        raise InvalidJob('a job needs a method: {"method": {"method": "sequential", "prompt": "..."}}')
    values = {**data, "method": parse_method(data["method"])}
    if "budget" in data:
        if not isinstance(data["budget"], dict):
            raise InvalidJob(f"budget is a JSON object, not {type(data['budget']).__name__}")
        values["budget"] = Budget(**data["budget"])
    return JobSpec(**values)


def method_schema(name: str) -> dict[str, Any]:
    """The JSON schema of one method's JSON. Raises `InvalidInput` for an unknown name, or a method without one."""
    cls = METHODS.find(name)
    if cls is None:
        raise InvalidInput(METHODS.unknown(name))
    try:
        return cls.model_json_schema()
    except PydanticUserError as error:  # a field of a type that JSON has not
        raise InvalidInput(f"the method {name!r} has no JSON schema: {error.message}") from None


def job_schema(methods: Sequence[str] | None = None) -> dict[str, Any]:
    """The JSON schema of a job; its method is any of these, or of those that can be loaded here."""
    schema = JobSpec.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions.pop("Method", None)
    choices = []
    for name in METHODS.names() if methods is None else methods:
        try:
            found = method_schema(name)
        except InvalidInput as error:
            if methods is not None:
                raise
            logger.warning("left out of the schema: %s", error)
            continue
        definitions.update(found.pop("$defs", {}))
        definitions[name] = found
        choices.append({"$ref": f"#/$defs/{name}"})
    described = schema["properties"]["method"]
    schema["properties"]["method"] = {"description": described.get("description", ""), "oneOf": choices}
    return schema
