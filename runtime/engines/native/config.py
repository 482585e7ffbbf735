"""`ModelConfig`: what a Hugging Face config.json says about a decoder, checked and reduced to what the engine needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from ...errors import InvalidInput, UnsupportedModel

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: which inverse frequencies a head uses."""

    type: Literal["default", "linear", "llama3"] = "default"
    theta: float = 10000.0
    factor: float = 1.0
    """Context extension factor of "linear" and "llama3"."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    """Context length before extension; only "llama3" uses it."""

    @classmethod
    def from_hf(cls, data: Mapping[str, Any]) -> RopeConfig:
        """Reads `rope_parameters` (transformers 5) or top-level `rope_theta` and `rope_scaling` (older files).

        Raises `UnsupportedModel` for a RoPE type that is not implemented.
        """
        rope = {**(data.get("rope_scaling") or {}), **(data.get("rope_parameters") or {})}
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind not in ("default", "linear", "llama3"):
            raise UnsupportedModel(f"RoPE type {kind!r} is not supported; supported: default, linear, llama3")
        if (rope.get("partial_rotary_factor") or data.get("partial_rotary_factor") or 1.0) != 1.0:
            raise UnsupportedModel("partial rotary embeddings (partial_rotary_factor below 1) are not supported")
        try:
            return cls(
                type=cast(Literal["default", "linear", "llama3"], kind),
                theta=float(rope.get("rope_theta") or data.get("rope_theta") or 10000.0),
                factor=float(rope["factor"]) if kind != "default" else 1.0,
                low_freq_factor=float(rope["low_freq_factor"]) if kind == "llama3" else 1.0,
                high_freq_factor=float(rope["high_freq_factor"]) if kind == "llama3" else 4.0,
                original_max_positions=int(
                    rope.get("original_max_position_embeddings") or data.get("max_position_embeddings") or 8192
                ),
            )
        except KeyError as error:
            raise InvalidInput(f"config.json: RoPE type {kind!r} needs {error.args[0]!r}") from None

    def inv_freq(self, head_dim: int) -> torch.Tensor:
        """Radians per position, (head_dim / 2,) float32, computed in the same order of operations as transformers."""
        freq = 1.0 / (self.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
        if self.type == "linear":
            return freq / self.factor
        if self.type == "llama3":
            wavelength = 2 * math.pi / freq
            longest = self.original_max_positions / self.low_freq_factor
            shortest = self.original_max_positions / self.high_freq_factor
            smooth = (self.original_max_positions / wavelength - self.low_freq_factor) / (
                self.high_freq_factor - self.low_freq_factor
            )
            scaled = torch.where(wavelength > longest, freq / self.factor, freq)
            between = (wavelength <= longest) & (wavelength >= shortest)
            return torch.where(between, (1 - smooth) * scaled / self.factor + smooth * scaled, scaled)
        return freq


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder of the Llama, Qwen2, Qwen3 or Mistral family."""

    family: Literal["llama", "qwen2", "qwen3", "mistral"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    """Positions for which results are exact: `max_position_embeddings`, or the sliding window where that is shorter
    (inside one window, sliding attention *is* full attention)."""
    rms_norm_eps: float = 1e-6
    rope: RopeConfig = RopeConfig()
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS norm over each query and key head before rotation (Qwen3)."""
    tie_embeddings: bool = False
    """The embedding matrix is also the output matrix."""
    checkpoint_dtype: torch.dtype | None = None
    """What config.json says the weights are stored in; None: it does not say."""

    @property
    def num_parameters(self) -> int:
        """Number of weights, biases left out; a tied embedding counts once."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        tables = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * (attention + mlp) + tables

    @classmethod
    def from_hf(cls, data: Mapping[str, Any], *, headless: bool = False) -> ModelConfig:
        """From the contents of config.json.

        `headless` takes classifiers as well. They have no output layer; the embedding stands in its place, and only
        hidden states mean anything.

        Raises `UnsupportedModel` (architecture, RoPE type, activation, quantisation: each by its name) or
        `InvalidInput` (a key is missing, or holds what makes no sense).
        """
        family = data.get("model_type")
        named = (data.get("architectures") or [None])[0]
        is_classifier = headless and str(named).endswith(("ForTokenClassification", "ForSequenceClassification"))
        if family not in _ARCHITECTURES or not (is_classifier or named in (None, _ARCHITECTURES[family])):
            raise UnsupportedModel(
                f"architecture {named or family!r} is not supported; supported: {', '.join(_ARCHITECTURES.values())}"
            )
        activation = data.get("hidden_act", "silu")
        if activation not in ("silu", "swish"):
            raise UnsupportedModel(f"activation {activation!r} is not supported; supported: silu")
        if quantization := data.get("quantization_config"):
            method = quantization.get("quant_method", "unknown")
            raise UnsupportedModel(f"quantised weights ({method}) are not supported; use a bf16 or fp32 checkpoint")

        heads = _positive(data, "num_attention_heads")
        kv_heads = _positive(data, "num_key_value_heads", heads)
        hidden = _positive(data, "hidden_size")
        # A Qwen3 file that leaves head_dim out means 128, the others the even share of the hidden size.
        head_dim = _positive(data, "head_dim", 128 if family == "qwen3" else hidden // heads)
        if heads % kv_heads:
            raise InvalidInput(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads evenly")
        if head_dim % 2:
            raise InvalidInput(f"config.json: head_dim {head_dim} is odd; rotary embeddings need an even one")
        attention_bias = bool(data.get("attention_bias", False)) and family in ("llama", "qwen3")
        dtype = data.get("dtype") or data.get("torch_dtype")
        return cls(
            family=cast(Literal["llama", "qwen2", "qwen3", "mistral"], family),
            vocab_size=_positive(data, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(data, "intermediate_size"),
            num_layers=_positive(data, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            max_context=min(_positive(data, "max_position_embeddings"), _sliding_window(data, family)),
            rms_norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            rope=RopeConfig.from_hf(data),
            qkv_bias=family == "qwen2" or attention_bias,
            output_bias=attention_bias,
            mlp_bias=bool(data.get("mlp_bias", False)) and family == "llama",
            qk_norm=family == "qwen3",
            tie_embeddings=is_classifier or bool(data.get("tie_word_embeddings", False)),
            checkpoint_dtype=dtype if isinstance(dtype, torch.dtype) else _DTYPES.get(str(dtype)),
        )


def _positive(data: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = data.get(key)
    value = default if value is None else value
    if value is None:
        raise InvalidInput(f"config.json lacks {key!r}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"config.json: {key} must be a positive integer, not {value!r}")
    return value


def _sliding_window(data: Mapping[str, Any], family: str) -> int:
    """Window of the layers that slide; a number beyond any context if none does."""
    if family == "mistral":
        # transformers' own default where the file is silent; null switches the window off.
        active = True
        window = data.get("sliding_window", 4096)
    else:
        full_layers = data.get("max_window_layers") or 0
        kinds = data.get("layer_types") or ["sliding_attention"] * (data.get("num_hidden_layers", 0) - full_layers)
        active = family != "llama" and data.get("use_sliding_window", False) and "sliding_attention" in kinds
        window = data.get("sliding_window")
    return cast(int, window) if active and window else 2**62
