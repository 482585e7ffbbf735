"""From groups of rollouts to what one optimiser step is computed from: calls with advantages and weights, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from . import credit
from .forest import Call, Forest
from .packed import IGNORED, Layout, Pass, Row, lay_out, pack
from .rollouts import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Credited:
    """A call and its part in the loss."""

    call: Call
    advantage: float
    weight: float
    """Of each token; those of a rollout add up to 1, or do so on average."""


def credited(
    forest: Forest,
    groups: Sequence[Sequence[Rollout]],
    mode: credit.Mode,
    scale: credit.Scale = "std",
    negative: float = 1.0,
    weights: credit.Weights = "calls",
) -> list[Credited]:
    """All calls of all rollouts; `forest` gets their tokens. Rollouts without a reward have advantage 0. `negative`:
    factor of advantages below 0."""
    found: list[tuple[Call, float]] = []
    lengths: list[list[int]] = []
    for group in groups:
        advantages = credit.normalised([rollout.reward for rollout in group], scale)
        told = credit.per_thread([rollout.told for rollout in group], scale)
        for i, (rollout, advantage) in enumerate(zip(group, advantages, strict=True)):
            calls = forest.add(rollout.trace)
            parents = {record.id: record.parent for record in rollout.trace.branches.values()}
            by_branch = credit.shared(advantage, parents)
            if mode == "per_thread":
                by_branch |= told[i]
            elif mode == "tree" and rollout.reward is not None:
                outcomes = {branch: one.verdict for branch, one in rollout.told.items()} | rollout.grown
                by_branch = credit.tree(advantage, parents, outcomes, scale)
            lengths.append([len(call.tokens) for call in calls])
            found += [(call, by_branch[call.branch]) for call in calls]
    each = chain.from_iterable(credit.weights(lengths, weights))
    return [
        Credited(call=call, advantage=advantage if advantage > 0 else negative * advantage, weight=weight)
        for (call, advantage), weight in zip(found, each, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How calls are put into forward passes."""

    share: bool
    token_cost: int
    row_tokens: int
    pass_tokens: int
    device: torch.device | str = "cpu"


def scale_of(calls: Sequence[Credited]) -> float:
    """What the lightest token weighs 1 with: TRL divides sums of metrics by those of weights, but by 1 at least."""
    return max((1.0 / one.weight for one in calls), default=1.0)


def chunks(
    forest: Forest, calls: Sequence[Credited], count: int, rollouts: float, shape: Shape, scale: float
) -> list[dict[str, Any]]:
    """Split the loss over `calls` into `count` parts that add up to it: the mean over `rollouts` rollouts.

    Each part is a batch as `GRPOTrainer` takes it, one row for each call, with its `Layout`. `tool_mask` holds the
    tokens' weights times `scale` (`scale_of`), one for all processes, whose weights TRL adds up; only what the model
    sampled is in the rows, since the layout has the rest.
    """
    rows = pack(
        forest, [one.call for one in calls], share=shape.share, token_cost=shape.token_cost, most=shape.row_tokens
    )
    parts: list[list[Row]] = [[] for _ in range(count)]
    loads = [0] * count
    for row in sorted(rows, key=lambda row: -row.cost(shape.token_cost)):
        least = loads.index(min(loads))
        parts[least].append(row)
        loads[least] += row.cost(shape.token_cost)
    return [_chunk(forest, calls, part, rollouts, shape, scale) for part in parts]


def _chunk(
    forest: Forest, calls: Sequence[Credited], rows: Sequence[Row], rollouts: float, shape: Shape, scale: float
) -> dict[str, Any]:
    numbers = [i for row in rows for i in row.calls]
    own = [calls[i] for i in numbers]
    local = {number: place for place, number in enumerate(numbers)}
    placed = [replace(row, calls=[local[i] for i in row.calls]) for row in rows]
    if own:
        layout = lay_out(forest, [one.call for one in own], placed, most=shape.pass_tokens, device=shape.device)
    else:
        layout = _nothing(shape.device)
    size = tuple(layout.index.shape)
    ids = torch.zeros(size, dtype=torch.int64)
    mask = torch.zeros(size, dtype=torch.int64)
    weights, advantages, old = torch.zeros(size), torch.zeros(size), torch.zeros(size)
    for i, one in enumerate(own):
        length = len(one.call.tokens)
        ids[i, :length] = torch.tensor(one.call.tokens)
        mask[i, :length] = 1
        weights[i, :length] = scale * one.weight
        advantages[i, :length] = one.advantage
        old[i, :length] = torch.tensor(one.call.logprobs)
    tensors = {
        "prompt_ids": torch.zeros(size[0], 0, dtype=torch.int64),
        "prompt_mask": torch.zeros(size[0], 0, dtype=torch.int64),
        "completion_ids": ids,
        "completion_mask": mask,
        "tool_mask": weights,
        "advantages": advantages,
        "old_per_token_logps": old,
        "num_items_in_batch": torch.tensor(scale * rollouts),
    }
    return {**{name: tensor.to(shape.device) for name, tensor in tensors.items()}, "layout": layout}


def padded(chunk: dict[str, Any], count: int) -> dict[str, Any]:
    """The chunk with rows that weigh nothing behind its own, `count` in all."""
    layout: Layout = chunk["layout"]
    missing = count - len(layout.index)

    def longer(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])]) if tensor.dim() else tensor

    tensors = {name: longer(value) for name, value in chunk.items() if isinstance(value, torch.Tensor)}
    return {**tensors, "layout": replace(layout, index=longer(layout.index))}


def _nothing(device: torch.device | str) -> Layout:
    """A pass of one token that weighs nothing, where there is nothing to learn: other processes wait for one."""
    zero = torch.zeros(1, 1, dtype=torch.int64, device=device)
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    one = Pass(input_ids=zero, positions=zero, mask=mask, labels=torch.full_like(zero, IGNORED))
    return Layout(passes=[one], index=zero, num_tokens=1)
