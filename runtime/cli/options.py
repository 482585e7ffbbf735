"""Options that several commands share: how the engine runs, what a job may spend."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..budget import Budget
from ..job_spec import JobSpec
from ..methods.words import method_of as method_of
from ..methods.words import parse_field as parse_field
from ..methods.words import parse_fields as parse_fields

ENGINE_FLAGS = {"device": "device", "threads": "num_threads", "dtype": "dtype", "kv_tokens": "kv_tokens"}
"""Flag -> the native engine's option."""


def positive(text: str) -> int:
    """A number from 1 on, for `argparse`."""
    number = int(text)
    if number < 1:
        raise ValueError(f"{number} is not positive")
    return number


def utf8(text: str) -> str:
    """A text that a model is to read, for `argparse`: it is UTF-8 where the locale's encoding does not have it."""
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps such bytes as halves of characters.
        return os.fsencode(text).decode()
    return text


def named_path(text: str) -> Path:
    """For `argparse`; empty, as a variable that is not set leaves it, it would be the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("a file or folder has a name")
    return Path(text)


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
    # Made anew: a copy would check nothing.
    return JobSpec(**{**{name: getattr(spec, name) for name in JobSpec.model_fields}, **given})
