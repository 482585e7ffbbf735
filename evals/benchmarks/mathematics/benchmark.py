"""Benchmarks of mathematics, graded by math-verify; those of the hub: AIME and MATH-500."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AliasChoices, Field, PrivateAttr

from ....runtime.errors import InvalidInput
from ....runtime.spec import Several
from ...benchmark import Benchmark, Sample, Verdict, ask
from ...hub import HubSet, hub_rows
from ...records import Filled, Label, Record, Text, read_rows
from .grading import MathGrader

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

BOX = r"regex:\\boxed\s*\{"
"""What a step of a tree search holds that answers the problem."""


def _level(given: int | str | None) -> int | str | None:
    number = given.removeprefix("Level ") if isinstance(given, str) else ""
    return int(number) if number.isdecimal() else given


class Row(Record):
    """A problem; the names of the fields differ in the hub's data sets."""

    id: Label = Field(default="", min_length=1, validation_alias=AliasChoices("id", "unique_id", "ID"))
    problem: Annotated[Text, Filled] = Field(validation_alias=AliasChoices("problem", "question", "Question"))
    answer: Annotated[Label, Filled] = Field(validation_alias=AliasChoices("answer", "Answer"))
    level: Annotated[int | str | None, AfterValidator(_level)] = None
    """Of difficulty; files also write `Level 3` and `"3"`."""

    @property
    def gold(self) -> str:
        """The right answer, in LaTeX."""
        return self.answer


class Mathematics(Benchmark):
    """Problems with one answer in LaTeX; `data` has the fields `problem` and `answer`, and may have `id`."""

    row: ClassVar[type[Row]] = Row
    """What a problem is read as."""
    chat: bool = True
    """Put the problem as a chat message; False: as text, for models without a chat template."""
    instruction: str = INSTRUCTION
    """Text put behind the problem."""
    seconds: float = Field(default=5.0, gt=0)
    """Seconds that math-verify may compute on one answer; waiting for it is not counted."""
    _grader: MathGrader | None = PrivateAttr(default=None)

    def load(self) -> list[Sample]:
        return [
            Sample(id=row.id or str(number), question=row.problem, reference=row.gold, data=self.keep(row))
            for number, row in enumerate(self.rows()[: self.count], start=1)
        ]

    def rows(self) -> Sequence[Row]:
        """The problems as they are kept."""
        return self.source() if self.data is None else read_rows(self.data, self.row)

    @abstractmethod
    def source(self) -> Sequence[Row]:
        """The problems where there is no `data`. Raises `InvalidInput` when they cannot be had."""

    def keep(self, row: Row) -> Any:
        """What the sample carries."""
        return row.gold

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        text = f"{sample.question}\n\n{self.instruction}" if self.instruction else sample.question
        fields = ask(text, method, "boxed", chat=self.chat)
        return fields | ({"question": sample.question, "finished": [BOX]} if method == "tree_search" else {})

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        # The method's answer is one box; several next to each other are one answer too.
        return self.grader.grade(sample.data, None, text if "\\boxed" in text or answer is None else answer)

    @property
    def grader(self) -> MathGrader:
        if self._grader is None:
            self._grader = MathGrader(self.seconds)
        return self._grader

    def close(self) -> None:
        if self._grader is not None:
            self._grader.close()


class FromHub(Mathematics):
    """Problems that the Hugging Face hub has."""

    hub: ClassVar[HubSet]

    def source(self) -> Sequence[Row]:
        return hub_rows(self.hub, self.row)


class Aime(FromHub):
    """AIME 1983-2024."""

    name: Literal["aime"] = "aime"
    """What configurations call it."""
    hub = HubSet(name="di-zhang-fdu/AIME_1983_2024", split="train")


class Aime24(FromHub):
    """AIME 2024 I and II, 30 problems."""

    name: Literal["aime24"] = "aime24"
    """What configurations call it."""
    hub = HubSet(name="HuggingFaceH4/aime_2024", split="train")


class Aime25(FromHub):
    """AIME 2025 I and II, 30 problems."""

    name: Literal["aime25"] = "aime25"
    """What configurations call it."""
    hub = HubSet(name="math-ai/aime25")


class Math500(FromHub):
    """500 problems of MATH's test split (arXiv 2305.20050)."""

    name: Literal["math500"] = "math500"
    """What configurations call it."""
    hub = HubSet(name="HuggingFaceH4/MATH-500")
    levels: Several[Annotated[int, Field(ge=1, le=5)]] = ()
    """Of difficulty, from 1 to 5; empty: all."""

    def rows(self) -> Sequence[Row]:
        rows = [row for row in super().rows() if not self.levels or row.level in self.levels]
        if not rows:
            raise InvalidInput(f"there is no problem of the levels {list(self.levels)}")
        return rows
