"""GSM8K: grade-school word problems (arXiv 2110.14168)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from ...hub import HubSet, hub_rows
from ...records import Text, read_rows
from .benchmark import FromHub, Row
from .few_shot import MARK, FewShot


def _marked(solution: str) -> str:
    if not solution.rpartition(MARK)[2].strip() or MARK not in solution:
        raise ValueError(f"a solution ends with `{MARK} ANSWER`")
    return solution


class Gsm8kRow(Row):
    """A problem with its solution."""

    answer: Annotated[Text, AfterValidator(_marked)]

    @property
    def gold(self) -> str:
        return self.answer.rpartition(MARK)[2].strip().replace(",", "")


class Gsm8k(FewShot, FromHub):
    """1,319 problems of GSM8K's test split; `data` has its fields `question` and `answer`."""

    name: Literal["gsm8k"] = "gsm8k"
    """What configurations call it."""
    train: Path | None = None
    """File of the worked examples for `shots`, in the same form; None: the hub's training split."""
    row = Gsm8kRow
    hub = HubSet(name="openai/gsm8k", config="main")

    def examples(self) -> Sequence[tuple[str, str]]:
        source = HubSet(name=self.hub.name, config=self.hub.config, split="train")
        rows = hub_rows(source, Gsm8kRow) if self.train is None else read_rows(self.train, Gsm8kRow)
        return [(row.problem, row.answer) for row in rows]
