"""LongBench's question answering in English (arXiv 2308.14508): prompts, lengths of answers and F1 as published.

Accuracy is the exact match, as for `rag`; the paper's score is the report's F1. Nothing is cut out of the middle of
long documents: a prompt that does not fit is an outcome of the job.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, model_validator

from ....runtime.errors import InvalidInput
from ...benchmark import Benchmark, Sample, Verdict
from ...hub import HubSet, hub_rows
from ...records import Accepted, Filled, Label, Record, Text, read_rows
from .questions import judge

Subset = Literal["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa"]

_SHORT = "as concisely as you can, using a single phrase if possible. Do not provide any explanation."
_ARTICLE = (
    "as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based "
    'on the information in the article, write "unanswerable". If the question is a yes/no question, answer "yes", '
    '"no", or "unanswerable". Do not provide any explanation.'
)
_ONLY = "Only give me the answer and do not output any other words."
_PASSAGES = f"Answer the question based on the given passages. {_ONLY}"


NARRATIVE = (
    "You are given a story, which can be either a novel or a movie script, and a question. Answer the question "
    f"{_SHORT}\n\nStory: ",
    f"Now, answer the question based on the story {_SHORT}\n\nQuestion: {{input}}\n\nAnswer:",
)
ARTICLE = (
    f"You are given a scientific article and a question. Answer the question {_ARTICLE}\n\nArticle: ",
    f" Answer the question based on the above article {_ARTICLE}\n\nQuestion: {{input}}\n\nAnswer:",
)
FIELDS = (
    "Read the following text and answer briefly.\n\n",
    "Now, answer the following question based on the above text, only give me the answer and do not output any other "
    "words.\n\nQuestion: {input}\nAnswer:",
)
PASSAGES = (
    f"{_PASSAGES}\n\nThe following are given passages.\n",
    f"{_PASSAGES}\n\nQuestion: {{input}}\nAnswer:",
)
TRIVIA = (
    f"Answer the question based on the given passage. {_ONLY} The following are some examples.\n\n",
    "{input}",
)
PROMPTS: dict[str, tuple[tuple[str, str], int]] = {
    "narrativeqa": (NARRATIVE, 128),
    "qasper": (ARTICLE, 128),
    "multifieldqa_en": (FIELDS, 64),
    "hotpotqa": (PASSAGES, 32),
    "2wikimqa": (PASSAGES, 32),
    "musique": (PASSAGES, 32),
    "triviaqa": (TRIVIA, 32),
}
"""Set -> what stands before the document and behind it (between them a blank line), and tokens of an answer."""
_PASSAGE = re.compile(r"\n(?=Passage \d+:\n)")


class LongRow(Record):
    """A question over a document."""

    id: Label = Field(default="", min_length=1, validation_alias=AliasChoices("id", "_id"))
    question: Annotated[Text, Filled] = Field(validation_alias="input")
    context: Text = Field(min_length=1)
    answers: Accepted
    dataset: Subset

    @model_validator(mode="before")
    @classmethod
    def _without_suffix(cls, data: Any) -> Any:
        """Sets of even lengths (LongBench-E) are called `hotpotqa_e`."""
        if isinstance(data, dict) and isinstance(data.get("dataset"), str):
            return {**data, "dataset": data["dataset"].removesuffix("_e")}
        return data


class LongBench(Benchmark):
    """Questions over long documents; `data` is in LongBench's form (`input`, `context`, `answers`, `dataset`)."""

    name: Literal["longbench"] = "longbench"
    """What configurations call it."""
    subset: Subset | None = None
    """One of the sets of question answering. Without `data` it names what is read of the hub; with it, those problems
    of the file that are taken, None: all."""
    chat: bool = True
    """Put the question through the model's chat template; `triviaqa`, which is examples, never is."""
    split_passages: bool = False
    """Make each passage of a document (`Passage 1:` ...) a context of its own, for methods that encode contexts in
    parallel; else the document is one."""

    def load(self) -> list[Sample]:
        if self.data is not None:
            rows = [row for row in read_rows(self.data, LongRow) if self.subset in (None, row.dataset)]
        elif self.subset is None:
            raise InvalidInput(f"longbench needs --set subset=NAME, one of {', '.join(PROMPTS)}, or --data FILE")
        else:
            rows = hub_rows(HubSet(name="THUDM/LongBench", files=(f"data.zip::data/{self.subset}.jsonl",)), LongRow)
        return [
            Sample(id=row.id or str(number), question=row.question, reference=" / ".join(row.answers), data=row)
            for number, row in enumerate(rows[: self.count], start=1)
        ]

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        row: LongRow = sample.data
        (before, behind), max_tokens = PROMPTS[row.dataset]
        text = behind.replace("{input}", row.question)
        chat = self.chat and row.dataset != "triviaqa"
        passages = _PASSAGE.split(row.context) if self.split_passages else [row.context]
        return {
            "prompt": [{"role": "user", "content": text}] if chat else text,
            "instruction": before,
            "contexts": passages,
            "max_tokens": max_tokens,
            "logprobs": False,
        }

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        row: LongRow = sample.data
        given = answer if answer is not None else text
        if row.dataset == "triviaqa":
            given = given.lstrip("\n").partition("\n")[0]  # It goes on with questions of its own.
        return judge(given, row.answers)
