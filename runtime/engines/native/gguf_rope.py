"""RoPE of a GGUF file, under config.json's names.

A file holds YaRN's numbers as keys `rope.scaling.*`; of Llama 3's scaling the outcome only, as the tensor `rope_freqs`.
How the keys act: llama.cpp's loader (src/llama-model.cpp, src/llama-context.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModel
from .gguf_reader import positive
from .rope import yarn_scale

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What all Llama 3 models with scaled RoPE share."""
_YARN = {"yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
_READ = {"type", "factor", "original_context_length", "finetuned", *_YARN}
_WITHOUT_EFFECT: Mapping[str, tuple[float, ...]] = {
    "attn_factor": (1.0,),
    "yarn_ext_factor": (1.0, -1.0),
    "yarn_log_multiplier": (0.0,),
    "alpha": (0.0,),
}
"""What keys may hold that are not read; -1 stands for a key that was left out."""


def rope_parameters(keys: Mapping[str, Any], divisors: Tensor | None, head_dim: int, path: Path) -> dict[str, Any]:
    """`keys`: the metadata without their beginning, up to `rope.`. `divisors`: the tensor `rope_freqs`, float32.

    Raises `InvalidInput`, or `UnsupportedModel` for a key or divisors that would make another model.
    """
    theta = positive(path, "rope.freq_base", keys.get("freq_base", 10000.0))
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta, **_scaling(keys, path)}
    if divisors is not None:
        rope |= {"rope_type": "llama3", "factor": float(divisors.max()), **_LLAMA3}
        expected = _llama3_divisors(rope, head_dim)
        if divisors.shape != expected.shape or not torch.allclose(divisors, expected, rtol=1e-3):
            raise UnsupportedModel(f"{path}: RoPE factors (rope_freqs) other than Llama 3's are not supported")
    return rope


def _scaling(keys: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """How RoPE is stretched; empty: it is not."""
    values = {key.removeprefix("scaling."): value for key, value in keys.items() if key.startswith("scaling.")}
    if old := keys.get("scale_linear"):
        values.setdefault("factor", old)
    kind = values.get("type", "linear" if values.get("factor") else "none")
    for key, value in values.items():
        is_read = key in _READ or (kind == "yarn" and key == "attn_factor")
        if not is_read and value not in _WITHOUT_EFFECT.get(key, ()):
            raise UnsupportedModel(f"{path}: rope.scaling.{key} = {str(value)[:40]} is not supported")
    if kind == "none":
        return {}
    factor = positive(path, "rope.scaling.factor", values.get("factor"))
    rope = {"rope_type": kind, "factor": factor}
    if original := values.get("original_context_length"):
        rope["original_max_position_embeddings"] = original
    if kind == "yarn":
        rope |= {
            name: positive(path, f"rope.scaling.{key}", values[key]) for key, name in _YARN.items() if key in values
        }
        if "attn_factor" in values:  # multiplies what is given or follows from the factor
            more = positive(path, "rope.scaling.attn_factor", values["attn_factor"])
            rope["attention_factor"] = more * rope.get("attention_factor", yarn_scale(factor))
    return rope


def _llama3_divisors(rope: dict[str, Any], head_dim: int) -> Tensor:
    """By what Llama 3's scaling divides the inverse frequencies, (head_dim / 2,)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** -exponents / (2 * torch.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    divisors: Tensor = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return divisors
