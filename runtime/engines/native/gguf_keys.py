"""Which metadata of a GGUF file make another model: a key that acts in llama.cpp and is not read here must be neutral.

Names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; those of RoPE are in gguf_rope.py.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModel

_OFF = {
    f"attention.{name}"
    for name in (
        "clamp_kqv",
        "max_alibi_bias",
        "relative_buckets_count",
        "shared_kv_layers",
        "temperature_length",
        "temperature_scale",
        "q_lora_rank",
        "kv_lora_rank",
    )
} | {"attn_logit_softcapping", "final_logit_softcapping"}
"""What is done to queries, keys, values or scores, unless 0."""
_WITHOUT_EFFECT = ("attention.layer_norm_epsilon", "attention.sliding_window_pattern")
"""Of other norms, and of windows, which are refused where there are any."""


def check_keys(keys: Mapping[str, Any], read: Container[str], head_dim: int, context: int, path: Path) -> None:
    """Raise `UnsupportedModel` for attention of another kind and for scales; `keys`: the metadata without the
    architecture's name, `read`: those that make the configuration, `context`: tokens."""
    for key, value in keys.items():
        if key in read or key in _WITHOUT_EFFECT or key.startswith("rope."):
            continue
        if not _is_neutral(key, value, head_dim, context):
            raise UnsupportedModel(f"{path}: {key[:80]} = {str(value)[:40]} is not supported")


def _is_neutral(key: str, value: Any, head_dim: int, context: int) -> bool:
    if key in _OFF:
        return bool(value == 0)
    if key == "attention.causal":
        return value is True
    if key == "attention.value_length":
        return bool(value == head_dim)
    if key == "attention.sliding_window":
        return isinstance(value, int) and (value == 0 or value >= context)
    if key == "attention.scale":
        return isinstance(value, float) and (value == 0 or math.isclose(value, head_dim**-0.5, rel_tol=1e-5))
    if key.startswith("attention."):
        return False
    return "scale" not in key or value in (0, 1)  # 0 stands for one that was left out
