"""Tiny GGUF files, written by the `gguf` package from Hugging Face models: what llama.cpp's converter would make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants
from gguf.constants import MODEL_ARCH_NAMES
from transformers import PreTrainedModel

TYPES = GGMLQuantizationType


def paired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head in the order 0, D/2, 1, D/2 + 1, ...: llama.cpp's, by hand."""
    size = len(weight) // heads
    order = [h * size + i + half for h in range(heads) for i in range(size // 2) for half in (0, size // 2)]
    return weight[order]


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    type: TYPES = TYPES.F32,
    tokenizer: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    leave_out: Sequence[str] = (),
) -> Path:
    """Write a model, its matrices quantised, and put what the file then holds into the model.

    `tokenizer`: keys behind `tokenizer.`; `metadata`: keys that replace the converter's, None to leave one out.
    """
    config = model.config
    arch = "llama" if config.model_type == "mistral" else config.model_type
    writer = GGUFWriter(path, arch)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    values: dict[str, Any] = {
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    if arch == "qwen3":
        values[f"{arch}.attention.key_length"] = config.head_dim
    for key, value in {**values, **(metadata or {})}.items():
        _add(writer, key, value)
    for key, value in (tokenizer or {}).items():
        _add(writer, f"tokenizer.{key}", value)
    number = next(k for k, name in MODEL_ARCH_NAMES.items() if name == arch)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, parameter in model.state_dict().items():
        if name in leave_out or (tied and name == "lm_head.weight"):
            continue
        base, _, suffix = name.rpartition(".")
        stored = parameter.float()
        if arch == "llama" and base.endswith(("q_proj", "k_proj")):
            stored = paired(stored, heads if base.endswith("q_proj") else kv_heads)
        kind = type if parameter.ndim > 1 else TYPES.F32
        data = quants.quantize(stored.numpy(), kind)
        writer.add_tensor(f"{names.get_name(base)}.{suffix}", data, raw_dtype=kind)
        kept = torch.from_numpy(quants.dequantize(data, kind).reshape(parameter.shape).copy())
        if arch == "llama" and base.endswith(("q_proj", "k_proj")):
            count = heads if base.endswith("q_proj") else kv_heads
            kept = kept[torch.argsort(paired(torch.arange(len(kept)), count))]
        parameter.copy_(kept)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))


def bpe_keys(tokenizer_json: str, *, pre: str, special: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """The keys of a byte-level tokenizer, out of its tokenizer.json."""
    data = json.loads(tokenizer_json)
    vocabulary = {**data["model"]["vocab"], **{token["content"]: token["id"] for token in data["added_tokens"]}}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": tokens,
        "ggml.token_type": [3 if token in special else 1 for token in tokens],
        "ggml.merges": merges,
        **more,
    }
