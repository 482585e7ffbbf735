"""Attention with capped scores (Gemma 2): transformers' SDPA leaves the cap out, and its plain form takes masks that
are added to the scores, where ours hold truth values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NAME = "plait_capped"
"""Of the attention function, as transformers knows it."""


def attention(folder: Path) -> str:
    """What a model is to be loaded with (`attn_implementation`) so that it attends as it is served, with masks of truth
    values."""
    from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig
    from transformers.masking_utils import eager_mask

    config = AutoConfig.from_pretrained(folder).get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is None:
        return "sdpa"
    AttentionInterface.register(NAME, capped_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    return NAME


def capped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Of transformers' interface, as in `frames`. The mask is one of truth values, or is added to the scores."""
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    if attention_mask is not None and attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
    return eager_attention_forward(module, query, key, value, attention_mask, **options)
