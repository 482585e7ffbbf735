"""Word problems as a benchmark."""

from __future__ import annotations

from itertools import islice
from typing import Any, Literal

from pydantic import Field

from ..benchmark import Mathematics
from .problems import MOST, Split, problems


class WordProblems(Mathematics):
    """Grade-school word problems of two to six steps whose answers are whole numbers: our own, drawn by seed, some with
    numbers that do not matter."""

    name: Literal["word_problems"] = "word_problems"
    """What configurations call it."""
    count: int | None = Field(default=200, ge=1, le=MOST)
    """Problems at most, from the first."""
    split: Split = "validation"
    """`train` never holds a problem of `validation`, under other names either."""
    seed: int = 0
    """What our own problems are drawn with."""

    def source(self) -> list[dict[str, Any]]:
        drawn = islice(problems(self.split, self.seed), self.count)
        return [
            {"id": f"{self.split}-{self.seed}-{number}", "problem": problem.question, "answer": str(problem.answer)}
            for number, problem in enumerate(drawn)
        ]
