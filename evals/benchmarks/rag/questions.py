"""Questions over several documents: the rows, how one becomes a prompt, and how an answer is graded.

A row holds a question, its documents and the accepted answers: `{"id", "question", "contexts", "answers"}`. Exact match
and F1 are SQuAD's (arXiv 1606.05250, section 6.1), the best over the accepted answers; so is recall.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ....runtime.methods.sequential import Sequential
from ...benchmark import Verdict
from ...extras import Extra
from ...records import Accepted, Filled, Record, Text, read_rows

INSTRUCTION = "Answer the question from the documents below. Give only the answer, in as few words as possible.\n\n"
TEMPLATE = "Question: {question}\nAnswer:"


class Line(Record):
    """A line of a file of questions."""

    question: Annotated[Text, Filled]
    contexts: list[Text]
    answers: Accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question."""

    id: str
    question: str
    contexts: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a row becomes a prompt."""

    instruction: str = INSTRUCTION
    template: str = TEMPLATE
    chat: bool = False
    """Through the model's chat template."""
    max_tokens: int = 32

    def method(self, row: Row, **fields: Any) -> Sequential:
        """The job for one row; `fields` are the method's own."""
        text = self.template.replace("{question}", row.question)
        return Sequential(
            prompt=[{"role": "user", "content": text}] if self.chat else text,
            contexts=row.contexts,
            instruction=self.instruction,
            max_tokens=self.max_tokens,
            stop=("\n",),
            logprobs=False,
            **fields,
        )


def load(path: Path) -> list[Row]:
    """Rows of a JSON Lines file. Raises `InvalidInput` naming the line and field that is wrong."""
    return [
        Row(id=row.id, question=row.question, contexts=tuple(row.contexts), answers=tuple(row.answers))
        for row in read_rows(path, Line)
    ]


def normalise(text: str) -> str:
    """SQuAD's: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Silence is none, even of an answer of which nothing is left (`The The`), and no answer is silence."""
    return any(_are_said(answer, right) and normalise(answer) == normalise(right) for right in accepted)


def f1(answer: str, accepted: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of the answer's words."""
    return max(_overlap(answer, right)[1] for right in accepted)


def recall(answer: str, accepted: Sequence[str]) -> float:
    """Share of the right answer's words that the answer holds: what it says besides costs nothing."""
    return max(_overlap(answer, right)[0] for right in accepted)


def _are_said(*texts: str) -> bool:
    return all(text.strip() for text in texts)


def _overlap(answer: str, right: str) -> tuple[float, float]:
    """Recall and F1."""
    words, wanted = normalise(answer).split(), normalise(right).split()
    if not words or not wanted:
        same = float(words == wanted and _are_said(answer, right))
        return same, same
    common = sum((Counter(words) & Counter(wanted)).values())
    return common / len(wanted), 2 * common / (len(words) + len(wanted))


def judge(answer: str, accepted: Sequence[str]) -> Verdict:
    """Right is an exact match; recall and F1 are figures of every verdict."""
    answer = answer.strip()
    overlap = f1(answer, accepted)
    extra = Extra(numbers={"F1": overlap, "recall": recall(answer, accepted)})
    if exact_match(answer, accepted):
        return Verdict(correct=True, extracted=normalise(answer), reason="correct", extra=extra)
    reason = f"no exact match, F1 {overlap:.2f}" if answer else "no answer"
    return Verdict(correct=False, extracted=normalise(answer) or None, reason=reason, extra=extra)
