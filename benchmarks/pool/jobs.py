"""What the jobs of these benchmarks are."""

from __future__ import annotations

from ...runtime.budget import Budget
from ...runtime.job_spec import JobSpec
from ...runtime.methods.registry import parse_method


def job_of(number: int) -> JobSpec:
    """Two in three are sequential, the others spawn."""
    fields = (
        {"method": "apr", "prompt": "apr 24 : 63 9 5 2 ;", "dialect": "compact", "depth": 2, "context_limit": 512}
        if number % 3 == 0
        else {"method": "sequential", "prompt": "seq 24 : 63 9 5 2 ;"}
    )
    return JobSpec(method=parse_method(fields), budget=Budget(), seed=number)
