"""`EvalConfig`: what is evaluated, as one TOML file, as the flags of `plait eval` or in Python."""

from __future__ import annotations

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from ..runtime.budget import Budget
from ..runtime.disk import own_file
from ..runtime.errors import InvalidInput
from ..runtime.methods.base import Method
from ..runtime.methods.nesting import least_limit
from ..runtime.methods.registry import parse_method
from ..runtime.mqtt.address import refuse_password
from ..runtime.spec import Several, Spec
from .benchmark import Benchmark, Sample, parse_benchmark
from .fields import describe, json_fields, method_class, method_fields
from .paths import absolute_fields, absolute_model, absolute_paths
from .sweep import expand


class MethodConfig(Spec):
    """One method of the grid, without what the benchmark gives, and how often it tries. Raises `InvalidInput`.

    It may be given as a dict with the method's fields beside `label` and `attempts`, as a method or as its class; so
    may `fields` alone. Values may be objects: reward functions, strategies, methods. Of a method those fields count
    that were set, except for the prompt: it stands for the problem's, which the benchmark gives. All of it becomes the
    JSON that the method itself would write, so how a method was given makes no difference.
    """

    refusal = InvalidInput

    label: str = ""
    """Its name in the report; empty: made of its fields."""
    attempts: int = Field(default=1, ge=1)
    """Runs per problem, each with a seed of its own; for pass@k and cons@k."""
    fields: Annotated[dict[str, Any], BeforeValidator(method_fields)]
    """As in the method's JSON, `method` among them. They go before what the benchmark gives."""

    @classmethod
    def title(cls) -> str:
        return "method"

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: object) -> object:
        """In a file the method's fields stand beside `label` and `attempts`."""
        if isinstance(data, (Method, type)):
            return {"fields": data}
        if not isinstance(data, dict) or "fields" in data:
            return data
        own = {name: data[name] for name in ("label", "attempts") if name in data}
        return {**own, "fields": {name: value for name, value in data.items() if name not in own}}

    @cached_property
    def name(self) -> str:
        """The label, or the fields in short."""
        return self.label or describe(self.fields)

    def build(self, benchmark: Benchmark, sample: Sample, window: int | None) -> Method:
        """The method for one problem, with the window as its `context_limit` unless its own is less. Raises
        `InvalidJob`."""
        fields = {**benchmark.prompt(sample, self.fields["method"]), **self.fields}
        method = parse_method(fields)
        if window is None:
            return method
        own = getattr(method, "context_limit", None)
        return parse_method({**fields, "context_limit": least_limit(own, window)})


def _benchmark(value: object) -> object:
    return parse_benchmark(value) if isinstance(value, dict) else value


def _methods(value: object) -> object:
    if not isinstance(value, (list, tuple)):
        return value
    found: list[object] = []
    for number, one in enumerate(value):
        try:
            found += expand(one)
        except InvalidInput as error:
            raise InvalidInput(f"number {number}: {error}") from None
    return found


class EvalConfig(Spec):
    """A grid: every method within every budget and context window, on every problem. Raises `InvalidInput`."""

    refusal = InvalidInput

    benchmark: Annotated[SerializeAsAny[Benchmark], BeforeValidator(_benchmark)]
    """The problems: an object, or a dict with its `name` and fields."""
    methods: Annotated[Several[MethodConfig], BeforeValidator(_methods)]
    """Dicts, methods, their classes or `MethodConfig`s. The first one is what the others are compared with. Lists in a
    dict are sweeps where the field takes no list: `temperature = [0, 0.6]` is two methods; see `sweep.expand`."""
    model: str = "countdown"
    """As for `Runtime`."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Options of the model's loader (`kv_tokens = 131072`)."""
    windows: Several[Annotated[int, Field(ge=1)]] = ()
    """Context windows in tokens, for methods inside methods too; a method's own `context_limit` holds where it is less.
    Empty: the methods' own limits alone."""
    budgets: Several[Budget] = (Budget(),)
    """Limits of one job; every method runs within each of them."""
    seed: int = 0
    """What the seeds of all jobs are made of."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which a job is cancelled and counts as failed; None: no limit. `seconds` of a budget let a method
    conclude."""
    concurrency: int = Field(default=16, ge=1)
    """Jobs at a time; it changes times, not answers."""

    @classmethod
    def title(cls) -> str:
        return "evaluation"

    @model_validator(mode="after")
    def _different(self) -> Self:
        if not self.methods:
            raise ValueError("methods: there is none")
        if not self.budgets:
            raise ValueError("budgets: there is none")
        names = [method.name for method in self.methods]
        for values, what in ((names, "methods"), (self.windows, "windows"), (self.budgets, "budgets")):
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{what}: {twice[0]} stands there twice")
        return self

    @field_validator("model")
    @classmethod
    def _without_password(cls, model: str) -> str:
        # Settings are written into the folder of results, and the model's name into the report.
        refuse_password(model)
        return model

    @model_validator(mode="after")
    def _is_json(self) -> Self:
        """Before any work, not when the settings are written."""
        json_fields(self.benchmark, self.benchmark.title())
        json_fields(self, self.title())
        return self

    def settings(self) -> dict[str, Any]:
        """Everything that decides about the results, as JSON; paths are absolute."""
        found = self.model_dump(mode="json", exclude={"concurrency"}, exclude_none=True)
        here = Path.cwd()
        benchmark = absolute_fields(found["benchmark"], here)
        methods = [
            {**method, "fields": absolute_paths(method_class(method["fields"]), method["fields"], here)}
            for method in found["methods"]
        ]
        return {**found, "benchmark": benchmark, "methods": methods, "model": absolute_model(self.model)}


def read_toml(path: Path) -> dict[str, Any]:
    """The fields in a TOML file (see `own_file`); the benchmark's relative paths are relative to it. Raises
    `InvalidInput`."""
    try:
        path = own_file(path)
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read the evaluation {path}: {error}") from None
    benchmark = data.get("benchmark")
    if isinstance(benchmark, dict):
        data["benchmark"] = absolute_fields(benchmark, path.parent)
    return data
