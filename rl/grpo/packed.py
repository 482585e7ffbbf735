"""Prefix-tree forward: rows of nodes, each computed once however many calls it serves, with a mask for each row.

A row costs its tokens, and the square of its length for attention: calls share a row where that is cheaper than one
each. `share=False` gives every call a row of its own, as ordinary trainers do; the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .forest import Call, Forest

IGNORED = -100
"""The label of tokens that nothing is scored at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A sequence for one forward pass."""

    nodes: list[int]
    """Of its columns; where several tokens follow a node, it stands there again at the end, once for each."""
    labels: list[int]
    """The token scored at each column."""
    columns: dict[tuple[int, int], int]
    """(source node, token) -> where it is scored."""
    calls: list[int]
    """Numbers of the calls that are scored in it."""

    def cost(self, token_cost: int) -> int:
        """As `pack` counts it."""
        return _cost(len(self.nodes), token_cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one forward pass gets: rows padded to the longest; b rows of length l."""

    input_ids: Tensor
    """(b, l)."""
    positions: Tensor
    """(b, l)."""
    mask: Tensor
    """(b, 1, l, l) bool."""
    labels: Tensor
    """(b, l), pre-shifted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Forward passes, and where in their results each token of each call is scored."""

    passes: list[Pass]
    index: Tensor
    """(calls, longest): into the passes' results, flattened and one behind another; 0 where there is no token."""
    num_tokens: int
    """That are computed, padding left out."""


def pack(forest: Forest, calls: Sequence[Call], *, share: bool = True, token_cost: int, most: int) -> list[Row]:
    """Put calls into rows.

    `token_cost`: what a token costs besides attention, in cells of the mask (`token_cost`). `most`: tokens of a row
    that several calls share at most.
    """
    needed = [forest.needed(call) for call in calls]
    # In the order of a walk through the tree: what shares most stands side by side.
    order = sorted(range(len(calls)), key=lambda i: sorted(needed[i]))
    groups: list[tuple[set[int], list[int]]] = []
    for i in order:
        if groups and share:
            nodes, members = groups[-1]
            union = len(nodes | needed[i])
            alone = _cost(len(nodes), token_cost) + _cost(len(needed[i]), token_cost)
            if union <= most and _cost(union, token_cost) < alone:
                nodes |= needed[i]
                members.append(i)
                continue
        groups.append((set(needed[i]), [i]))
    return [_row(calls, sorted(nodes), members) for nodes, members in groups]


def _cost(length: int, token_cost: int) -> int:
    return length * (token_cost + length)


def _row(calls: Sequence[Call], nodes: list[int], members: list[int]) -> Row:
    at = {node: column for column, node in enumerate(nodes)}
    labels = [IGNORED] * len(nodes)
    columns: dict[tuple[int, int], int] = {}
    for i in members:
        for source, token in zip(calls[i].sources, calls[i].tokens, strict=True):
            if (source, token) in columns:
                continue
            column = at[source]
            if labels[column] != IGNORED:
                column = len(nodes)
                nodes.append(source)
                labels.append(IGNORED)
            labels[column] = token
            columns[source, token] = column
    return Row(nodes=nodes, labels=labels, columns=columns, calls=members)


def token_cost(hidden: int, intermediate: int) -> int:
    """Products that a token takes in the linear layers of a decoder against those of one cell of its mask: 4 C^2 of
    attention's projections and 3 C I of a gated MLP against 2 C, for hidden size C and I inside the MLP."""
    return 2 * hidden + 3 * intermediate // 2


def lay_out(
    forest: Forest, calls: Sequence[Call], rows: Sequence[Row], *, most: int, device: torch.device | str = "cpu"
) -> Layout:
    """Make passes of at most `most` tokens (or one row) of rows; `calls`: all that the rows score."""
    passes = []
    starts: dict[int, int] = {}
    begin = 0
    for batch in _batches(sorted(range(len(rows)), key=lambda i: len(rows[i].nodes)), rows, most):
        width = len(rows[batch[-1]].nodes)
        for place, i in enumerate(batch):
            starts[i] = begin + place * width
        passes.append(_pass(forest, [rows[i] for i in batch], width, device))
        begin += len(batch) * width
    where = {call: (starts[i], row) for i, row in enumerate(rows) for call in row.calls}
    index = torch.zeros(len(calls), max((len(call.tokens) for call in calls), default=0), dtype=torch.int64)
    for number, call in enumerate(calls):
        start, row = where[number]
        found = [start + row.columns[key] for key in zip(call.sources, call.tokens, strict=True)]
        index[number, : len(found)] = torch.tensor(found)
    return Layout(passes=passes, index=index.to(device), num_tokens=sum(len(row.nodes) for row in rows))


def _batches(order: Sequence[int], rows: Sequence[Row], most: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[i].nodes) > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _pass(forest: Forest, rows: Sequence[Row], width: int, device: torch.device | str) -> Pass:
    size = len(rows), width
    input_ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    labels = np.full(size, IGNORED, np.int64)
    mask = np.zeros((len(rows), 1, width, width), np.bool_)
    for i, row in enumerate(rows):
        length = len(row.nodes)
        input_ids[i, :length] = [forest.tokens[node] for node in row.nodes]
        positions[i, :length] = [forest.positions[node] for node in row.nodes]
        labels[i, :length] = row.labels
        _fill(forest, row.nodes, mask[i, 0])
    tensors = (torch.from_numpy(array).to(device) for array in (input_ids, positions, mask, labels))
    return Pass(**dict(zip(("input_ids", "positions", "mask", "labels"), tensors, strict=True)))


def _fill(forest: Forest, nodes: Sequence[int], mask: NDArray[np.bool_]) -> None:
    """Write what each column sees; padding sees itself, since a softmax over nothing is no number."""
    np.fill_diagonal(mask, True)
    at: dict[int, int] = {}
    for column, node in enumerate(nodes):
        if node in at:  # it stands here again
            mask[column] |= mask[at[node]]
            mask[column, at[node]] = False
            continue
        context = forest.contexts[node]
        while context:
            context, seen = forest.step(context)
            if len(seen) == 1 and forest.contexts[seen[0]] == context:
                mask[column] |= mask[at[seen[0]]]
                break
            mask[column, [at[other] for other in seen]] = True
        at[node] = column


def score(model: torch.nn.Module, layout: Layout) -> tuple[Tensor, Tensor]:
    """Log-probabilities (calls, longest) of the layout's tokens, and the entropies of what they were drawn from. The
    model has TRL's fused head (`add_fused_lm_head`), with the entropy among its results."""
    logprobs, entropies = [], []
    for one in layout.passes:
        found = model(
            input_ids=one.input_ids, attention_mask=one.mask, position_ids=one.positions, shift_labels=one.labels,
            fused_lm_head=True,
        )  # fmt: skip
        logprobs.append(found.log_probs.flatten())
        entropies.append((torch.zeros_like(found.log_probs) if found.entropy is None else found.entropy).flatten())
    return torch.cat(logprobs)[layout.index], torch.cat(entropies)[layout.index]
