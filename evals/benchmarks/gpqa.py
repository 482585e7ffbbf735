"""GPQA: graduate-level questions with four choices (arXiv 2311.12022), put and read as in OpenAI's simple-evals."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator

from ...runtime.methods.answers import extract
from ..benchmark import Benchmark, Sample, Verdict, ask
from ..hub import HubSet, hub_rows
from ..records import Filled, Label, Record, Text, read_rows

LETTERS = "ABCD"
INSTRUCTION = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
)
PATTERN = r"Answer[ \t]*:[ \t]*\$?([A-D])\$?"
"""In letters of either case; a small letter is no choice."""


Choice = Annotated[Label, Filled]


class Row(Record):
    """A question, under the names of the published files."""

    id: Label = Field(default="", min_length=1, validation_alias=AliasChoices("id", "Record ID"))
    question: Annotated[Text, Filled] = Field(validation_alias=AliasChoices("question", "Question"))
    correct: Choice = Field(validation_alias="Correct Answer")
    wrong_1: Choice = Field(validation_alias="Incorrect Answer 1")
    wrong_2: Choice = Field(validation_alias="Incorrect Answer 2")
    wrong_3: Choice = Field(validation_alias="Incorrect Answer 3")

    @field_validator("wrong_1", "wrong_2", "wrong_3")
    @classmethod
    def _not_right(cls, text: str, info: ValidationInfo) -> str:
        if text.strip() == info.data.get("correct", "").strip():
            raise ValueError("it is the correct answer too")
        return text


@dataclass(frozen=True, slots=True)
class Choices:
    """A question as it is put."""

    texts: tuple[str, ...]
    """In the order of the letters."""
    right: str
    """Letter of the right one."""


class Gpqa(Benchmark):
    """Multiple choice; `data` has the fields of the published files: `Question`, `Correct Answer`, `Incorrect Answer 1`
    to `3`, and may have `Record ID`."""

    name: Literal["gpqa"] = "gpqa"
    """What configurations call it."""
    subset: Literal["diamond", "main", "extended"] = "diamond"
    """Which of the hub's sets, of 198, 448 and 546 questions; they are given to whoever has agreed to their terms."""
    chat: bool = True
    """Put the question as a chat message; False: as text."""
    seed: int = 0
    """Shuffles the choices, together with the question's text: other questions in the file change nothing."""
    match: Literal["first", "last"] = "first"
    """Which `Answer: LETTER` of a text counts. `first` is simple-evals' rule; `last` suits models that think aloud."""

    def load(self) -> list[Sample]:
        if self.data is None:
            rows = hub_rows(HubSet(name="Idavidrein/gpqa", config=f"gpqa_{self.subset}", split="train"), Row)
        else:
            rows = read_rows(self.data, Row)
        return [self._sample(row, number) for number, row in enumerate(rows[: self.count], start=1)]

    def _sample(self, row: Row, number: int) -> Sample:
        choices = shuffled(row, self.seed)
        reference = f"{choices.right}) {row.correct}"
        return Sample(id=row.id or str(number), question=row.question, reference=reference, data=choices)

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        choices: Choices = sample.data
        lines = [f"{letter}) {text}" for letter, text in zip(LETTERS, choices.texts, strict=True)]
        text = "\n".join([INSTRUCTION, "", sample.question, "", *lines])
        return ask(text, method, "choice" if method == "hogwild" else self._rule, chat=self.chat)

    @property
    def _rule(self) -> str:
        return rf"regex:(?is)\A.*?{PATTERN}" if self.match == "first" else f"regex:(?i){PATTERN}"

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        choices: Choices = sample.data
        letter = answer.strip() if answer is not None else ""
        if letter not in tuple(LETTERS):  # Of a method that takes no rule.
            letter = extract(self._rule, text if answer is None else answer) or ""
        if letter not in tuple(LETTERS):
            return Verdict(correct=False, extracted=None, reason="no answer")
        if letter == choices.right:
            return Verdict(correct=True, extracted=letter, reason="correct")
        return Verdict(correct=False, extracted=letter, reason=f"not {choices.right}")


def shuffled(row: Row, seed: int) -> Choices:
    """The choices in an order that the seed and the question's text give, in any process."""
    texts = [row.correct, row.wrong_1, row.wrong_2, row.wrong_3]
    order = random.Random(f"gpqa {seed} {row.question}").sample(range(len(LETTERS)), len(LETTERS))
    return Choices(tuple(texts[place] for place in order), LETTERS[order.index(0)])
