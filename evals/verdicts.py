"""`judge`: a benchmark's verdict, as it can be kept. Benchmarks are anyone's; what they return is `checked` here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ..runtime.errors import InvalidInput
from ..runtime.methods.base import Method
from .benchmark import Benchmark, Sample, Verdict
from .extras import Extra
from .rows import check_types


async def judge(
    benchmark: Benchmark, sample: Sample, method: Method, answer: str | None, text: str, details: Mapping[str, Any]
) -> Verdict:
    """The benchmark's verdict, `checked`; raises whatever else the benchmark raises."""
    return checked(benchmark, sample, await benchmark.judge(sample, method, answer, text, details))


def checked(benchmark: Benchmark, sample: Sample, given: object) -> Verdict:
    """What a benchmark gave as its verdict, with NumPy's numbers as Python's. Raises `InvalidInput` that names
    benchmark, problem and field where it is none, or holds what cannot be kept."""
    try:
        return _checked(given)
    except InvalidInput as error:
        raise InvalidInput(f"the verdict of {benchmark.name} on {sample.id!r}: {error}") from None


def _checked(given: object) -> Verdict:
    if not isinstance(given, Verdict):
        raise InvalidInput(f"it should be a Verdict, not {type(given).__name__}")
    values = _plain(given)
    check_types(_adapter(), values)
    # What is kept in memory is what will be read back.
    kept = json.loads(json.dumps(values))
    return Verdict(**{**kept, "extra": None if kept["extra"] is None else Extra(**kept["extra"])})


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_plain(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


@cache
def _adapter() -> TypeAdapter[Verdict]:
    return TypeAdapter(Verdict)
