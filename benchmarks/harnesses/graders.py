"""What the harnesses' tasks grade by: plait's own rules."""

from __future__ import annotations

from typing import Any

from plait import extract
from plait.evals.benchmarks.countdown.verify import verify


def is_correct(doc: dict[str, Any], text: str) -> bool:
    answer = extract("countdown", text)
    return answer is not None and verify(tuple(doc["nums"]), doc["target"], answer).ok


def grade(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's `process_results`."""
    return {"correct": float(is_correct(doc, results[0]))}
