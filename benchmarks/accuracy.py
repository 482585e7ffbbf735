"""Accuracy of a finished `plait eval` against the same model through transformers' `generate`, graded by math-verify.

    python -m plait.benchmarks.accuracy FOLDER --rows FILE.jsonl [--model MODEL_FOLDER] [--limit 50] [--samples 8]

The problems, prompts, methods (Sequential at temperature 0, SelfConsistency), limits and sampling are those of the
folder. On the side of transformers nothing is plait's: its own tokenizer and chat template, `generate` on batches with
left padding, verdicts and votes by math-verify's `parse` and `verify`. Texts of padded batches differ from those of
unpadded ones in bfloat16, so what is compared is accuracy. plait's own texts, as many as of transformers, are also
graded and voted on here, which tells a difference in grading from one in texts. Where these are fewer (`--samples`)
than plait's evaluation voted on, p compares votes of as many texts on both sides.

Rows are appended as they are done; the same command goes on where it stopped, and only grades when all are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from ..evals.benchmark import Sample
from ..evals.cli import read_folder
from ..evals.config import EvalConfig
from ..evals.rows import Key
from ..evals.stats import mcnemar, wilson
from ..evals.store import read_units
from ..runtime.trace.trace import Trace
from .generated import OFF, Part, Row, Theirs


@dataclass(frozen=True, slots=True)
class Ours:
    """What plait did with one problem."""

    correct: bool
    texts: list[Row]
    sampling: dict[str, float]


class Folder:
    """A finished evaluation."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder = folder
        self.config = EvalConfig(**read_folder(folder))
        self.samples = self.config.benchmark.load()[:limit]
        self.units, _ = read_units(folder)

    def parts(self, samples: int | None, max_tokens: int | None) -> list[Part]:
        """What can be compared of its methods."""
        found = []
        for method in self.config.methods:
            fields = method.fields
            if fields["method"] in ("sequential", "self_consistency") and method.attempts == 1:
                n = fields.get("n", 8) if fields["method"] == "self_consistency" else 1
                limit = max_tokens or fields["max_tokens"]
                shape = {name: fields[name] for name in ("temperature", *OFF) if name in fields}
                found.append(Part(method.name, min(n, samples or n), limit, shape))
        return found

    def ours(self, part: Part, sample: Sample) -> Ours | None:
        """None: there is no verdict."""
        unit = self.units.get(Key(method=part.label, budget=0, sample=sample.id, attempt=0))
        if unit is None or unit.has_failed:
            return None
        row = unit.rows[0]
        assert row.trace is not None
        trace = Trace.load(self.folder / row.trace)
        prompt = next(piece.token_ids for piece in trace.segments[0].pieces if piece.kind == "prompt")
        texts: list[Row] = []
        for name, branch in sorted(trace.branches.items()):
            pieces = [piece for s in trace.segments_of(name) for piece in s.pieces if piece.kind == "sampled"]
            if pieces:
                ids = [token for piece in pieces for token in piece.token_ids]
                text = "".join(piece.text for piece in pieces)
                texts.append(Row(part.label, sample.id, len(texts), prompt, ids, text, branch.finish == "eos"))
        return Ours(row.correct, texts, trace.header["settings"]["sampling"])


class Verdicts:
    """By math-verify alone."""

    def __init__(self, gold: str) -> None:
        self.gold = parse(f"${gold}$")

    def single(self, text: str) -> bool:
        return bool(verify(self.gold, parse(text)))

    def vote(self, texts: Sequence[str]) -> bool:
        """Is the answer given most often right? Ties: the first given; texts without one do not vote."""
        groups: list[list[Any]] = []
        for answer in filter(None, map(parse, texts)):
            group = next((g for g in groups if verify(g[0], answer) or verify(answer, g[0])), None)
            if group is None:
                groups.append([answer])
            else:
                group.append(answer)
        return bool(groups) and bool(verify(self.gold, max(groups, key=len)[0]))

    def of(self, texts: Sequence[Row]) -> bool:
        return self.single(texts[0].text) if len(texts) == 1 else self.vote([text.text for text in texts])


def generate(folder: Folder, parts: Sequence[Part], args: argparse.Namespace) -> dict[tuple[str, str, int], Row]:
    """All rows, those of the file and new ones."""
    path: Path = args.rows
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = {(row.label, row.problem, row.number): row for row in (Row(**json.loads(line)) for line in lines)}
    theirs: Theirs | None = None
    for part in parts:
        ours = {sample.id: found for sample in folder.samples if (found := folder.ours(part, sample))}
        # Texts of about the same length end together: plait's tell.
        todo = [
            (sample.id, number, folder.config.benchmark.prompt(sample, "sequential")["prompt"])
            for sample in sorted(
                (sample for sample in folder.samples if sample.id in ours),
                key=lambda sample: sum(len(text.ids) for text in ours[sample.id].texts),
            )
            for number in range(part.samples)
            if (part.label, sample.id, number) not in rows
        ]
        if not todo:
            continue
        theirs = theirs or Theirs(args.model or folder.config.model, args.batch, args.seed)
        sampling = ours[todo[0][0]].sampling
        if other := {name: value for name, value in theirs.sampling(part).items() if sampling[name] != value}:
            raise SystemExit(f"{part.label}: plait sampled with {sampling}, this would sample with {other}")
        start, done = time.monotonic(), 0
        with path.open("a", encoding="utf-8") as file:
            for batch in theirs.run(part, todo):
                file.writelines(json.dumps(asdict(row)) + "\n" for row in batch)
                file.flush()
                rows.update({(row.label, row.problem, row.number): row for row in batch})
                done += len(batch)
                seconds = time.monotonic() - start
                print(f"{part.label}: {done}/{len(todo)} texts, {seconds:,.0f} s", file=sys.stderr, flush=True)
    return rows


def compare(folder: Folder, part: Part, rows: dict[tuple[str, str, int], Row]) -> list[str]:
    """The lines of one method in the table. Prints what else is to be told."""
    # Per problem: the verdicts, and both sides' texts.
    plait: list[bool] = []
    again: list[bool] = []
    theirs: list[bool] = []
    texts: dict[str, list[Row]] = {"plait": [], "transformers": []}
    num_right = dict.fromkeys(texts, 0)
    num_voted = 1
    same_prompts = same_texts = 0
    notes = []
    for sample in folder.samples:
        ours = folder.ours(part, sample)
        given = [row for n in range(part.samples) if (row := rows.get((part.label, sample.id, n)))]
        if ours is None or len(given) < part.samples:
            continue
        verdicts = Verdicts(str(sample.reference))
        plait.append(ours.correct)
        again.append(verdicts.of(ours.texts[: part.samples]))
        theirs.append(verdicts.of(given))
        num_voted = max(num_voted, len(ours.texts))
        for side, some in (("plait", ours.texts[: part.samples]), ("transformers", given)):
            texts[side] += some
            num_right[side] += sum(verdicts.single(text.text) for text in some)
        same_prompts += ours.texts[0].prompt == given[0].prompt
        same_texts += ours.texts[0].ids == given[0].ids
        if len({plait[-1], again[-1], theirs[-1]}) > 1:
            said = ["right" if right else "wrong" for right in (plait[-1], again[-1], theirs[-1])]
            notes.append(f"  {sample.id}: plait {said[0]}, its texts by math-verify {said[1]}, transformers {said[2]}")
    if not plait:
        return []
    lines = []
    first = plait if num_voted == part.samples else again
    for name, side, right in (
        ("plait", "plait", plait),
        ("plait's texts, math-verify", "plait", again),
        ("transformers", "transformers", theirs),
    ):
        low, high = wilson(sum(right), len(right))
        cells = (
            part.label,
            name,
            str(num_voted if right is plait else part.samples),
            f"{sum(right)}/{len(right)}",
            f"{100 * sum(right) / len(right):.1f} %",
            f"{100 * low:.1f} - {100 * high:.1f} %",
            "" if right is plait else f"{num_right[side]}/{len(texts[side])}",
            f"{sum(len(text.ids) for text in texts[side]) / len(texts[side]):,.0f}",
            f"{sum(not text.is_whole for text in texts[side])}/{len(texts[side])}",
            "" if right is first or right is plait else f"{mcnemar(first, right):.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    print(f"{part.label}: prompts equal in {same_prompts} of {len(plait)} problems")
    if part.is_greedy:
        print(f"{part.label}: texts equal in {same_texts} of {len(plait)} problems")
    print("\n".join([f"{part.label}: verdicts that differ: {len(notes)}", *notes]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished `plait eval`")
    parser.add_argument("--rows", type=Path, required=True, help="JSON Lines file of transformers' texts")
    parser.add_argument("--model", help="as for from_pretrained; else the evaluation's")
    parser.add_argument("--limit", type=int, help="problems at most")
    parser.add_argument("--samples", type=int, help="texts per problem and vote at most")
    parser.add_argument("--max-tokens", type=int, help="of a text; else the evaluation's")
    parser.add_argument("--batch", type=int, default=16, help="texts at a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Folder(args.folder, args.limit)
    parts = folder.parts(args.samples, args.max_tokens)
    rows = generate(folder, parts, args)
    lines = [line for part in parts for line in compare(folder, part, rows)]
    columns = (
        *("method", "side", "texts a problem", "right", "share", "95 % interval"),
        *("right texts", "tokens per text", "cut off", "McNemar p"),
    )
    print(f"\n{folder.config.benchmark.name}, {len(folder.samples)} problems\n")
    print("\n".join([f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", *lines]))


if __name__ == "__main__":
    main()
