"""Countdown documents as a data set for `plait train sft`.

python -m plait.rl.countdown.samples data/countdown --tokens 6000000

Kinds of documents have the shares of `mix.Mix`; each document is a sample.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...evals.benchmarks.countdown.problems import Key
from ...runtime.cli.exit_status import exit_status
from ...runtime.errors import InvalidInput
from ..samples import Sample
from ..tree_mask import TreeMask
from . import traces
from .batch import MULTIVERSE
from .mix import Documents, Mix
from .packed import draw_kind, mean_sizes
from .tokenizer import BOS, IDS
from .train import add_sources, read_sources


def sample(document: traces.Document, kind: str, ids: Mapping[str, int] = IDS) -> Sample:
    """The document, BOS in front; `ids`: of the words. A word that is predicted in another's place stands beside it,
    and is seen by none."""
    words, count = document.words, len(document.words)
    positions, paths = traces.layout(document) if kind in MULTIVERSE else (list(range(count)), [0] * count)
    # The text before the paths, each path, and each conclusion.
    segment = np.cumsum([0, 0, *(a != b for a, b in itertools.pairwise(paths))])
    instead = [i for i, label in enumerate(document.labels) if label not in (None, words[i])]
    columns = int(segment[-1]) + 1
    sizes = np.bincount(segment)
    begins = np.cumsum([0, *sizes[:-1]])
    of = np.array([0, *paths])[begins]
    reach = np.tril(np.where(traces.sees(of[:, None], of), sizes, 0), -1)
    offset = np.arange(count + 1) - begins[segment]
    extra = len(instead)
    whole = np.zeros((columns + extra, columns + extra), dtype=np.int32)
    whole[:columns, :columns] = reach
    for number, place in enumerate(instead):
        own = segment[place]
        whole[columns + number, :columns] = reach[own]
        whole[columns + number, own] = offset[place] + 1
    beside = np.arange(columns, columns + extra)
    segments = np.concatenate([segment, beside]).astype(np.int32)
    is_sampled = [label == word for label, word in zip(document.labels, words, strict=True)]
    length = count + 1 + extra
    mask = TreeMask(
        token_ids=[ids[BOS], *(ids[word] for word in words), *(ids[document.labels[i] or ""] for i in instead)],
        positions=np.array([0, *(p + 1 for p in positions), *(positions[i] + 1 for i in instead)], dtype=np.int32),
        segment=segments,
        offset=np.concatenate([offset, np.zeros(extra)]).astype(np.int32),
        row=segments,
        reach=whole,
        shift=np.zeros_like(whole),
        is_sampled=np.array([False, *is_sampled, *[True] * extra]),
        logprobs=np.full(length, np.nan, dtype=np.float32),
        source=np.array([-1, *range(count), *instead], dtype=np.int32),
    )
    return Sample.of(mask)


def samples(mix: Mix, tokens: int, seed: int, excluded: frozenset[Key] = frozenset()) -> Iterator[tuple[str, Sample]]:
    """(kind, sample) until there are so many tokens, kinds in the mix's shares of them."""
    documents = Documents(random.Random(f"samples {seed}"), excluded)
    sizes = mean_sizes(Documents(random.Random("sizes"), excluded))
    while tokens > 0:
        kind = draw_kind(documents.rng, mix, sizes)
        made = sample(documents.make(kind), kind)
        tokens -= len(made)
        yield kind, made


def save_samples(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    """A data set of `Sample.row`s, in a folder. Raises `InvalidInput` if there is none."""
    from datasets import Dataset, concatenate_datasets

    parts = []
    left = iter(rows)
    while part := list(itertools.islice(left, 500)):
        parts.append(Dataset.from_list(part))
    if not parts:
        raise InvalidInput("there is no sample to save: ask for more tokens")
    found = concatenate_datasets(parts)
    found.save_to_disk(str(folder))
    print(f"{len(found):,} samples in {folder}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=6_000_000)
    parser.add_argument("--seed", type=int, default=0)
    add_sources(parser)
    args = vars(parser.parse_args())
    mix, excluded = read_sources(args)
    made = samples(mix, args["tokens"], args["seed"], excluded)
    save_samples(({"kind": kind, **one.row()} for kind, one in made), args["out"])


if __name__ == "__main__":
    sys.exit(exit_status(main))
