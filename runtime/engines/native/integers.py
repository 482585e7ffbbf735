"""Weights in 8 and 4 bits: groups of 32 inputs, rounded to the nearest, in the packed form of csrc/quantised.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InvalidInput

WeightType = Literal["int8", "int4", "stored"]
WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)
Bits = Literal[8, 4]

GROUP = 32
_LEVELS = range(15, 5, -1)
"""Steps between the smallest and the largest of a group in 4 bits, the likeliest number first."""
_EXACT = 0.08
"""Mean distance from a grid, in steps of it, that is owed to bfloat16 and not to chance, which gives 0.29."""
_OFF = 1 / 8
"""A group is lost whose scale is so small that float16 puts its ends off by more than this share of its largest."""
_SHARE = 0.01
"""Of a matrix's `losses`, as much as may be lost: next to nothing beside large weights may become nothing."""
_PROBE = 256
"""Groups that tell for the others whether they lie on grids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A matrix of O outputs and G groups of inputs, the last one filled up with zeros."""

    integers: Tensor
    """(O, G, 32) uint8; in 8 bits with 128 added."""
    scales: Tensor
    """(O, G) float16."""
    minima: Tensor | None
    """(O, G) float16, in 4 bits: what the integer 0 stands for."""
    losses: Tensor
    """(O, 2) float64: squares of the largest of each group added up, of the groups that are lost and of all."""

    @classmethod
    def of(cls, weight: Tensor, bits: Bits) -> Blocks:
        """Round a matrix (O, C) to the nearest. In 8 bits the largest of a group becomes 127, in 4 bits the smallest 0
        and the largest 15, or less where a group had 16 values at most before (a GGUF file's Q4_0, Q4_1 and Q4_K): such
        weights stay as they are. Raises `InvalidInput` for what is not finite or too large for scales in float16."""
        outputs, inputs = weight.shape
        groups = functional.pad(weight.float(), (0, -inputs % GROUP)).view(outputs, -1, GROUP)
        largest = groups.abs().amax(-1)
        if bits == 8:
            scales, minima = (largest / 127).half(), None
            rounded = (groups * _inverse(scales)).round_().clamp_(-127, 127).add_(128)
            off = (127 * scales.float() - largest).abs()
        else:
            minima, levels = groups.amin(-1).half(), _levels(groups)
            scales = ((groups.amax(-1) - minima.float()) / levels).half()
            rounded = ((groups - minima.float()[..., None]) * _inverse(scales)).round_().clamp_(0, 15)
            ends = minima.float(), minima.float() + levels * scales.float()
            off = torch.maximum((ends[0] - groups.amin(-1)).abs(), (ends[1] - groups.amax(-1)).abs())
        if not bool(off.isfinite().all()):
            raise _unfit(bits, "that are not finite or far too large")
        weighed = largest.double().square()
        losses = torch.stack([(weighed * (off > _OFF * largest)).sum(-1), weighed.sum(-1)], dim=-1)
        return cls(integers=rounded.to(torch.uint8), scales=scales, minima=minima, losses=losses)

    def numbers(self, inputs: int) -> Tensor:
        """What they stand for, (O, inputs) float32."""
        scales = self.scales.float()[..., None]
        if self.minima is None:
            whole = (self.integers.float() - 128) * scales
        else:
            whole = self.integers.float() * scales + self.minima.float()[..., None]
        return whole.flatten(1)[:, :inputs]

    def packed(self, panel: int) -> Tensor:
        """Records (O / panel, G, bytes) uint8; O is a multiple of `panel`."""
        integers, parts = self.integers, [self.scales]
        if self.minima is not None:
            integers = integers[..., : GROUP // 2] | integers[..., GROUP // 2 :] << 4
            parts.append(self.minima)
        outputs, groups, size = integers.shape
        words = integers.view(outputs // panel, panel, groups, size // 4, 4).permute(0, 2, 3, 1, 4)
        halves = [part.view(-1, panel, groups).transpose(1, 2).contiguous().view(torch.uint8) for part in parts]
        return torch.cat([words.reshape(outputs // panel, groups, -1), *halves], dim=-1)


def check_losses(losses: Tensor, bits: Bits) -> None:
    """Raise `InvalidInput` for a matrix, all of whose `Blocks.losses` these are, that is too small for scales in
    float16."""
    lost, whole = losses.sum(0).tolist()
    if lost > _SHARE * whole:
        raise _unfit(bits, "that are far too small")


def record_bytes(bits: Bits, panel: int) -> int:
    """Of one group of a panel's outputs."""
    return panel * (GROUP + 2 if bits == 8 else GROUP // 2 + 4)


def _unfit(bits: Bits, weights: str) -> InvalidInput:
    return InvalidInput(f"weights in {bits} bits: the model has weights {weights}; leave the option `weights` out")


def _inverse(scales: Tensor) -> Tensor:
    """(O, G, 1) float32; 0 where the scale is 0."""
    found = scales.float()
    return torch.where(found == 0, found, 1 / found)[..., None]


def _levels(groups: Tensor) -> Tensor:
    """(O, G) float32: steps between the smallest and the largest of each group (O, G, 32)."""
    flat = groups.flatten(0, 1)
    found = torch.full((len(flat),), float(_LEVELS[0]))
    probe = _on_grids(flat[:: max(1, len(flat) // _PROBE)])
    if bool((probe > 0).float().mean() > 0.5):
        on_grids = _on_grids(flat)
        found = torch.where(on_grids > 0, on_grids, found)
    return found.view(groups.shape[:2])


def _on_grids(groups: Tensor) -> Tensor:
    """(N,) float32: the steps of the finest grid that the numbers of each group (N, 32) lie on; 0: there is none."""
    least = groups.amin(-1, keepdim=True)
    places = (groups - least) / (groups.amax(-1, keepdim=True) - least)
    found = torch.zeros(len(groups))
    left = torch.arange(len(groups))
    for levels in _LEVELS:
        steps = places * levels
        is_exact = (steps - steps.round()).square().mean(-1).sqrt() < _EXACT
        found[left[is_exact]] = levels
        left, places = left[~is_exact], places[~is_exact]
    return found
