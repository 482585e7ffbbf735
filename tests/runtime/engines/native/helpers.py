"""Tiny random models and plans for the tests of the native engine."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from plait.attention import AttentionPlan, Group
from plait.runtime.engines.native.model import Model
from plait.runtime.engines.native.pool import KVPool

FAMILIES = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "ministral": MinistralConfig,
    "qwen3_moe": Qwen3MoeConfig,
    "smollm3": SmolLM3Config,
    "olmo2": Olmo2Config,
    "phi3": Phi3Config,
    "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
}
_SPECIAL = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
_GEMMA = {**_SPECIAL, "head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": 24}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 24},
    "mistral": {"sliding_window": None},
    "ministral": {
        "head_dim": 16, "sliding_window": 24, "num_hidden_layers": 3,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "qwen3_moe": {
        "head_dim": 24, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "mlp_only_layers": [1],
        "num_hidden_layers": 3,
    },
    "smollm3": {**_SPECIAL, "no_rope_layer_interval": 2, "num_hidden_layers": 3},
    "olmo2": _SPECIAL,
    "phi3": _SPECIAL,
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
    "gemma3": {**_GEMMA, "num_hidden_layers": 3, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
}  # fmt: skip
"""What the tiny models of a family have instead of what all have."""

_root = tempfile.TemporaryDirectory(prefix="plait-tests-")
_count = itertools.count()


def tiny(
    family: str = "llama", *, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> tuple[PreTrainedModel, Path]:
    """A random model of a family, and the folder it was saved to.

    The weights are large enough for logits to differ by whole units, and norms and biases are random too, so that a
    comparison of logits can fail. `overrides` are keys of the Hugging Face config.
    """
    shape = {
        "vocab_size": 131,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
    }
    # Capped scores need the plain form: transformers' fast ones leave the cap out.
    attention = "eager" if family == "gemma2" else "sdpa"
    torch.manual_seed(seed)
    config = FAMILIES[family](**{**shape, **SHAPES.get(family, {}), **overrides})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.2 * torch.randn_like(parameter))
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.to(dtype)
    folder = Path(_root.name) / f"{family}-{next(_count)}"
    model.save_pretrained(folder)
    return model, folder


class Sequences:
    """Token sequences that own shuffled blocks of a pool: the least that feeds a `Model`, without an engine."""

    def __init__(
        self, model: Model, count: int, *, block_size: int = 16, max_tokens: int = 256, seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        """`dtype`: of keys and values; None: the model's."""
        self.model = model
        blocks = -(-max_tokens // block_size)
        self.pool = KVPool(
            model.config, count * blocks, block_size, dtype or model.dtype, model.device, model.key_ranges
        )
        order = np.random.default_rng(seed).permutation(count * blocks).astype(np.int32)
        self._blocks = order.reshape(count, blocks)
        self.lengths = [0] * count

    def step(self, tokens: Sequence[Sequence[int]], logit_rows: list[int] | None = None) -> torch.Tensor:
        """Append `tokens[i]` to sequence i, for all at once; logits (rows, V), sequence after sequence."""
        return self.forward(tokens, logit_rows)[0]

    def forward(
        self, tokens: Sequence[Sequence[int]], logit_rows: list[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `step`, with the hidden states."""
        size = self.pool.block_size
        entries: list[tuple[int, ...]] = []
        positions: list[int] = []
        slots: list[int] = []
        row = 0
        for index, new in enumerate(tokens):
            begin = self.lengths[index]
            end = begin + len(new)
            if new:
                entries.append((row, len(new), index, 0, end, 1, 0, 0))
            positions += range(begin, end)
            slots += [int(self._blocks[index, t // size]) * size + t % size for t in range(begin, end)]
            self.lengths[index] = end
            row += len(new)
        plan = AttentionPlan(
            num_rows=row,
            run_blocks=np.ascontiguousarray(self._blocks.reshape(-1)),
            run_start=np.arange(len(tokens) + 1, dtype=np.int32) * self._blocks.shape[1],
            entries=np.array(entries, dtype=np.int32).reshape(-1, 8),
            groups=(Group(),),
        )
        device = self.model.device
        return self.model.forward(
            torch.tensor([t for new in tokens for t in new], device=device),
            torch.tensor(positions, device=device),
            torch.tensor(slots, device=device),
            plan,
            self.pool,
            None if logit_rows is None else torch.tensor(logit_rows, dtype=torch.int64, device=device),
        )


class IdTokenizer:
    """Text of token t is "t."; for models without a tokenizer."""

    prefix_ids: tuple[int, ...] = ()
    byte_ids: frozenset[int] = frozenset()
    tool_marks: tuple[str, str] | None = None
    bos_id = None

    def __init__(self, vocab_size: int, eos_ids: tuple[int, ...] = ()) -> None:
        self.vocab_size = vocab_size
        self.eos_ids = eos_ids

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        return self.encode(text)

    def check_fits(self, size: int, source: object) -> None:
        """Ids are what they are."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split(".") if word]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(f"{token}." for token in token_ids)

    def chat(self, messages: Sequence[Any], tools: Sequence[Any] = ()) -> list[int]:
        raise NotImplementedError
