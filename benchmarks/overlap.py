"""How much of the work of several writers of one problem is done twice, in a finished `plait eval`.

    python -m plait.benchmarks.overlap FOLDER [--length 8]

For every job whose trace has several texts (workers of Hogwild!, samples of a vote): the share of a text's runs of
`--length` tokens that one of the other texts has too, in the mean over texts, jobs and methods. Conclusions do not
count, nor do texts shorter than that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..evals.store import read_units
from ..runtime.trace.trace import Trace


def texts(trace: Trace) -> Iterator[list[int]]:
    """The sampled tokens of each branch."""
    for name, branch in trace.branches.items():
        if branch.label != "conclusion":
            pieces = (piece for segment in trace.segments_of(name) for piece in segment.pieces)
            yield [token for piece in pieces if piece.kind == "sampled" for token in piece.token_ids]


def overlap(written: Sequence[Sequence[int]], length: int) -> float | None:
    """Mean share of a text's runs that are in another text; None: there are not two texts."""
    runs = [[tuple(text[i : i + length]) for i in range(len(text) - length + 1)] for text in written]
    runs = [some for some in runs if some]
    if len(runs) < 2:
        return None
    shares = []
    for i, own in enumerate(runs):
        others = {run for j, some in enumerate(runs) if j != i for run in some}
        shares.append(sum(run in others for run in own) / len(own))
    return sum(shares) / len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished `plait eval`")
    parser.add_argument("--length", type=int, default=8, help="tokens of a run")
    args = parser.parse_args()
    found: dict[str, list[float]] = {}
    for key, unit in read_units(args.folder)[0].items():
        if unit.rows and (path := unit.rows[0].trace) is not None:
            share = overlap(list(texts(Trace.load(args.folder / path))), args.length)
            if share is not None:
                found.setdefault(key.method, []).append(share)
    lines = [f"| method | jobs | runs of {args.length} tokens that another text has |", "| --- | --- | --- |"]
    for method, shares in found.items():
        lines.append(f"| {method} | {len(shares)} | {100 * sum(shares) / len(shares):.1f} % |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
