"""Random weights of real models' shapes, made on the device: no checkpoint is needed to know how long a step takes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...attention import Impl
from ...runtime.engines.native.assembly import assemble
from ...runtime.engines.native.config import ModelConfig
from ...runtime.engines.native.loader import build_model
from ...runtime.engines.native.model import Model
from ...runtime.engines.native.segment import Segment
from ...runtime.engines.native.view import View

Get = Callable[[str], Tensor]
"""A tensor by its Hugging Face name; `KeyError` for an unknown one."""


def _qwen2(hidden: int, middle: int, layers: int, heads: int, kv_heads: int, is_tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": hidden, "intermediate_size": middle,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": is_tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip


def _qwen3(hidden: int, middle: int, is_tied: bool) -> dict[str, Any]:
    shape = _qwen2(hidden, middle, 36, 32, 8, is_tied)
    return {**shape, "model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 40960}


def _llama3(hidden: int, middle: int, layers: int, size: int, factor: float, is_tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": hidden, "intermediate_size": middle,
        "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": size,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": is_tied,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    }  # fmt: skip


SHAPES: Mapping[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": _qwen2(896, 4864, 24, 14, 2, True),
    "Llama-3.2-1B": _llama3(2048, 8192, 16, 64, 32.0, True),
    "Qwen3-4B": _qwen3(2560, 9728, True),
    "Llama-3.1-8B": _llama3(4096, 14336, 32, 128, 8.0, False),
    "Qwen3-8B": _qwen3(4096, 12288, False),
    "tiny": {
        **_qwen3(64, 96, True),
        **{
            "vocab_size": 131,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
    },
}
"""What the published config.json of each says; "tiny" is for dry runs."""


def random_tensors(
    data: Mapping[str, Any], device: torch.device, dtype: torch.dtype, *, std: float = 0.02, seed: int = 0
) -> Get:
    """Weights of the model that `data` (a config.json) describes: norms are 1, everything else is normal. The same name
    gives the same numbers on the same kind of device."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in _transformers(data, torch.float32).state_dict().items()}

    def get(name: str) -> Tensor:
        tensor = torch.empty(shapes[name], device=device, dtype=dtype)
        if name.endswith("norm.weight"):
            return tensor.fill_(1.0)
        generator = torch.Generator(device).manual_seed(seed + zlib.crc32(name.encode()))
        return tensor.normal_(std=std, generator=generator)

    return get


def native_model(data: Mapping[str, Any], get: Get, impl: Impl = "auto", *, is_invariant: bool = True) -> Model:
    config = ModelConfig.from_hf(data)
    return build_model(config, assemble(config, get, "random weights"), impl=impl, is_invariant=is_invariant)


def random_model(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Model:
    """A model of one of the `SHAPES`."""
    return native_model(SHAPES[name], random_tensors(SHAPES[name], device, dtype))


def transformers_model(data: Mapping[str, Any], get: Get, device: torch.device, dtype: torch.dtype) -> Any:
    """The same weights in transformers' model, with SDPA."""
    with torch.device(device):
        model = _transformers(data, dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(get(name))
    return model


def _transformers(data: Mapping[str, Any], dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**data)
    build: Any = AutoModelForCausalLM.from_config
    return build(config, dtype=dtype, attn_implementation="sdpa")


def read_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of the weights that a decode step reads: all, but of an embedding that is not the output matrix some rows."""
    unread = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    return (config.num_parameters - unread) * dtype.itemsize


def token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of the keys and values of one token over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def own_segment(branch: Any) -> Segment:
    """What a native branch writes to."""
    view: View = branch.view
    return view.open_segment()
