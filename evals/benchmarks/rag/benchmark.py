"""`rag` as a benchmark: questions over several documents; the methods' own fields say how these are encoded."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ....runtime.errors import InvalidInput
from ...benchmark import Benchmark, Sample, Verdict
from .questions import Row, Style, judge, load

STRUCTURED = ("apr", "hogwild", "multiverse")
"""Methods whose texts have more than one line by nature: the first one is not their answer."""


class Rag(Benchmark):
    """Right is an exact match in SQuAD's sense; the report has the words' F1 and recall beside it."""

    name: Literal["rag"] = "rag"
    """What configurations call it."""
    chat: bool = True
    """Put instruction, documents and question as a chat message; False: as text, for models without a chat
    template."""
    max_tokens: int = Field(default=32, ge=1)
    """Tokens of an answer at most."""

    def load(self) -> list[Sample]:
        if self.data is None:
            raise InvalidInput("the benchmark rag needs --data FILE: rows with question, contexts and answers")
        rows = load(self.data)[: self.count]
        return [Sample(id=r.id, question=r.question, reference=" / ".join(r.answers), data=r) for r in rows]

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        job = Style(chat=self.chat, max_tokens=self.max_tokens).method(sample.data)
        fields = job.model_fields_set - ({"stop"} if method in STRUCTURED else set())
        return job.model_dump(mode="json", include=fields)

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        row: Row = sample.data
        return judge(answer if answer is not None else text, row.answers)
