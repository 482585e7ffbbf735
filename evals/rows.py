"""`Row`: what is kept of one job in one context window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ..runtime.errors import InvalidInput
from ..runtime.mistakes import first_mistake
from .extras import Extra
from .trees import Thread

Count = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
"""Sums of as many as there are stay numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of the grid, all windows together: what is run, kept and resumed as a unit."""

    method: str
    """`MethodConfig.name`."""
    budget: Count
    """Index into the configuration's budgets."""
    sample: str
    attempt: Count

    def __str__(self) -> str:
        return f"{self.method}/{self.budget}/{self.sample}/{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What depends on the machine and on what else was running."""

    seconds: Amount
    """Wall time of the job."""
    peak_kv_blocks: Count
    mean_kv_blocks: Amount

    @classmethod
    def of(cls, usage: Mapping[str, Any]) -> Measured:
        """`usage`: as `Usage.to_json` gives it."""
        return cls(
            seconds=round(usage["seconds"], 4),
            peak_kv_blocks=usage["peak_kv_blocks"],
            mean_kv_blocks=round(usage["mean_kv_blocks"], 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Verdict and cost of one job."""

    window: Count | None
    """Tokens one context may hold; None: the method's own limit."""
    correct: bool
    extracted: str | None
    reason: str
    finish: str
    """`Finish`, or `failed`, `timeout`, `prompt_too_long`."""
    error: str | None = None
    """Why there is no verdict: the job failed, for a reason that is none of the method's. Such rows are neither right
    nor wrong, whatever `correct` is, count in no accuracy, and are run again on request. Tokens and times are what the
    job had cost until then."""
    total_tokens: Count = 0
    critical_tokens: Count = 0
    branches: Count = 0
    counts: dict[str, Count]
    """What the method had to put up with; see `Usage.counts`."""
    measured: Measured | None = None
    """None: not measured."""
    origin: Literal["run", "same", "cut"] = "run"
    """`run`: the job ran in this window. `same`: it ran in a larger one and nothing came near this one's end. `cut`:
    the text of the larger run, cut off; see `windows`."""
    trace: str | None = None
    """The trace's file, relative to the evaluation's folder."""
    threads: list[Thread] | None = None
    """The job's threads; None: in the row that the trace was made for."""
    extra: Extra | None = None
    """As in the verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The rows of one key, largest window first."""

    key: Key
    rows: tuple[Row, ...]

    @property
    def has_failed(self) -> bool:
        return any(row.error is not None for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        """Raises `TypeError`, `KeyError` or `ValueError` for anything else."""
        check_types(_adapter(), data)
        rows = []
        for row in data["rows"]:
            measured = None if row["measured"] is None else Measured(**row["measured"])
            extra = None if row.get("extra") is None else Extra(**row["extra"])
            rows.append(Row(**{**row, "measured": measured, "extra": extra}))
        return cls(key=Key(**data["key"]), rows=tuple(rows))


def check_types(adapter: TypeAdapter[Any], data: object) -> None:
    """Raise `InvalidInput` that names the first value which is not as the adapter's class says, or is no JSON."""
    try:
        # As JSON, where a list is a tuple too; without half a surrogate pair, which a model's text may hold.
        adapter.validate_json(json.dumps(data, ensure_ascii=False).encode(errors="replace"), strict=True)
    except ValidationError as error:
        raise InvalidInput(first_mistake(error, data)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"it is no JSON: {error}") from None


@cache
def _adapter() -> TypeAdapter[Unit]:
    return TypeAdapter(Unit)
