"""Word problems as a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

from pydantic import Field

from ..benchmark import Row
from ..few_shot import MARK, FewShot
from .problems import MOST, Problem, Split, problems


class WordProblems(FewShot):
    """Grade-school word problems of two to six steps whose answers are whole numbers: our own, drawn by seed, some with
    numbers that do not matter. Worked examples (`shots`) are training problems with their steps."""

    name: Literal["word_problems"] = "word_problems"
    """What configurations call it."""
    count: int | None = Field(default=200, ge=1, le=MOST)
    """Problems at most, from the first."""
    split: Split = "validation"
    """`train` never holds a problem of `validation`, under other names either."""
    seed: int = 0
    """What our own problems are drawn with."""

    def source(self) -> Sequence[Row]:
        return [
            Row(id=f"{self.split}-{self.seed}-{number}", problem=problem.question, answer=str(problem.answer))
            for number, problem in enumerate(self._drawn())
        ]

    def _drawn(self) -> Iterator[Problem]:
        return islice(problems(self.split, self.seed), self.count)

    def examples(self) -> Iterator[tuple[str, str]]:
        # Never a problem of `validation`. Of training problems another seed gives some again, under other names.
        asked = {problem.key for problem in self._drawn()} if self.split == "train" and self.data is None else set()
        for problem in problems("train", -1 - self.seed):
            if problem.key not in asked:
                yield problem.question, "\n".join([*problem.steps, f"{MARK} {problem.answer}"])
