"""Options that several commands share: how the engine runs, what a job may spend, and `NAME=VALUE` texts."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from ..budget import Budget
from ..errors import InvalidInput
from ..job_spec import JobSpec

_SHORT = re.compile(r"sc(\d+)")
_DECODER = json.JSONDecoder()
_NAME = re.compile(r"\s*([^=,\s]+)\s*=")
_END = re.compile(r"\s*(,|$)")

ENGINE_FLAGS = {"device": "device", "threads": "num_threads", "dtype": "dtype", "kv_tokens": "kv_tokens"}
"""Flag -> the native engine's option."""


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Flags that `engine_options` reads."""
    group = parser.add_argument_group("engine options")
    group.add_argument("--device", help="where the model runs: cpu, cuda, cuda:1")
    group.add_argument("--threads", type=int, metavar="N", help="threads of the compiled kernels")
    group.add_argument("--dtype", help="of weights and KV: float32, bfloat16, float16, auto")
    group.add_argument("--kv-tokens", type=int, metavar="N", help="tokens the KV store holds")
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="any option of the engine; may be repeated"
    )


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options for `Runtime`, as JSON values; only what was given. The engine itself says which it knows."""
    found = {name: getattr(options, flag) for flag, name in ENGINE_FLAGS.items() if getattr(options, flag) is not None}
    return found | dict(map(parse_field, options.option))


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Flags that `with_job_options` reads."""
    group = parser.add_argument_group("job options", "they go before what the job says")
    group.add_argument("--seed", type=int)
    group.add_argument("--priority", type=int, help="higher is served first")
    group.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="LIMIT=VALUE[,...]",
        help=f"{', '.join(Budget.model_fields)}; null takes a limit away; may be repeated",
    )


def with_job_options(spec: JobSpec, options: argparse.Namespace) -> JobSpec:
    """The job with what the flags say. Raises `InvalidBudget` and `InvalidInput`."""
    given = {name: getattr(options, name) for name in ("seed", "priority") if getattr(options, name) is not None}
    limits = parse_fields(",".join(options.budget))
    if limits:
        given["budget"] = Budget(**{**spec.budget.model_dump(exclude_none=True), **limits})
    return spec.model_copy(update=given)


def method_of(text: str) -> dict[str, Any]:
    """The fields of a method that is one word of a command line: `sequential`, `self_consistency:n=8,stop=["a"]`, or
    `sc8` for short. Raises `InvalidInput`."""
    name, _, rest = text.partition(":")
    short = _SHORT.fullmatch(name)
    method = {"method": "self_consistency", "n": int(short[1])} if short else {"method": name}
    return {**method, **parse_fields(rest)}


def parse_field(text: str) -> tuple[str, Any]:
    """`n=4`; a value that is no JSON is text, commas and all. Raises `InvalidInput`."""
    name, equals, value = text.partition("=")
    if not (equals and name):
        raise InvalidInput(f"{text!r} should be FIELD=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def parse_fields(text: str) -> dict[str, Any]:
    """`n=4,stop=["a", "b"],answer=boxed`: names and values. Values are JSON, in which commas may stand; what is no JSON
    is text up to the next comma. Raises `InvalidInput`."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(text):
        match = _NAME.match(text, at)
        if match is None:
            part = text[at:].partition(",")[0]
            raise InvalidInput(f'{part!r} should be FIELD=VALUE (a value with commas is JSON: ["a", "b"])')
        name, value, at = match[1], *_value(text, match.end())
        if name in found:
            raise InvalidInput(f"{name!r} stands twice in {text!r}")
        found[name] = value
    return found


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value that begins here, and where the next name does."""
    start = at + len(text[at:]) - len(text[at:].lstrip())
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        end = -1
    if end >= 0 and (after := _END.match(text, end)):
        return value, after.end()
    word, _, _ = text[at:].partition(",")
    return word, at + len(word) + 1
