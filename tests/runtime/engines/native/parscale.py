"""Random ParScale models: a folder as they are published, and the model in plain torch, from the paper's formula."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from plait.tests.runtime.engines.native.helpers import tiny


@dataclass(frozen=True)
class ParScale:
    """transformers' Qwen2 once per lane, with the lane's prefix in its cache before the first token."""

    base: PreTrainedModel
    prefix_k: list[Tensor]
    """Of each layer (P, K, T, D)."""
    prefix_v: list[Tensor]
    inner: nn.Linear
    outer: nn.Linear
    smoothing: float

    @property
    def count(self) -> int:
        return self.outer.out_features

    def prefixes(self, lane: int) -> list[tuple[Tensor, Tensor]]:
        """Of one lane in each layer: (K, T, D) keys and values."""
        return [(k[lane], v[lane]) for k, v in zip(self.prefix_k, self.prefix_v, strict=True)]

    def hidden(self, tokens: Tensor) -> Tensor:
        """(1, n) -> (P, n, C) after the final norm."""
        places = torch.arange(tokens.shape[1])[None]
        lanes = []
        for lane in range(self.count):
            cache = DynamicCache()
            for layer, (k, v) in enumerate(self.prefixes(lane)):
                cache.update(k[None].clone(), v[None].clone(), layer)
            lanes.append(self.base.model(tokens, past_key_values=cache, position_ids=places).last_hidden_state[0])
        return torch.stack(lanes)

    def output(self, hidden: Tensor) -> Tensor:
        """(P, n, C) -> logits (n, V)."""
        rows = []
        for states in hidden.transpose(0, 1):
            features = states.T.flatten()  # the lane varies fastest
            weights = self.outer(nn.functional.silu(self.inner(features))).softmax(0)
            weights = (1 - self.smoothing) * weights + self.smoothing / self.count
            rows.append(sum(weight * state for weight, state in zip(weights, states, strict=True)))
        return self.base.lm_head(torch.stack(rows))

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Any:
        """As transformers' models: (1, n) -> `logits` (1, n, V)."""
        return SimpleNamespace(logits=self.output(self.hidden(tokens))[None])


def parscale(count: int, *, prefix: int = 48, smoothing: float = 0.01, **overrides: Any) -> tuple[ParScale, Path]:
    """A random model of so many lanes, and the folder it was saved to."""
    base, folder = tiny("qwen2", **overrides)
    config = base.config
    size = config.hidden_size // config.num_attention_heads
    shape = count, config.num_key_value_heads, prefix, size
    layers = range(config.num_hidden_layers)
    torch.manual_seed(count)
    model = ParScale(
        base=base,
        prefix_k=[torch.randn(shape) for _ in layers],
        prefix_v=[torch.randn(shape) for _ in layers],
        inner=nn.Linear(count * config.hidden_size, config.hidden_size),
        outer=nn.Linear(config.hidden_size, count),
        smoothing=smoothing,
    )
    nn.init.normal_(model.outer.weight, std=2.0)  # lanes of clearly different weights
    save(model, folder)
    return model, folder


def save(model: ParScale, folder: Path) -> None:
    """Under the published names, over what is in the folder."""
    tensors = load_file(folder / "model.safetensors")
    for layer, (k, v) in enumerate(zip(model.prefix_k, model.prefix_v, strict=True)):
        tensors |= {f"model.layers.{layer}.self_attn.prefix_{name}": part for name, part in (("k", k), ("v", v))}
    for number, linear in ((0, model.inner), (2, model.outer)):
        tensors[f"model.aggregate_layer.{number}.weight"] = linear.weight.detach()
        tensors[f"model.aggregate_layer.{number}.bias"] = linear.bias.detach()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "qwen2_parscale",
        "architectures": ["Qwen2ParScaleForCausalLM"],
        "parscale_n": model.count,
        "parscale_n_tokens": model.prefix_k[0].shape[2],
        "parscale_attn_smooth": model.smoothing,
    }
    (folder / "config.json").write_text(json.dumps(config))
