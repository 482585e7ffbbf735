"""`job_data`: a job as the JSON that workers get."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidJob
from ..job_spec import JobSpec
from ..methods.base import blaming_method
from ..methods.nesting import all_methods


def job_data(spec: JobSpec) -> dict[str, Any]:
    """The job as JSON. Raises `InvalidInput` for a method that has none, and `InvalidJob` for one of which it leaves a
    field out that was given (`exclude`): a worker would take the default."""
    with blaming_method(spec.method):
        data = spec.model_dump(mode="json")
    for method in all_methods(spec.method):
        for name in method.model_fields_set:
            if type(method).model_fields[name].exclude:
                raise InvalidJob(f"the method {method.method!r} cannot be sent: its JSON leaves {name} out (exclude)")
    data["budget"] = spec.budget.model_dump(exclude_none=True)
    return data
