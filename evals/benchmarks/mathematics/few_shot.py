"""In-context learning: worked examples stand in front of the problem."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from pydantic import Field, PrivateAttr

from ....runtime.errors import InvalidInput
from ...benchmark import Sample, Verdict
from .benchmark import Mathematics

MARK = "####"
"""What GSM8K's solutions put in front of their answers."""
MARKED = rf"{MARK} \$?(-?[0-9.,]+)"
ANSWER = rf"regex:(?s)\A.*?{MARKED}"
"""The first marked number: models go on with problems of their own."""
STOP = ("Question:",)


class FewShot(Mathematics):
    """Problems that come with others, solved."""

    shots: int = Field(default=0, ge=0)
    """Worked examples in front of each problem, as GSM8K's problems are commonly put to models that are not chatty:
    `Question: ... Answer: ...`, the answer behind `####`. They are the job's contexts, so a method's `encoding` says
    how they are read: `sequential`, or `parallel` (APE). None of them is among the problems. 0: the problem alone, with
    `instruction`."""
    _shown: list[str] | None = PrivateAttr(default=None)

    @abstractmethod
    def examples(self) -> Iterable[tuple[str, str]]:
        """Problems with their solutions, which end with `#### ANSWER`; those that are asked are left out. Raises
        `InvalidInput`."""

    def load(self) -> list[Sample]:
        samples = super().load()
        self._contexts()  # What is wrong with them is said before any work.
        return samples

    def inputs(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return {"examples": self._contexts()} if self.shots else {}

    def _contexts(self) -> list[str]:
        if not self.shots:
            return []
        if self._shown is None:
            asked = {_words(row.problem) for row in self.rows()[: self.count]}
            shown = list(islice((one for one in self.examples() if _words(one[0]) not in asked), self.shots))
            if len(shown) < self.shots:
                raise InvalidInput(
                    f"shots: there are {len(shown)} examples, not {self.shots}, that are none of the problems: "
                    "ask fewer of them (`count`), or take examples from elsewhere (`train` of gsm8k)"
                )
            self._shown = [f"Question: {problem}\nAnswer: {solution}" for problem, solution in shown]
        return self._shown

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        if not self.shots:
            return super().prompt(sample, method)
        text = f"Question: {sample.question}\nAnswer:"
        fields: dict[str, Any] = {
            "prompt": [{"role": "user", "content": text}] if self.chat else text,
            "contexts": self._contexts(),
            "stop": list(STOP),
        }
        if method == "tree_search":
            fields |= {"question": sample.question, "finished": [f"regex:{MARKED}"]}
        return fields if method == "apr" else {**fields, "answer": ANSWER}

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        if not self.shots or answer is None:
            return super().grade(sample, answer, text)
        return self.grader.grade(sample.data, answer, text)


def _words(problem: str) -> str:
    """What tells problems apart: spaces and lines do not."""
    return " ".join(problem.split())
