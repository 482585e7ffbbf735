"""Which tensors of GGUF files make a model: a tensor that is not read, or comes twice, would make another one.

Names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from gguf import GGUFReader, ReaderTensor

from ...errors import InvalidInput, UnsupportedModel
from .families import Family

_QKV = ("attn_q", "attn_k", "attn_v")
ATTENTION, MLP = (*_QKV, "attn_output"), ("ffn_gate", "ffn_up", "ffn_down")
"""The linear layers whose biases one switch of a config.json stands for."""
_WEIGHT = ("weight", "scale", "input_scale")
"""A weight, what multiplies it, and what may multiply its inputs where these are quantised, which they are not here."""
_OUTSIDE = {f"{name}.{suffix}" for name in ("token_embd", "output") for suffix in _WEIGHT}
_OUTSIDE |= {"output_norm.weight", "rope_freqs.weight"}
_LAYER = re.compile(r"blk\.(\d{1,9})\.(.+)")
_BIAS = re.compile(r"blk\.\d+\.(\w+)\.bias")


def joined(parts: Iterable[GGUFReader], path: Path) -> dict[str, ReaderTensor]:
    """The tensors of all parts by name. Raises `InvalidInput` for one that two of them hold."""
    found: dict[str, ReaderTensor] = {}
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in found:
                raise InvalidInput(f"{path}: two parts of the split model hold the tensor {tensor.name[:80]!r}")
            found[tensor.name] = tensor
    return found


def biased(names: Iterable[str]) -> set[str]:
    """The linear layers that have a bias, in one layer of the model or more."""
    return {found[1] for found in map(_BIAS.fullmatch, names) if found is not None}


def check_all_read(names: Iterable[str], family: Family, num_layers: int, path: Path) -> None:
    """Raise `UnsupportedModel` for a tensor that a model of this family and size has no use for."""
    rules = {**dict.fromkeys(_QKV, family.qkv_bias), "attn_output": family.output_bias}
    rules |= dict.fromkeys(MLP, family.mlp_bias)
    in_layers = {f"{name}.{suffix}" for name in rules for suffix in _WEIGHT}
    in_layers |= {f"{name}.bias" for name, rule in rules.items() if rule != "never"}
    in_layers |= {"attn_norm.weight", "ffn_norm.weight"}
    if family.qk_norm is not None:
        in_layers |= {"attn_q_norm.weight", "attn_k_norm.weight"}
    for name in names:
        found = _LAYER.fullmatch(name)
        if name not in _OUTSIDE if found is None else int(found[1]) >= num_layers or found[2] not in in_layers:
            raise UnsupportedModel(
                f"{path} holds the tensor {name[:80]!r}, which a {family.architecture} of {num_layers} layers has not"
            )
