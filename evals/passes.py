"""What a Hogwild! job would have answered within fewer forward passes (`answer_at`), as figures of its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..runtime.methods.base import Method
from ..runtime.methods.hogwild.method import Hogwild
from .benchmark import Benchmark, Sample
from .extras import Extra
from .verdicts import judge


async def with_passes(
    extra: Extra | None, benchmark: Benchmark, sample: Sample, method: Method, details: Mapping[str, Any]
) -> Extra | None:
    """`extra` with a share for each number of passes, by which the report has a column each."""
    if not isinstance(method, Hogwild) or not details.get("answers"):
        return extra
    numbers = {}
    for given in details["answers"]:
        answer = given["answer"]
        text = f"\\boxed{{{answer}}}" if answer is not None and method.answer == "boxed" else answer or ""
        verdict = await judge(benchmark, sample, method, answer, text, {})
        numbers[f"at {given['passes']:,} passes"] = float(verdict.correct)
    extra = extra or Extra()
    return replace(extra, numbers={**extra.numbers, **numbers})
