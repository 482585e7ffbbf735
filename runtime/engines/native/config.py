"""`ModelConfig`: what a Hugging Face config.json says about a decoder, checked and reduced to what the engine needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...errors import InvalidInput, UnsupportedModel
from .config_fields import check_fields
from .families import FAMILIES, BiasRule, Family, rotated_layers, sparse_layers, windows
from .rope import RopeConfig

HEADLESS = ("ForTokenClassification", "ForSequenceClassification", "ForProcessRewardModel", "ForPrmModel")
"""How architectures end that have another head in place of, or beside, an output layer: classifiers, and the process
reward models of Qwen2.5-Math and Skywork-o1."""

MAX_LAYERS, MAX_HEAD = 4096, 1 << 16
"""What a config.json may ask for before its weights have been looked at, which bound all else."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Activation = Literal["silu", "gelu_tanh"]
_ACTIVATIONS: Mapping[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """What layers of one model differ in."""

    rope: RopeConfig | None = RopeConfig()
    """None: positions are not encoded (NoPE)."""
    window: int | None = None
    """A row at position p sees keys at positions above p - window only, as its view places them; None: all."""
    is_sparse: bool = False
    """A mixture of experts in place of the MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts."""

    count: int
    chosen: int
    """For each token."""
    size: int
    """Hidden size of one expert."""
    is_normalized: bool
    """Do the weights of the chosen ones sum to 1?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanesConfig:
    """ParScale (arXiv 2505.10475): a token goes through all lanes, each behind keys and values of its own."""

    count: int
    """P, at least 2."""
    prefix: int
    """Learned keys of a lane, which have no position."""
    smoothing: float
    """Share of the weights that is the same for all lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder of one of the `FAMILIES`."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: tuple[LayerConfig, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    """Positions for which results are exact."""
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
    activation: Activation = "silu"
    attention_scale: float
    """Factor of all scores."""
    attention_cap: float | None = None
    """c: scores s become c * tanh(s / c), as `logit_cap` does with logits."""
    logit_cap: float | None = None
    experts: ExpertsConfig | None = None
    """Of the sparse layers."""
    lanes: LanesConfig | None = None
    """None: there is one, without a prefix."""
    tie_embeddings: bool = False
    """The embedding matrix is also the output matrix."""
    checkpoint_dtype: torch.dtype | None = None
    """What config.json says the weights are stored in; None: it does not say."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_lanes(self) -> int:
        return 1 if self.lanes is None else self.lanes.count

    @property
    def stored_heads(self) -> int:
        """Key/value heads of a token in the KV pool: those of all lanes, lane after lane."""
        return self.num_lanes * self.num_kv_heads

    @property
    def embedding_scale(self) -> float:
        return self.hidden_size**0.5 if self.family.scales_embedding else 1.0

    @property
    def num_parameters(self) -> int:
        """Number of weights, biases and norms left out; a tied embedding counts once."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        sparse = sum(layer.is_sparse for layer in self.layers)
        experts = 0
        if self.experts is not None:
            experts = self.experts.count * self.hidden_size * (3 * self.experts.size + 1)
        tables = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        lanes = 0
        if self.lanes is not None:
            prefixes = 2 * self.num_layers * self.lanes.prefix * self.stored_heads * self.head_dim
            lanes = prefixes + self.lanes.count * self.hidden_size * (self.hidden_size + 1)
        return self.num_layers * attention + (self.num_layers - sparse) * mlp + sparse * experts + tables + lanes

    @classmethod
    def from_hf(
        cls, data: Mapping[str, Any], *, headless: bool = False, context_limit: int | None = None
    ) -> ModelConfig:
        """From the contents of config.json.

        `headless` takes classifiers as well. They have no output layer; the embedding stands in its place, and only
        hidden states mean anything. `context_limit`: positions that will be used, which chooses the frequencies of some
        RoPE types (rope.py) and with them `max_context`; None: what `max_context` then is.

        Raises `UnsupportedModel` (architecture, RoPE type, activation, quantisation: each by its name) or
        `InvalidInput` (a key is missing, or holds what makes no sense).
        """
        check_fields(data)
        family, is_classifier = _family(data, headless)
        data = {**family.defaults, **data}
        activation = data.get(family.activation_key, "silu")
        if activation not in _ACTIVATIONS:
            raise UnsupportedModel(f"activation {activation!r} is not supported; supported: {', '.join(_ACTIVATIONS)}")
        if quantization := data.get("quantization_config"):
            method = quantization.get("quant_method", "unknown")
            raise UnsupportedModel(f"quantised weights ({method}) are not supported; use a bf16 or fp32 checkpoint")
        if data.get("use_bidirectional_attention"):
            raise UnsupportedModel("attention in both directions (use_bidirectional_attention) is not supported")

        heads = _positive(data, "num_attention_heads")
        kv_heads = _positive(data, "num_key_value_heads", heads)
        hidden = _positive(data, "hidden_size")
        head_dim = _positive(data, "head_dim", family.defaults.get("head_dim", hidden // heads), most=MAX_HEAD)
        if heads % kv_heads:
            raise InvalidInput(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads evenly")
        longest = _positive(data, "max_position_embeddings")
        layers = _layers(family, data, _positive(data, "num_hidden_layers", most=MAX_LAYERS), context_limit)
        for rope in {layer.rope for layer in layers if layer.rope is not None}:
            _check_rope(family, rope, head_dim)
        dtype = data.get("dtype") or data.get("torch_dtype")
        width = data["query_pre_attn_scalar"] if family.scales_queries else head_dim
        if width is None:
            raise InvalidInput("config.json: query_pre_attn_scalar must be a positive number, not None")
        return cls(
            family=family,
            vocab_size=_positive(data, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(data, "intermediate_size"),
            layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            max_context=min((layer.rope.length for layer in layers if layer.rope is not None), default=longest),
            rms_norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            qkv_bias=_bias(family.qkv_bias, data, "attention_bias"),
            output_bias=_bias(family.output_bias, data, "attention_bias"),
            mlp_bias=_bias(family.mlp_bias, data, "mlp_bias"),
            activation=_ACTIVATIONS[activation],
            attention_scale=float(width) ** -0.5,
            attention_cap=_cap(data, "attn_logit_softcapping") if family.caps_attention else None,
            logit_cap=_cap(data, "final_logit_softcapping") if family.caps_logits else None,
            experts=_experts(data) if any(layer.is_sparse for layer in layers) else None,
            lanes=_lanes(data, layers) if family.has_lanes else None,
            tie_embeddings=is_classifier or bool(data.get("tie_word_embeddings", False)),
            checkpoint_dtype=dtype if isinstance(dtype, torch.dtype) else _DTYPES.get(str(dtype)),
        )


def _family(data: Mapping[str, Any], headless: bool) -> tuple[Family, bool]:
    """The family, and whether the model is a classifier."""
    kind, named = data.get("model_type"), (data.get("architectures") or [None])[0]
    if kind is None and named is None:
        raise UnsupportedModel("config.json names no architecture: a training's model is in the folder `model` there")
    family = FAMILIES.get(str(kind))
    is_classifier = headless and str(named).endswith(HEADLESS)
    if family is None or not (is_classifier or named in (None, family.architecture)):
        supported = ", ".join(f.architecture for f in FAMILIES.values())
        raise UnsupportedModel(f"architecture {named or kind!r} is not supported; supported: {supported}")
    return family, is_classifier


def _layers(family: Family, data: Mapping[str, Any], count: int, limit: int | None) -> tuple[LayerConfig, ...]:
    has_rope = rotated_layers(family, data, count)
    seen, sparse = windows(family, data, has_rope), sparse_layers(family, data, count)
    if not len(has_rope) == len(seen) == count:
        raise InvalidInput(f"config.json: no_rope_layers or layer_types do not list {count} layers")
    rope, local = _ropes(family, data, limit)
    return tuple(
        LayerConfig(
            rope=None if not rotated else local if window is not None and local is not None else rope,
            window=window,
            is_sparse=has_experts,
        )
        for rotated, window, has_experts in zip(has_rope, seen, sparse, strict=True)
    )


def _ropes(family: Family, data: Mapping[str, Any], limit: int | None) -> tuple[RopeConfig, RopeConfig | None]:
    """RoPE of all layers, or of those that see everything and of those that see a window."""
    if not family.has_local_rope:
        return RopeConfig.from_hf(data, context_limit=limit), None
    nested = data.get("rope_parameters") or {}
    whole = {**data, "rope_parameters": nested.get("full_attention")}
    local = {
        **data,
        "rope_theta": data["rope_local_base_freq"],
        "rope_scaling": None,
        "rope_parameters": nested.get("sliding_attention"),
    }
    return RopeConfig.from_hf(whole, context_limit=limit), RopeConfig.from_hf(local, context_limit=limit)


def _check_rope(family: Family, rope: RopeConfig, head_dim: int) -> None:
    if rope.partial != 1.0 and not family.has_partial_rope:
        raise UnsupportedModel(f"partial_rotary_factor {rope.partial} is not supported for {family.architecture}")
    dim = rope.rotary_dim(head_dim)
    if dim % 2 or not 2 <= dim <= head_dim:
        share = "" if rope.partial == 1.0 else f" of which {rope.partial} are rotated"
        raise InvalidInput(f"config.json: head_dim {head_dim}{share} is odd; rotary embeddings need an even one")
    try:
        if not rope.inv_freq(head_dim).isfinite().all():
            raise ValueError("frequencies that are not finite")
    except InvalidInput:
        raise
    except (ArithmeticError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"config.json: RoPE of type {rope.type!r}: {error}") from None


def _experts(data: Mapping[str, Any]) -> ExpertsConfig:
    # transformers 5 writes num_local_experts for what it calls num_experts.
    count = _positive(data, "num_local_experts" if "num_local_experts" in data else "num_experts")
    chosen = _positive(data, "num_experts_per_tok")
    if chosen > count:
        raise InvalidInput(f"config.json: {chosen} experts per token of {count}")
    return ExpertsConfig(
        count=count,
        chosen=chosen,
        size=_positive(data, "moe_intermediate_size"),
        is_normalized=bool(data.get("norm_topk_prob", False)),
    )


def _lanes(data: Mapping[str, Any], layers: Sequence[LayerConfig]) -> LanesConfig | None:
    count, prefix = _positive(data, "parscale_n"), data["parscale_n_tokens"]
    if count == 1:
        return None
    if type(prefix) is not int or prefix < 0:
        raise InvalidInput(f"config.json: parscale_n_tokens must be an integer from 0 on, not {prefix!r}")
    if any(layer.window is not None for layer in layers):
        raise UnsupportedModel("sliding windows together with ParScale's prefixes are not supported")
    return LanesConfig(count=count, prefix=prefix, smoothing=float(data["parscale_attn_smooth"]))


def _bias(rule: BiasRule, data: Mapping[str, Any], key: str) -> bool:
    return rule == "always" or (rule == "config" and bool(data.get(key, False)))


def _cap(data: Mapping[str, Any], key: str) -> float | None:
    value = data.get(key)
    return None if value is None else float(value)


def _positive(data: Mapping[str, Any], key: str, default: int | None = None, *, most: int = 2**31 - 1) -> int:
    value = data.get(key)
    value = default if value is None else value
    if value is None:
        raise InvalidInput(f"config.json lacks {key!r}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"config.json: {key} must be a positive integer, not {value!r}")
    if value > most:
        raise InvalidInput(f"config.json: {key} is {value}; at most {most} is possible")
    return value
