"""Samples: what a trainer takes, made of a `TreeMask`; sequences that share tokens are one sample, packed as a tree.

A place in a sample has at most one label, the token that was sampled from it. Where several branches sampled from one
token (a prompt that was forked, a text that was rewound), every branch but the first gets a copy of that token, an
*echo*: it sees what the token sees, nobody sees it, and so it has the same logits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.engine import Tokenizer
from ..runtime.errors import InvalidInput
from ..runtime.trace.trace import Trace
from .frames import frames
from .masks import part_masks
from .own_tokens import PIECES, check_column, pieces_column
from .tree_mask import Ints, TreeMask

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

IGNORED = -100
"""A label that no loss is taken of."""
TRACE = "trace"
"""Column of a data set of samples: the file of the trace that a sample is of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One sequence of L tokens to train on, echoes included."""

    mask: TreeMask
    target: Ints
    """(L,) index of the token that was sampled from here; -1: none that is trained."""

    def __len__(self) -> int:
        return len(self.mask)

    @classmethod
    def of(cls, mask: TreeMask) -> Sample:
        """Every sampled token is a target once, but for those sampled from nothing: first tokens without a prompt."""
        target = np.full(len(mask), -1, dtype=np.int32)
        echoes: list[tuple[int, int]] = []
        for token in np.flatnonzero(mask.is_sampled & (mask.source >= 0)).tolist():
            source = int(mask.source[token])
            if target[source] < 0:
                target[source] = token
            else:
                echoes.append((source, token))
        if not echoes:
            return cls(mask=mask, target=target)
        return cls(
            mask=_with_echoes(mask, [source for source, _ in echoes]),
            target=np.concatenate([target, np.array([token for _, token in echoes], dtype=np.int32)]),
        )

    def __bytes__(self) -> bytes:
        """All of it: two samples differ where these do."""
        columns = [np.asarray(getattr(self.mask, f.name)) for f in fields(TreeMask)]
        return b"".join(f"{column.shape}".encode() + column.tobytes() for column in (*columns, self.target))

    @property
    def is_trained(self) -> NDArray[np.bool_]:
        """(L,) Is a loss taken here?"""
        return self.target >= 0

    def shift_labels(self) -> Tensor:
        """(1, L) int64: the token that is to come out at each place."""
        tokens = np.array(self.mask.token_ids, dtype=np.int64)
        return torch.from_numpy(np.where(self.is_trained, tokens[self.target], IGNORED))[None]

    def logprobs(self) -> Tensor:
        """(1, L) float32: what the sampler recorded of the labels; NaN where it did not or there is none."""
        found = np.where(self.is_trained, self.mask.logprobs[self.target], np.float32(np.nan))
        return torch.from_numpy(found.astype(np.float32))[None]

    def cut(self, length: int) -> Sample:
        """The first `length` tokens. Raises `InvalidInput` where one of them sees a later one."""
        if length >= len(self):
            return self
        mask = self.mask
        inside = np.bincount(mask.segment[:length], minlength=mask.reach.shape[1])
        used = np.unique(mask.row[:length])
        if (mask.reach[used] > inside).any():
            raise InvalidInput(f"{len(self):,} tokens cannot be cut to {length:,}: lines in them see each other")
        per_token = {name: getattr(mask, name)[:length] for name in _PER_TOKEN}
        target = np.where(self.target < length, self.target, -1)[:length]
        return Sample(mask=replace(mask, **per_token), target=target)

    # -- rows of a data set ------------------------------------------------------------------------------------

    def row(self) -> dict[str, Any]:
        """As plain lists, for `datasets`; tables are kept flat."""
        values = {f.name: np.asarray(getattr(self.mask, f.name)) for f in fields(TreeMask)}
        return {
            **{name: value.reshape(-1).tolist() for name, value in values.items()},
            "target": self.target.tolist(),
            "segments": self.mask.reach.shape[1],
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Sample:
        """Back from `row`; other columns are left alone. Raises `InvalidInput` for what no sample is written as."""
        tokens = _ints(row["token_ids"], "token_ids", 0, _MOST)
        length = len(tokens)
        segments = int(_ints([row["segments"]], "segments", 1, _MOST)[0])
        reach, shift = _ints(row["reach"], "reach", 0, _MOST), _ints(row["shift"], "shift", -_MOST, _MOST)
        if len(reach) != len(shift) or len(reach) % segments:
            raise InvalidInput(f"`reach` and `shift` are not two tables of {segments:,} columns")
        shape = (len(reach) // segments, segments)
        columns: dict[str, NDArray[Any]] = {
            "positions": _ints(row["positions"], "positions", 0, _MOST),
            "segment": _ints(row["segment"], "segment", 0, segments - 1),
            "offset": _ints(row["offset"], "offset", 0, length - 1),
            "row": _ints(row["row"], "row", 0, shape[0] - 1),
            "source": _ints(row["source"], "source", -1, length - 1),
            "target": _ints(row["target"], "target", -1, length - 1),
            "is_sampled": _ints(row["is_sampled"], "is_sampled", 0, 1).astype(np.bool_),
            "logprobs": _floats(row["logprobs"], "logprobs"),
        }
        if wrong := [name for name, column in columns.items() if len(column) != length]:
            raise InvalidInput(f"there are {length:,} tokens, and not as many values of {', '.join(wrong)}")
        target = columns.pop("target")
        mask = TreeMask(token_ids=tokens.tolist(), **columns, reach=reach.reshape(shape), shift=shift.reshape(shape))
        return cls(mask=mask, target=target)


_MOST = int(np.iinfo(np.int32).max)


def _ints(column: Any, name: str, least: int, most: int) -> Ints:
    """A column of whole numbers. Raises `InvalidInput`."""
    values = np.asarray(column)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iub"):
        raise InvalidInput(f"`{name}` is no list of whole numbers")
    wrong = values[(values < least) | (values > most)] if values.size else values
    if wrong.size:
        raise InvalidInput(f"`{name}` holds {wrong[0]}, which is not within {least:,} and {most:,}")
    return values.astype(np.int32)


def _floats(column: Any, name: str) -> NDArray[np.float32]:
    """A column of numbers, NaN where there is none. Raises `InvalidInput`."""
    values = np.asarray(column)
    if values.ndim == 1 and values.dtype.kind == "O":
        values = np.asarray([np.nan if value is None else value for value in values])
    if values.ndim != 1 or (values.size and values.dtype.kind not in "fiu"):
        raise InvalidInput(f"`{name}` is no list of numbers")
    return values.astype(np.float32)


_PER_TOKEN = ("token_ids", "positions", "segment", "offset", "row", "is_sampled", "logprobs", "source")


def _with_echoes(mask: TreeMask, sources: Sequence[int]) -> TreeMask:
    """Copies of these tokens at the end, each a segment of its own."""
    count, columns, first_row = len(sources), mask.reach.shape[1], len(mask.reach)
    at = np.array(sources)
    reach = np.pad(mask.reach, ((0, 0), (0, count)))
    shift = np.pad(mask.shift, ((0, 0), (0, count)))
    more = reach[mask.row[at]]
    more[np.arange(count), mask.segment[at]] = mask.offset[at]
    new = np.arange(count, dtype=np.int32)
    return TreeMask(
        token_ids=[*mask.token_ids, *(mask.token_ids[source] for source in sources)],
        positions=np.concatenate([mask.positions, mask.positions[at]]),
        segment=np.concatenate([mask.segment, columns + new]),
        offset=np.concatenate([mask.offset, np.zeros_like(new)]),
        row=np.concatenate([mask.row, first_row + new]),
        reach=np.concatenate([reach, more]),
        shift=np.concatenate([shift, shift[mask.row[at]]]),
        is_sampled=np.pad(mask.is_sampled, (0, count)),
        logprobs=np.pad(mask.logprobs, (0, count), constant_values=np.nan),
        source=np.pad(mask.source, (0, count), constant_values=-1),
    )


def trace_samples(trace: Trace) -> list[Sample]:
    """One sample for each part of a recorded job that sees nothing of the others. Raises `InvalidInput` as
    `masks.trace_mask` does."""
    return [Sample.of(mask) for mask in part_masks(trace)]


def trace_dataset(paths: Iterable[str | Path], *, max_tokens: int | None = None) -> Dataset:
    """The samples of trace files, as a data set of `datasets`: columns as in `Sample.row`, and `trace` (the file),
    `part`, `method`, `answer` and `own_tokens.PIECES`. `max_tokens`: longer samples are left out. Warns where they
    are of several models.

    Raises `InvalidInput` naming the file, and where no sample is left.
    """
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    models: set[str] = set()
    too_long = 0
    for path in paths:
        trace = Trace.load(path)
        try:
            samples = trace_samples(trace)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None
        facts = {
            TRACE: str(path),
            "method": (trace.header["method"] or {}).get("method"),
            "answer": (trace.end or {}).get("answer"),
        }
        fitting = [
            {**sample.row(), "part": part, **facts}
            for part, sample in enumerate(samples)
            if max_tokens is None or len(sample) <= max_tokens
        ]
        too_long += len(samples) - len(fitting)
        rows += [{**row, PIECES: [] if place else pieces_column(trace)} for place, row in enumerate(fitting)]
        if fitting and trace.header["model"] is not None:
            models.add(trace.header["model"])
    if not rows:
        raise InvalidInput(
            f"no sample is left: {too_long:,} have more than {max_tokens:,} tokens"
            if too_long
            else "the traces hold no sample"
        )
    if len(models) > 1:
        logger.warning("the traces are of several models, and their tokens may be, too: %s", ", ".join(sorted(models)))
    return Dataset.from_list(rows)


def saved_samples(folder: str | Path, tokenizer: Tokenizer | None = None) -> Iterator[tuple[str, Sample]]:
    """Those of a saved data set, each with the trace that it is of, or its number where the data set does not tell.
    Raises `InvalidInput`, naming the one that is none, or not of this tokenizer's tokens as far as the data set tells.
    """
    from datasets import Dataset

    try:
        rows = Dataset.load_from_disk(str(folder))
        columns = rows.column_names
    except (OSError, ValueError) as error:
        raise InvalidInput(f"no saved data set: {error}") from None
    except IndexError:
        raise InvalidInput("the saved data set is empty") from None
    needed = {*(f.name for f in fields(TreeMask)), "target", "segments"}
    if missing := needed - set(columns):
        raise InvalidInput(f"a saved data set of samples has columns {', '.join(sorted(missing))}")
    if tokenizer is not None:
        check_column(rows, tokenizer)
    read = sorted(needed | ({TRACE} & set(columns)))
    for number, row in enumerate(rows.select_columns(read).with_format("numpy")):
        try:
            sample = Sample.from_row(row)
        except InvalidInput as error:
            raise InvalidInput(f"sample {number}: {error}") from None
        trace = row.get(TRACE)
        yield str(number if trace is None else trace), sample


def collate(samples: Sequence[Sample], pad: int = 0) -> dict[str, Tensor]:
    """A batch, padded behind: `input_ids`, `position_ids`, `labels` (unused by trainers that take `shift_labels`), all
    (B, L) int64, and `attention_mask` (B, 1, L, L) bool; where tokens are seen at several places also what
    `frames.enable` lets a model take."""
    length, size = max(map(len, samples)), len(samples)
    batch = {
        "input_ids": torch.full((size, length), pad),
        "position_ids": torch.zeros(size, length, dtype=torch.int64),
        "shift_labels": torch.full((size, length), IGNORED),
        # Padding sees itself: a row without any key has no softmax.
        "attention_mask": torch.eye(length, dtype=torch.bool).repeat(size, 1, 1, 1),
    }
    for i, sample in enumerate(samples):
        n = len(sample)
        batch["input_ids"][i, :n] = sample.mask.input_ids()[0]
        batch["position_ids"][i, :n] = sample.mask.position_ids()[0]
        batch["shift_labels"][i, :n] = sample.shift_labels()[0]
        batch["attention_mask"][i, :, :n, :n] = sample.mask.dense()[0]
    batch["labels"] = batch["shift_labels"]
    if any(sample.mask.is_moving for sample in samples):
        found = [frames(sample.mask) for sample in samples]
        width = max(shifts.shape[1] for _, shifts in found)
        batch["key_frames"] = torch.zeros(size, length, dtype=torch.int64)
        batch["frame_shifts"] = torch.zeros(size, length, width, dtype=torch.int64)
        for i, (frame, shifts) in enumerate(found):
            batch["key_frames"][i, : len(frame)] = torch.from_numpy(frame)
            batch["frame_shifts"][i, : len(frame), : shifts.shape[1]] = torch.from_numpy(shifts)
    return batch
