"""`Extra`: what a verdict says besides right and wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

Figure = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)] | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """Figures of one job, which the report shows as means over all jobs that have them."""

    numbers: Mapping[str, Figure] = field(default_factory=dict)
    """Name -> a value from 0 to 1; the report shows its mean in per cent."""
    parts: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    """Part of the job -> what it cost, by name; `seconds` is one that depends on the machine."""
    curves: Mapping[str, Sequence[Figure]] = field(default_factory=dict)
    """Name -> what would have come of it within a limit of 1, 2, ...; values from 0 to 1."""
    limit: str = ""
    """What the curves' limit is of."""
    notes: Sequence[str] = ()
    """What has to be said of the verdict wherever it is shown; the report gives each once."""
