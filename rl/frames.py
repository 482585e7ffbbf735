"""Frames: how one forward pass lets readers see a token at different places.

A token's key is computed once, rotated to the token's own position. A reader that sees it moved by s turns its query
back by s instead: <R(p) q, R(k + s) K> = <R(p - s) q, R(k) K>. Keys that all readers see moved alike form a frame; a
query is turned once per frame, and all scores of a query go into one softmax (Hogwild!, arXiv 2504.06261, section 3.3,
here with gradients). Most traces need none of this: `settle` finds positions at which everything is seen in its place.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime.engines.native.families import FAMILIES
from ..runtime.errors import UnsupportedModel
from .tree_mask import Ints, TreeMask

NAME = "plait_frames"
"""Of the attention function, as transformers knows it."""


def settle(mask: TreeMask) -> TreeMask:
    """The same mask with its segments where all readers see them; unchanged if there are no such positions."""
    if not mask.is_moving:
        return mask
    reader = np.zeros(len(mask.reach), dtype=np.int64)
    reader[mask.row] = mask.segment
    links: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, column in np.argwhere(mask.reach > 0).tolist():
        own, shift = int(reader[row]), int(mask.shift[row, column])
        links[own].append((column, shift))
        links[column].append((own, -shift))
    moves: dict[int, int] = {}
    first = {int(s): int(p) for s, p, o in zip(mask.segment, mask.positions, mask.offset, strict=True) if o == 0}
    for start in range(mask.reach.shape[1]):
        if start in moves:
            continue
        moves[start], part = 0, [start]
        for one in part:
            for other, shift in links[one]:
                if moves.setdefault(other, moves[one] + shift) != moves[one] + shift:
                    return mask
                if other not in part:
                    part.append(other)
        # Positions stay what tables of them take.
        lowest = min(first.get(one, 0) + moves[one] for one in part)
        for one in part:
            moves[one] -= min(lowest, 0)
    moved = np.array([moves[column] for column in range(mask.reach.shape[1])], dtype=np.int32)
    return replace(mask, positions=mask.positions + moved[mask.segment], shift=np.zeros_like(mask.shift))


def frames(mask: TreeMask) -> tuple[Ints, Ints]:
    """(L,) frame of each token's key, and (L, frames) how far each token sees the keys of a frame moved."""
    columns, frame = np.unique(mask.shift, axis=1, return_inverse=True)
    return frame.reshape(-1)[mask.segment].astype(np.int32), columns[mask.row].astype(np.int32)


def enable(model: nn.Module) -> None:
    """Let a causal language model of transformers take `key_frames` (B, L) and `frame_shifts` (B, L, frames), both
    int64, beside a boolean mask (B, 1, L, L). Without them it attends as before, by SDPA.

    Raises `UnsupportedModel` for one that rotates in another way.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    body = getattr(model, "base_model", model)
    config: Any = model.config
    rotary = getattr(getattr(body, "model", body), "rotary_emb", None)
    inv_freq = getattr(rotary, "inv_freq", None)
    if config.model_type not in FAMILIES or not isinstance(inv_freq, Tensor):
        raise UnsupportedModel(f"{config.model_type}: texts that are seen at several places cannot be trained with it")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise UnsupportedModel(f"{config.model_type}: its attention has capped scores, which frames do not")
    AttentionInterface.register(NAME, frames_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    for module in model.modules():
        if hasattr(module, "num_key_value_groups"):
            module.__dict__["plait_rotary"] = rotary  # Beside the module tree: nobody saves it twice.
    cast(Any, model).set_attn_implementation(NAME)


def frames_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    key_frames: Tensor | None = None,
    frame_shifts: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: query (B, H, L, D), key and value (B, G, L, D); out (B, L, H, D)."""
    if key_frames is None or frame_shifts is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    assert attention_mask is not None and attention_mask.dtype == torch.bool
    rotary = module.__dict__["plait_rotary"]
    exact = torch.promote_types(query.dtype, torch.float32)
    inv_freq = rotary.inv_freq.to(exact) if getattr(module, "use_rope", True) else rotary.inv_freq.new_zeros(1)
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = []
    for b in range(len(query)):
        shifts = frame_shifts[b]
        seen, order = [], []
        for frame in range(shifts.shape[-1]):
            inside = (key_frames[b] == frame).nonzero()[:, 0]
            if len(inside):
                turned = _turn(query[b], -shifts[:, frame], inv_freq)
                seen.append(turned @ key[b, :, inside].repeat_interleave(groups, 0).transpose(-1, -2))
                order.append(inside)
        # Which key is which column does not matter to a softmax.
        keys = torch.cat(order)
        scores = torch.cat(seen, -1).to(exact) * scale
        scores = scores.masked_fill(~attention_mask[b, :, :, keys], -torch.inf)
        weights = nn.functional.dropout(scores.softmax(-1), dropout, module.training).to(value.dtype)
        rows.append(weights @ value[b, :, keys].repeat_interleave(groups, 0))
    return torch.stack(rows).transpose(1, 2).contiguous(), None


def _turn(x: Tensor, by: Tensor, inv_freq: Tensor) -> Tensor:
    """(H, L, D) as rotated to its positions, rotated on by so many (L,); dimensions behind the rotated ones stay."""
    if not by.any():
        return x
    half = len(inv_freq)
    angle = by[:, None] * inv_freq
    cos, sin = angle.cos(), angle.sin()
    x_exact = x.to(inv_freq.dtype)
    a, b, rest = x_exact[..., :half], x_exact[..., half : 2 * half], x_exact[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).to(x.dtype)
