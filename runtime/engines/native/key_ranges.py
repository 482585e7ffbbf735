"""How large the dims of a model's keys are, as its weights tell: what evens them out before they are rounded to 8 bits.

Some dims of keys are large at every token, those with a large bias above all, while values have none such (KIVI, arXiv
2402.02750, section 3). Of a token that has one scale they would leave the other dims no bits. Keys are divided by their
range and queries multiplied by it (SmoothQuant, arXiv 2211.10438, section 4, for attention's scores), which changes no
score; the two dims that a rotation mixes share a range, so that it may come before or after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import ModelConfig
from .weights import LayerWeights, Weights

_DEVIATIONS = 4
"""Of a dim from its mean, that its range has room for."""
_SMALLEST = 1e-4
"""Range, relative to the largest of a head."""


def key_ranges(config: ModelConfig, weights: Weights) -> list[Tensor]:
    """(K, D) float32 of each layer: a dim's mean and four deviations, were inputs independent and of mean square 1."""
    halves = [0 if layer.rope is None else layer.rope.rotary_dim(config.head_dim) // 2 for layer in config.layers]
    return [
        _ranges(layer, config.head_dim, half, config.family.norm_offset)
        for layer, half in zip(weights.layers, halves, strict=True)
    ]


def _ranges(layer: LayerWeights, size: int, half: int, offset: float) -> Tensor:
    """`half`: of the dims that are rotated; `offset`: what is added to norms."""
    variance = layer.variance_of_keys(offset)
    mean = torch.zeros_like(variance) if layer.k.bias is None else layer.k.bias.detach().float()
    variance, mean = variance.view(-1, size), mean.view(-1, size)
    if layer.k_norm is not None:
        gain = (layer.k_norm.detach().float() + offset).view(-1, size)
        square = variance + mean.square()
        is_headwise = gain.numel() == size
        gain = gain / (square.mean(1, keepdim=True) if is_headwise else square.mean()).sqrt()
        variance, mean = variance * gain.square(), mean * gain
    first, second, rest = (slice(0, half), slice(half, 2 * half), slice(2 * half, None))
    amplitude = torch.hypot(mean[:, first], mean[:, second])
    pair = amplitude + _DEVIATIONS * ((variance[:, first] + variance[:, second]) / 2).sqrt()
    ranges = torch.cat([pair, pair, mean[:, rest].abs() + _DEVIATIONS * variance[:, rest].sqrt()], dim=1)
    ranges = torch.maximum(ranges, _SMALLEST * ranges.amax(1, keepdim=True))
    return torch.where(ranges.isfinite() & (ranges > 0), ranges, 1.0).contiguous()
