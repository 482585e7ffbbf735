"""`EvalConfig`: what is evaluated, as one TOML file or as the flags of `plait eval`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from ..runtime.budget import Budget
from ..runtime.errors import InvalidInput
from ..runtime.methods.base import Method
from ..runtime.methods.registry import parse_method
from ..runtime.spec import Spec
from .benchmarks.base import Benchmark, Sample, parse_benchmark


class MethodConfig(BaseModel):
    """One method of the grid: its JSON without what the benchmark gives, and how often it tries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = ""
    """Its name in the report; empty: made of its fields."""
    attempts: int = Field(default=1, ge=1)
    """Runs per problem, each with a seed of its own; for pass@k and cons@k."""
    fields: dict[str, Any]
    """As in the method's JSON."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: object) -> object:
        """In a file the method's fields stand beside `label` and `attempts`."""
        if not isinstance(data, dict) or "fields" in data:
            return data
        own = {name: data[name] for name in ("label", "attempts") if name in data}
        return {**own, "fields": {name: value for name, value in data.items() if name not in own}}

    @property
    def name(self) -> str:
        return self.label or describe_fields(self.fields)

    def build(self, benchmark: Benchmark, sample: Sample, window: int | None) -> Method:
        """The method for one problem. Raises `InvalidJob`."""
        limit = {} if window is None else {"context_limit": window}
        given = benchmark.prompt(sample, str(self.fields.get("method")))
        return parse_method({**given, **limit, **self.fields})


def describe_fields(fields: dict[str, Any]) -> str:
    """`self_consistency n=4`."""
    rest = (f"{name}={value}" for name, value in fields.items() if name != "method")
    return " ".join((str(fields.get("method")), *rest))


def _benchmark(value: object) -> object:
    return parse_benchmark(value) if isinstance(value, dict) else value


class EvalConfig(Spec):
    """A grid: every method within every budget and context window, on every problem. Raises `InvalidInput`."""

    refusal = InvalidInput

    @classmethod
    def title(cls) -> str:
        return "evaluation"

    benchmark: Annotated[SerializeAsAny[Benchmark], BeforeValidator(_benchmark)]
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    """The first one is what the others are compared with."""
    model: str = "countdown"
    """As for `Runtime`."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Options of the model's loader (`kv_tokens = 131072`)."""
    windows: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Context windows in tokens; empty: the methods' own limits."""
    budgets: tuple[Budget, ...] = (Budget(),)
    seed: int = 0
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which a job is cancelled and counts as failed. `seconds` of a budget let a method conclude."""
    concurrency: int = Field(default=16, ge=1)
    """Jobs at a time; it changes times, not answers."""

    @model_validator(mode="after")
    def _different(self) -> Self:
        names = [method.name for method in self.methods]
        for values, what in ((names, "methods"), (self.windows, "windows"), (self.budgets, "budgets")):
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{what}: {twice[0]} stands there twice")
        return self

    def settings(self) -> dict[str, Any]:
        """Everything that decides about the results, as JSON."""
        return self.model_dump(mode="json", exclude={"concurrency"}, exclude_none=True)


def read_toml(path: Path) -> dict[str, Any]:
    """The fields in a TOML file; a relative `benchmark.data` is relative to it. Raises `InvalidInput`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read the evaluation {path}: {error}") from None
    benchmark = data.get("benchmark")
    if isinstance(benchmark, dict) and "data" in benchmark:
        data["benchmark"] = {**benchmark, "data": str(path.parent / str(benchmark["data"]))}
    return data
