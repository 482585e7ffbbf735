"""`PRMConfig`: the training of a process reward model, as a TOML file states it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from ...evals.benchmark import Benchmark, parse_benchmark
from ...runtime.errors import InvalidInput
from ...runtime.spec import Spec
from ...search.rewards.frames import PUBLISHED, Frame, Plain
from ..config import TrainConfig


def _benchmark(value: object) -> object:
    return parse_benchmark(value) if isinstance(value, dict) else value


class StepData(Spec):
    """One source of steps with verdicts."""

    refusal = InvalidInput

    kind: Literal["steps", "traces"]
    """`steps`: JSON Lines with `prompt`, `steps` (texts; or `completions`, as TRL has it), `labels` (true or false;
    null: nobody knows) and maybe `ended`, whether the last step is the end (true). `traces`: trace files of `plait`
    whose leaves `benchmark` grades: a step is good if a right answer was reached below it."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, as `DataConfig.paths`."""
    benchmark: Annotated[SerializeAsAny[Benchmark], BeforeValidator(_benchmark)] | None = None
    """`traces`: the problems that they are about."""
    delimiters: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """`traces`: strings that end a step; empty: those of the method that wrote them, which is a search."""
    held_out: int = Field(default=0, ge=0)
    """Prompts from the end whose steps are not trained, from any source, but judged, before and after the training."""

    @model_validator(mode="after")
    def _graded(self) -> Self:
        if (self.kind == "traces") != (self.benchmark is not None):
            raise ValueError("`benchmark` says what traces are graded by: give it with kind traces, and only then")
        return self


class PRMConfig(TrainConfig):
    """Training of a process reward model. With `tags`, a step tag that is not a token becomes one. Raises
    `InvalidInput`."""

    data: tuple[StepData, ...] = Field(min_length=1)
    """Where steps come from."""
    head: Literal["words", "classifier"] = "words"
    """`words`: a language model that would write `good` or `bad` behind a step. `classifier`: the same layers with two
    labels per token instead of an output layer."""
    format: Literal["plain", "math_shepherd", "rlhflow", "qwen", "skywork"] = "plain"
    """How it reads a question and steps; see `search.rewards.PRM`."""
    tag: str = ""
    """`plain`: text put behind every step, one token; empty: a step is judged at its own last token."""
    good: str | None = None
    """`plain`, `words`: what stands for a good step, one token; None: `+`."""
    bad: str | None = None
    """The same for a bad one; None: `-`."""
    max_tokens: Annotated[int, Field(ge=2)] = 4096
    """Of a prompt with steps; longer ones are cut behind the last verdict that fits, or left out where none does."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the data, each in an order of its own."""

    @classmethod
    def title(cls) -> str:
        return "training"

    @model_validator(mode="after")
    def _own_format(self) -> Self:
        if self.format != "plain" and (self.tag or self.good or self.bad):
            raise ValueError(f"tag, good, bad: the format {self.format} has its own; leave them out")
        if self.head != "words" and (self.good or self.bad):
            raise ValueError("good, bad: a classifier needs no words; leave them out")
        return self

    @property
    def frame(self) -> Frame:
        """How steps are put to the model."""
        return Plain(self.tag) if self.format == "plain" else PUBLISHED[self.format].frame

    @property
    def step_tag(self) -> str:
        """Empty: there is none."""
        return self.tag if self.format == "plain" else PUBLISHED[self.format].tag

    @property
    def words(self) -> tuple[str, str]:
        """(bad, good)."""
        if self.format != "plain":
            return PUBLISHED[self.format].bad, PUBLISHED[self.format].good
        return self.bad or "-", self.good or "+"

    @property
    def mark(self) -> dict[str, Any]:
        """What `prm.json` says."""
        if self.format != "plain":
            return {"format": self.format}
        bad, good = self.words
        return {
            "format": "plain",
            **({"good": good, "bad": bad} if self.head == "words" else {}),
            **({"tag": self.tag} if self.tag else {}),
        }
