"""The Llama architecture in plain torch, small enough to train on one thread; `to_hf` uses transformers' names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ...runtime.methods.apr import compact as lang
from .tokenizer import BOS, IDS, PAD, VOCABULARY
from .traces import EOS

PERIODS = (2, 3, 5, 7, 9, 10, 11, 13, 20, 25, 50, 100, 200, 500, 1000)
"""Sums and differences of numbers are rotations of features of these periods."""
_FEATURE_SCALE = 0.12
_EMBEDDING_STD = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of the network; by default that of the Countdown model."""

    hidden: int = 192
    layers: int = 4
    heads: int = 4
    intermediate: int = 576
    vocabulary: int = len(VOCABULARY)
    max_positions: int = 4096
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    bos_id: int = IDS[BOS]
    eos_id: int = IDS[EOS]
    pad_id: int = IDS[PAD]

    def to_hf(self) -> dict[str, Any]:
        """The fields of transformers' `LlamaConfig`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.hidden // self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_id,
            "pad_token_id": self.pad_id,
            "dtype": "bfloat16",
        }


def number_features() -> Tensor:
    """[numbers, features] of unit scale: place on circles of several periods, size on linear and logarithmic scales."""
    n = torch.arange(lang.CAP + 1, dtype=torch.float32)
    columns = [f(2 * math.pi * n / period) for period in PERIODS for f in (torch.cos, torch.sin)]
    log = torch.log1p(n) / math.log(lang.CAP + 1)
    columns += [log * 2 - 1, n / 500 - 1]
    # Products add logarithms: coarse and fine circles over log n.
    columns += [f(2 * math.pi * log * k) for k in (1, 3, 9) for f in (torch.cos, torch.sin)]
    return torch.stack(columns, dim=1)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None = None) -> Tensor:
    """Attention where the mask allows it (bool, broadcast to [batch, heads, time, time]); None: causal.

    Written out where it is short and on the CPU: torch's own CPU kernel takes several times as long in the backward
    pass of many short sequences.
    """
    if isinstance(mask, BlockMask):
        mixed = flex_attention(q, k, v, block_mask=mask)
        assert isinstance(mixed, Tensor)
        return mixed
    if mask is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    t = q.shape[-2]
    if q.device.type != "cpu" or t > 768:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    future = torch.full((t, t), -torch.inf, dtype=q.dtype).triu(1)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)) + future
    return torch.matmul(torch.softmax(scores, -1, dtype=q.dtype), v)


def token_losses(hidden: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label; 0 where it is `batch.IGNORED`, which is torch's own mark."""
    return F.cross_entropy(F.linear(hidden, embedding).float(), labels, reduction="none")


class Block(nn.Module):
    """Attention and SwiGLU, each behind an RMS norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.eps = config.heads, config.norm_eps
        hidden, wide = config.hidden, config.intermediate
        self.norm1 = nn.Parameter(torch.ones(hidden))
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.norm2 = nn.Parameter(torch.ones(hidden))
        self.gate_up = nn.Linear(hidden, 2 * wide, bias=False)
        self.down = nn.Linear(wide, hidden, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [batch, heads, time, size], rotated to their positions."""
        b, t, c = x.shape
        qkv: Tensor = self.qkv(F.rms_norm(x, (c,), self.norm1, self.eps)).view(b, t, 3, self.heads, c // self.heads)
        first, second = qkv[:, :, :2].chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        q, k = turned.to(qkv.dtype).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block, behind attention."""
        x = x + F.linear(mixed.transpose(1, 2).reshape(x.shape), self.out.weight)
        gate, up = self.gate_up(F.rms_norm(x, x.shape[-1:], self.norm2, self.eps)).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down.weight)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
        return self.finish(x, attention(*self.project(x, cos, sin), mask))


class Model(nn.Module):
    """A causal language model with tied embeddings."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.vocabulary, config.hidden) * _EMBEDDING_STD)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.hidden))
        size = config.hidden // config.heads
        angles = torch.outer(
            torch.arange(config.max_positions), config.rope_theta ** (-torch.arange(0, size, 2).float() / size)
        )
        angles = angles[:, None, None, :]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._token_losses: Callable[[Tensor, Tensor, Tensor], Tensor] = token_losses
        self._initialise()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile what takes the time, for `token_losses` on inputs of one shape: all blocks share what one compiled.
        The options are those of `torch.compile`."""
        options = {"fullgraph": True, "dynamic": False, **options}
        for block in self.blocks:
            block.compile(*args, **options)
        self._token_losses = torch.compile(token_losses, *args, **options)

    @torch.no_grad()
    def _initialise(self) -> None:
        features = number_features()
        self.embedding[: len(features), : features.shape[1]] = features * _FEATURE_SCALE
        for name, weight in self.blocks.named_parameters():
            if weight.dim() == 2:
                std = self.config.hidden**-0.5 * 0.6
                if name.endswith(("out.weight", "down.weight")):
                    std /= math.sqrt(2 * self.config.layers)
                weight.normal_(std=std)

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | BlockMask | None = None
    ) -> Tensor:
        """Hidden states after the last norm, [batch, time, hidden]; see `Batch` for positions and mask."""
        # Not by an index: its gradient is slow on a GPU where tokens repeat.
        x = F.embedding(tokens, self.embedding)
        at = slice(tokens.shape[1]) if positions is None else positions
        cos, sin = self.cos[at], self.sin[at]
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.final(x)

    def final(self, x: Tensor) -> Tensor:
        """The norm in front of the output layer."""
        return F.rms_norm(x, (self.config.hidden,), self.norm, self.config.norm_eps)

    def loss(
        self, tokens: Tensor, labels: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Summed cross-entropy over the labels that are not masked."""
        keep = labels.flatten() >= 0
        hidden = self(tokens, positions, mask).flatten(0, 1)[keep]
        return F.cross_entropy(F.linear(hidden, self.embedding).float(), labels.flatten()[keep], reduction="sum")

    def token_losses(
        self, tokens: Tensor, labels: Tensor, positions: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """Cross-entropy of every label, [batch * time]: unlike in `loss`, shapes never depend on values."""
        hidden = self(tokens, positions, mask).flatten(0, 1)
        return self._token_losses(hidden, self.embedding, labels.flatten())

    def to_hf(self) -> dict[str, Tensor]:
        """Weights under transformers' names, bfloat16."""
        weights: dict[str, Tensor] = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            at = f"model.layers.{i}"
            q, k, v = block.qkv.weight.chunk(3)
            gate, up = block.gate_up.weight.chunk(2)
            weights |= {
                f"{at}.input_layernorm.weight": block.norm1,
                f"{at}.self_attn.q_proj.weight": q,
                f"{at}.self_attn.k_proj.weight": k,
                f"{at}.self_attn.v_proj.weight": v,
                f"{at}.self_attn.o_proj.weight": block.out.weight,
                f"{at}.post_attention_layernorm.weight": block.norm2,
                f"{at}.mlp.gate_proj.weight": gate,
                f"{at}.mlp.up_proj.weight": up,
                f"{at}.mlp.down_proj.weight": block.down.weight,
            }
        return {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in weights.items()}

    @torch.no_grad()
    def load_hf(self, weights: Mapping[str, Tensor]) -> None:
        """Take over weights that `to_hf` named."""
        self.embedding.copy_(weights["model.embed_tokens.weight"])
        self.norm.copy_(weights["model.norm.weight"])
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            at = f"model.layers.{i}"
            block.norm1.copy_(weights[f"{at}.input_layernorm.weight"])
            block.norm2.copy_(weights[f"{at}.post_attention_layernorm.weight"])
            block.qkv.weight.copy_(torch.cat([weights[f"{at}.self_attn.{x}_proj.weight"] for x in "qkv"]))
            block.out.weight.copy_(weights[f"{at}.self_attn.o_proj.weight"])
            block.gate_up.weight.copy_(torch.cat([weights[f"{at}.mlp.{x}_proj.weight"] for x in ("gate", "up")]))
            block.down.weight.copy_(weights[f"{at}.mlp.down_proj.weight"])
