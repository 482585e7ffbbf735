"""Question answering over several documents: sequential against parallel encoding of the documents.

    python -m plait.evals.benchmarks.rag.questions --model FOLDER --data rag_qa.jsonl --count 50

A row holds a question, its documents and the accepted answers: `{"id", "question", "contexts", "answers"}`. Exact match
and F1 are SQuAD's (arXiv 1606.05250, section 6.1), the best over the accepted answers. Three encodings are compared:
`sequential`, `parallel` (APE with the model's temperature and scale) and `plain` (parallel, temperature = scale = 1).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ....runtime.cli.live import table
from ....runtime.errors import InvalidInput
from ....runtime.methods.sequential import Sequential
from ....runtime.runtime import Runtime
from ...stats import wilson

INSTRUCTION = "Answer the question from the documents below. Give only the answer, in as few words as possible.\n\n"
TEMPLATE = "Question: {question}\nAnswer:"

VARIANTS: dict[str, dict[str, Any]] = {
    "sequential": {"encoding": "sequential"},
    "parallel": {"encoding": "parallel"},
    "plain": {"encoding": "parallel", "context_temperature": 1.0, "context_scale": 1.0},
}
"""Name -> fields of the method."""


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
        """The job for one row; `fields` as in `VARIANTS`."""
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
    """Rows of a JSON Lines file. Raises `InvalidInput` naming the line that is wrong."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            texts = tuple(data["contexts"]), tuple(data["answers"])
            if not all(isinstance(text, str) for text in (data["question"], *texts[0], *texts[1])) or not texts[1]:
                raise ValueError("question, contexts and answers are texts, and there is an answer")
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"{path}:{number}: not a question with contexts and answers: {error!r}") from None
        id = str(data.get("id", number))
        rows.append(Row(id=id, question=data["question"], contexts=texts[0], answers=texts[1]))
    return rows


def normalise(text: str) -> str:
    """SQuAD's: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    return any(normalise(answer) == normalise(right) for right in accepted)


def f1(answer: str, accepted: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of the answer's words."""
    return max(_f1(normalise(answer).split(), normalise(right).split()) for right in accepted)


def _f1(words: list[str], right: list[str]) -> float:
    if not words or not right:
        return float(words == right)
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A row's answer under one encoding."""

    id: str
    answer: str
    exact: bool
    f1: float


async def answer(runtime: Runtime, row: Row, style: Style, **fields: Any) -> Graded:
    """Run one row."""
    result = await (await runtime.submit(style.method(row, **fields)))
    text = result.text.strip()
    return Graded(id=row.id, answer=text, exact=exact_match(text, row.answers), f1=f1(text, row.answers))


async def compare(runtime: Runtime, rows: Sequence[Row], style: Style) -> dict[str, list[Graded]]:
    """All rows under every variant; a row's variants one after the other, so that documents are encoded once."""
    graded: dict[str, list[Graded]] = {name: [] for name in VARIANTS}
    for row in track(rows, description="rag", transient=True, console=Console(stderr=True)):
        for name, fields in VARIANTS.items():
            graded[name].append(await answer(runtime, row, style, **fields))
    return graded


def summary(graded: dict[str, list[Graded]]) -> list[dict[str, object]]:
    """A line per variant; `retained` is F1 against the first variant's."""
    lines: list[dict[str, object]] = []
    base = sum(g.f1 for g in next(iter(graded.values())))
    for name, rows in graded.items():
        exact, total = sum(g.exact for g in rows), sum(g.f1 for g in rows)
        low, high = wilson(exact, len(rows))
        lines.append(
            {
                "encoding": name,
                "rows": len(rows),
                "exact %": 100 * exact / len(rows),
                "95 %": f"{100 * low:.1f}-{100 * high:.1f}",
                "F1 %": 100 * total / len(rows),
                "retained %": 100 * total / base if base else 0.0,
            }
        )
    return lines


async def _main(options: argparse.Namespace) -> None:
    rows = load(options.data)[: options.count]
    style = Style(chat=options.chat, max_tokens=options.max_tokens)
    async with Runtime(options.model) as runtime:
        graded = await compare(runtime, rows, style)
    Console().print(table(f"{options.data.name} on {options.model}", summary(graded)))
    if options.out:
        lines = [{"encoding": name, "id": g.id, "answer": g.answer} for name, all in graded.items() for g in all]
        options.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a shipped model or a folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, help="rows at most")
    parser.add_argument("--chat", action="store_true", help="use the model's chat template")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, help="JSON Lines file for the answers")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
