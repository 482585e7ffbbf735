"""Benchmarks of mathematics, graded by math-verify; those of the hub: AIME and MATH-500."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field, PrivateAttr

from ....runtime.errors import InvalidInput
from ...benchmark import Benchmark, Sample, Verdict
from ...records import Label, Record, Text, read_rows
from .grading import MathGrader

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

BOX = r"regex:\\boxed\s*\{"
"""What a step of a tree search holds that answers the problem."""


class Row(Record):
    """A line of `data`."""

    id: Label = Field(default="", min_length=1, validation_alias=AliasChoices("id", "unique_id"))
    problem: Text
    answer: Label
    level: int | str | None = None


class Mathematics(Benchmark):
    """Problems with one answer in LaTeX; `data` has the fields `problem` and `answer`, and may have `id`."""

    chat: bool = True
    """Put the problem as a chat message; False: as text, for models without a chat template."""
    instruction: str = INSTRUCTION
    """Text put behind the problem."""
    seconds: float = Field(default=5.0, gt=0)
    """Seconds that judging one answer may take."""
    _grader: MathGrader | None = PrivateAttr(default=None)

    def load(self) -> list[Sample]:
        rows = self.rows()[: self.count]
        return [
            Sample(
                id=str(row.get("id", row.get("unique_id", number))),
                question=str(row["problem"]),
                reference=str(row["answer"]),
                data=str(row["answer"]),
            )
            for number, row in enumerate(rows, start=1)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The problems as they are kept, with `problem` and `answer`."""
        if self.data is not None:
            return [row.model_dump() for row in read_rows(self.data, Row)]
        return self.source()

    @abstractmethod
    def source(self) -> list[dict[str, Any]]:
        """The problems where there is no `data`. Raises `InvalidInput` when they cannot be had."""

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        text = f"{sample.question}\n\n{self.instruction}" if self.instruction else sample.question
        prompt = [{"role": "user", "content": text}] if self.chat else text + "\n"
        if method == "apr":
            return {"prompt": prompt}
        search = {"question": sample.question, "finished": [BOX]} if method == "tree_search" else {}
        return {"prompt": prompt, "answer": "boxed", **search}

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        if self._grader is None:
            self._grader = MathGrader(self.seconds)
        # The method's answer is one box; several next to each other are one answer too.
        return self._grader.grade(sample.data, None, text if "\\boxed" in text or answer is None else answer)

    def close(self) -> None:
        if self._grader is not None:
            self._grader.close()


class FromHub(Mathematics):
    """Problems that the Hugging Face hub has."""

    hub: ClassVar[tuple[str, str]]
    """Data set and its split; read by `datasets`."""

    def source(self) -> list[dict[str, Any]]:
        name, split = self.hub
        try:
            from datasets import load_dataset
        except ImportError:
            raise InvalidInput(
                f"{self.name} comes from the hub by `datasets`: pip install 'plait[evals]', or give --data FILE"
            ) from None
        try:
            # The hub's data sets differ in the case of their columns.
            rows = [{key.lower(): value for key, value in row.items()} for row in load_dataset(name, split=split)]
            return [{**row, "problem": row.get("problem", row.get("question"))} for row in rows]
        except Exception as error:  # Whatever the network and the hub raise.
            raise InvalidInput(f"cannot read {name} from the hub, give --data FILE: {error}") from None


class Aime(FromHub):
    """AIME 1983-2024."""

    name: Literal["aime"] = "aime"
    """What configurations call it."""
    hub = ("di-zhang-fdu/AIME_1983_2024", "train")


class Aime24(FromHub):
    """AIME 2024 I and II, 30 problems."""

    name: Literal["aime24"] = "aime24"
    """What configurations call it."""
    hub = ("HuggingFaceH4/aime_2024", "train")


class Aime25(FromHub):
    """AIME 2025 I and II, 30 problems."""

    name: Literal["aime25"] = "aime25"
    """What configurations call it."""
    hub = ("math-ai/aime25", "test")


class Math500(FromHub):
    """500 problems of MATH's test split (arXiv 2305.20050)."""

    name: Literal["math500"] = "math500"
    """What configurations call it."""
    levels: tuple[int, ...] = ()
    """Of difficulty, from 1 to 5; empty: all."""
    hub = ("HuggingFaceH4/MATH-500", "test")

    def rows(self) -> list[dict[str, Any]]:
        return [row for row in super().rows() if not self.levels or row.get("level") in self.levels]
