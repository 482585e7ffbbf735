"""`plait schema`: print the JSON schema of a job, or of one method, with a description of every field."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..errors import InvalidInput
from ..job_spec import JobSpec
from ..methods.registry import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="?", help=f"one of {', '.join(METHODS.names())}; without one: a whole job")


def run(options: argparse.Namespace) -> int:
    schema = job_schema() if options.method is None else method_schema(options.method)
    sys.stdout.write(json.dumps(schema, indent=2) + "\n")
    return 0


def method_schema(name: str) -> dict[str, Any]:
    """The JSON schema of one method's JSON. Raises `InvalidInput` for an unknown name."""
    cls = METHODS.find(name)
    if cls is None:
        raise InvalidInput(METHODS.unknown(name))
    return cls.model_json_schema()


def job_schema() -> dict[str, Any]:
    """The JSON schema of a job; its method is any of those that can be loaded here."""
    schema = JobSpec.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions.pop("Method", None)
    choices = []
    for name in METHODS.names():
        found = method_schema(name)
        definitions.update(found.pop("$defs", {}))
        definitions[name] = found
        choices.append({"$ref": f"#/$defs/{name}"})
    described = schema["properties"]["method"]
    schema["properties"]["method"] = {"description": described.get("description", ""), "oneOf": choices}
    return schema
