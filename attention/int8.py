"""Pools of 8 bits: what a token has in one head, as whole numbers with one scale for its keys and one for its values.

    k_pool (P, K, D + 4, B) int8: a block's keys, and in the last four rows the B float32 scales of its tokens
    v_pool (P, K, B, D + 4) int8: a token's values, and in the last four bytes its float32 scale

The scales lie inside the blocks, so that whoever moves blocks moves them too. A number is its integer, -127 .. 127,
times its scale, which is the largest magnitude / 127: at most half a step off. How a token is rounded depends on
nothing but itself. A token that holds an infinity or a NaN comes back as NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = 4
"""Bytes of a scale."""


def stored_size(size: int, dtype: torch.dtype) -> int:
    """Elements of a pool of `dtype` that a token takes for a head of `size` dims."""
    return size + SCALE if dtype == torch.int8 else size


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., D) -> int8 (..., D) and float32 scales (..., 1), rounded to the nearest, ties to even."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / 127
    is_sound = (scale > 0) & scale.isfinite()
    steps = (x / torch.where(is_sound, scale, 1.0)).round().clamp(-127, 127)
    return torch.where(is_sound, steps, 0.0).to(torch.int8), scale


def pack_keys(keys: Tensor) -> Tensor:
    """(..., B, D) -> int8 (..., D + 4, B), as blocks of a `k_pool`."""
    integers, scales = quantise(keys)
    rows = scales.view(torch.int8).reshape(*scales.shape[:-2], SCALE, -1)
    return torch.cat([integers.transpose(-1, -2), rows], dim=-2)


def pack_values(values: Tensor) -> Tensor:
    """(..., B, D) -> int8 (..., B, D + 4), as blocks of a `v_pool`."""
    integers, scales = quantise(values)
    return torch.cat([integers, scales.view(torch.int8)], dim=-1)


def unpack_keys(blocks: Tensor) -> Tensor:
    """Blocks (..., D + 4, B) of a `k_pool` -> float32 (..., D, B)."""
    return blocks[..., :-SCALE, :] * key_scales(blocks).unsqueeze(-2)


def unpack_values(blocks: Tensor) -> Tensor:
    """Blocks (..., B, D + 4) of a `v_pool` -> float32 (..., B, D)."""
    return blocks[..., :-SCALE] * blocks[..., -SCALE:].contiguous().view(torch.float32)


def key_scales(blocks: Tensor) -> Tensor:
    """Float32 (..., B) of blocks (..., D + 4, B) of a `k_pool`, a view of them."""
    return blocks[..., -SCALE:, :].view(*blocks.shape[:-2], -1).view(torch.float32)


def store_keys(k_pool: Tensor, block: Tensor, offset: Tensor, keys: Tensor) -> None:
    """Write keys (N, K, D) of N tokens, each at its `offset` in its `block`."""
    integers, scales = quantise(keys)
    k_pool[block, :, :-SCALE, offset] = integers
    byte = offset[:, None] * SCALE + torch.arange(SCALE, device=offset.device)  # (N, 4) in the scales of a block
    row, column = k_pool.shape[2] - SCALE + byte // k_pool.shape[3], byte % k_pool.shape[3]
    k_pool[block[:, None], :, row, column] = scales.view(torch.int8).transpose(1, 2)  # (N, 4, K)


def store_values(v_pool: Tensor, block: Tensor, offset: Tensor, values: Tensor) -> None:
    """Write values (N, K, D) of N tokens, each at its `offset` in its `block`."""
    v_pool[block, :, offset] = pack_values(values)


def clear(keys: Tensor, values: Tensor, used: int) -> None:
    """Forget what blocks (..., D + 4, B) and (..., B, D + 4) hold behind their first `used` tokens."""
    keys[..., :-SCALE, used:] = 0
    key_scales(keys)[..., used:] = 0
    values[..., used:, :] = 0
