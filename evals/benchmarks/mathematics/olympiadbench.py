"""OlympiadBench (arXiv 2402.14008): open-ended problems of olympiads in text and English, put and judged as published.

The prompt names the kind of the answer. Numbers are right within the problem's own tolerance, also a hundred times
too small or too large (percent); several are compared in any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ....runtime.equality.numbers import MAX_CHARS, read
from ...benchmark import Sample, Verdict, ask
from ...hub import HubSet, hub_rows
from ...records import Filled, Label, Text
from .benchmark import FromHub, Row
from .grading import find_answer

KINDS = {
    "Numerical": "a numerical value",
    "Expression": "an expression",
    "Equation": "an equation",
    "Interval": "an interval",
}
CLOSING = "So the final answer is "
TOLERANCE = Fraction(1, 10**8)
SLACK = Fraction(101, 100)
"""Times the tolerance, for the rounding of what was rounded."""
SCALES = (Fraction(1), Fraction(1, 100), Fraction(100))
_DECIMAL = re.compile(r"[+-]?(?:\d{1,20}\.?\d{0,20}|\.\d{1,20})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_POWER = re.compile(r"([+-]?[\d.]+)(?:\\times|\\cdot|\*)10\^\{?([+-]?\d{1,3})\}?\Z")

_RIGHT = Verdict(correct=True, extracted=None, reason="correct")


def _tolerances(error: str | None) -> list[Fraction]:
    tolerances = []
    for part in (error or "").split(","):
        text = part.strip()
        if text and not _DECIMAL.fullmatch(text):  # Longer ones would be computed for ever.
            raise ValueError(f"{part!r} is no number")
        tolerances.append(Fraction(text) if text else TOLERANCE)
        if tolerances[-1] < 0:
            raise ValueError(f"{part!r} is below 0")
    return tolerances


def _with_tolerances(error: str | None) -> str | None:
    _tolerances(error)
    return error


def _bare(answer: str) -> str:
    """Without the marks of TeX's formulas."""
    return answer.replace("$", "").strip()


def _filled(answer: str) -> str:
    if not _bare(answer):
        raise ValueError("there is nothing in it")
    return answer


class OlympiadRow(Row):
    """An open-ended problem. Theorems to be proved have no `final_answer`, and cannot be judged."""

    id: Label = Field(default="", min_length=1)
    problem: Annotated[Text, Filled] = Field(validation_alias="question")
    answer: list[Annotated[Text, AfterValidator(_filled)]] = Field(  # type: ignore[assignment]
        validation_alias="final_answer", min_length=1
    )
    context: Text | None = None
    """What several problems of physics have in common."""
    is_multiple_answer: bool = False
    unit: Text | None = None
    answer_type: Text = "Numerical"
    error: Annotated[Text | None, AfterValidator(_with_tolerances)] = None
    """Tolerance of a number, or of several, with commas; empty: 1e-8."""
    subject: Literal["Math", "Physics"] = "Math"
    language: Literal["English"] = "English"

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        values = numbers(self.gold, self)
        if values is not None and len(self.tolerances) not in (1, len(values)):
            raise ValueError(f"error: there are {len(self.tolerances)} tolerances of {len(values)} numbers")
        return self

    @property
    def tolerances(self) -> list[Fraction]:
        """One for all numbers, or one for each."""
        return _tolerances(self.error)

    @property
    def gold(self) -> str:
        return _bare(self.answer[0])


class OlympiadBench(FromHub):
    """Open-ended problems of OlympiadBench without pictures, in English; `data` is in its form."""

    name: Literal["olympiadbench"] = "olympiadbench"
    """What configurations call it."""
    subject: Literal["maths", "physics"] = "maths"
    """Which of the hub's problems: 674 of mathematics, or 236 of physics."""
    row = OlympiadRow

    def source(self) -> Sequence[Row]:
        config = f"OE_TO_{self.subject}_en_COMP"
        return hub_rows(HubSet(name="Hothan/OlympiadBench", config=config, split="train"), OlympiadRow)

    def keep(self, row: Row) -> Any:
        return row

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        row: OlympiadRow = sample.data
        parts = [instruction(row), row.context if row.subject == "Physics" else None, row.problem]
        return ask("\n".join(filter(None, parts)), method, "boxed", chat=self.chat)

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        verdict = self._judged(sample.data, answer, text)
        # However it was found: right answers look equal.
        return replace(verdict, extracted=_shown_right(sample.data)) if verdict.correct else verdict

    def _judged(self, row: OlympiadRow, answer: str | None, text: str) -> Verdict:
        # The last line that closes a solution counts where there is one; several boxes on it are one answer.
        text = text[-100 * MAX_CHARS :]
        closing = text.rpartition(CLOSING)[2].partition("\n")[0] if CLOSING in text else ""
        given = find_answer(closing) or find_answer(text) or (None if "\\boxed" in text else answer)
        allowance = self.grader.allowance()
        if given is None:
            return self.grader.grade(row.gold, None, text, allowance)
        right, found = numbers(row.gold, row), numbers(given, row)
        if right is not None and found is not None:
            if within(found, right, row.tolerances):
                return _RIGHT
            return Verdict(correct=False, extracted=_shown(found), reason=f"not equal to {row.gold[:60]}")
        # Roots and the like for decimals. Each takes time: of a longer or shorter list none is looked at.
        value = partial(self.grader.value, allowance=allowance)
        right = numbers(row.gold, row, value)
        is_as_long = not row.is_multiple_answer or given.count(",") == row.gold.count(",")
        found = numbers(given, row, value) if right is not None and is_as_long else None
        if right is not None and found is not None and within(found, right, row.tolerances):
            return _RIGHT
        return self.grader.grade(row.gold, given, text, allowance)


def instruction(row: OlympiadRow) -> str:
    """What stands in front of a problem (the authors' code, `evaluator.py`)."""
    box = "multiple answers connected with commas" if row.is_multiple_answer else "answer"
    unit, note = "", ""
    if row.unit:
        unit, note = "(unit)", ", note that the unit of the answer should not be included in \\boxed{}"
    return (
        f"The following is an open-ended problem from an International {row.subject} competition. {_kind(row)}Please "
        "calculate the answer according to the given requirements and the information provided. Please use LaTeX "
        "format to represent the variables and formulas used in the solution process and results. Please end your "
        f'solution with "{CLOSING}\\boxed{{{box}}}{unit}." and give the result explicitly{note}.'
    )


def _kind(row: OlympiadRow) -> str:
    kinds = [text for part in row.answer_type.split(",") for kind, text in KINDS.items() if kind in part]
    if not kinds or "Tuple" in row.answer_type or "Need_human_evaluate" in row.answer_type:
        return ""  # "Tuple" stands for too many things.
    if not row.is_multiple_answer:
        return f"The answer of The problem should be {kinds[0]}. "
    if len(set(kinds)) == 1:
        return f"The problem has multiple answers, each of them should be {kinds[0]}. "
    return f"The problem has multiple answers, with the answers in order being {', '.join(kinds)}. "


def numbers(
    text: str, row: OlympiadRow, term: Callable[[str], Fraction | None] = lambda text: None
) -> list[Fraction] | None:
    """The values of an answer, or of several with commas between them; None: not all are numbers. `term` knows those of
    terms."""
    values = []
    for part in text.split(",") if row.is_multiple_answer else [text]:
        reading = read(part[:MAX_CHARS])
        value = reading.value
        if value is None and (match := _POWER.match(reading.body)):
            base = read(match[1]).value
            value = None if base is None else base * Fraction(10) ** int(match[2])
        if value is None:
            value = term(part)
        if value is None:
            return None
        values.append(value)
    return values


def within(found: list[Fraction], right: list[Fraction], tolerances: list[Fraction]) -> bool:
    """Does each value stand for another one of the right ones? The order does not count."""
    if len(found) != len(right):
        return False
    allowed = [SLACK * tolerances[number if len(tolerances) > 1 else 0] for number in range(len(right))]
    near = [
        [place for place, one in enumerate(found) if any(abs(one - value * k) <= most for k in SCALES)]
        for value, most in zip(right, allowed, strict=True)
    ]
    holders: dict[int, int] = {}

    def seat(number: int, tried: set[int]) -> bool:
        """Give a right value a place of its own, if need be one whose holder finds another."""
        for place in near[number]:
            if place not in tried:
                tried.add(place)
                if place not in holders or seat(holders[place], tried):
                    holders[place] = number
                    return True
        return False

    return all(seat(number, set()) for number in range(len(right)))


def _shown_right(row: OlympiadRow) -> str:
    values = numbers(row.gold, row)
    return row.gold if values is None else _shown(values)


def _shown(values: list[Fraction]) -> str:
    return ", ".join(map(str, sorted(values)))
