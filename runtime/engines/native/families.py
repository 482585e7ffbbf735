"""What model families differ in: one line each of `FAMILIES`, read by the one model.

To add a family, add its line; what no line can say yet (another kind of layer) goes into `Family` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import UnsupportedModel

BiasRule = Literal["never", "always", "config"]
"""`config`: where config.json says so (`attention_bias`, `mlp_bias`)."""
SlidingRule = Literal["never", "always", "listed", "qwen", "switch", "alternate", "no_rope"]
"""Which layers see a window of `sliding_window` tokens, if that is set:

always     all of them
listed     those of `layer_types`, or all
qwen       those of `layer_types`, or from `max_window_layers` on; if `use_sliding_window`
switch     all, if `use_sliding_window`
alternate  those of `layer_types`, or all but every `sliding_window_pattern`-th
no_rope    those of `layer_types`, or those without RoPE; if `use_sliding_window`
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorms:
    """Names of a layer's RMS norms; None: there is none."""

    attention: str | None = "input_layernorm"
    """Before attention."""
    attention_out: str | None = None
    """Of attention's result, before it is added."""
    mlp: str | None = "post_attention_layernorm"
    mlp_out: str | None = None


_SANDWICH = LayerNorms(
    attention_out="post_attention_layernorm", mlp="pre_feedforward_layernorm", mlp_out="post_feedforward_layernorm"
)
_AFTER = LayerNorms(
    attention=None, attention_out="post_attention_layernorm", mlp=None, mlp_out="post_feedforward_layernorm"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture. The defaults are Llama's."""

    architecture: str
    norms: LayerNorms = LayerNorms()
    norm_offset: float = 0.0
    """Added to the weights of all norms, those of heads included: 1 for Gemma."""
    qk_norm: Literal["head", "projection"] | None = None
    """RMS norm of queries and keys before rotation: of each head, or of all heads together."""
    qkv_bias: BiasRule = "never"
    output_bias: BiasRule = "never"
    mlp_bias: BiasRule = "never"
    fused: bool = False
    """One tensor for q, k and v, and one for gate and up (Phi-3)."""
    activation_key: str = "hidden_act"
    scales_embedding: bool = False
    """By the root of the hidden size."""
    scales_queries: bool = False
    """By the root of `query_pre_attn_scalar` instead of the head size."""
    caps_attention: bool = False
    """Scores are squashed (`attn_logit_softcapping`), as `caps_logits` says of logits (`final_logit_softcapping`)."""
    caps_logits: bool = False
    sliding: SlidingRule = "never"
    has_no_rope_layers: bool = False
    """`no_rope_layers`, or every `no_rope_layer_interval`-th layer, goes without RoPE."""
    has_partial_rope: bool = False
    """A share of a head's dimensions may be rotated (`partial_rotary_factor`): elsewhere transformers does not read it,
    or fails."""
    has_local_rope: bool = False
    """Layers with a window have a RoPE of their own (`rope_local_base_freq`)."""
    has_experts: bool = False
    has_lanes: bool = False
    """Each token goes through several lanes (`parscale_n`) that are made one before the output layer (ParScale)."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a config.json means that leaves a key out, where that differs from Llama."""


_CONFIG_BIAS: Mapping[str, Any] = {"qkv_bias": "config", "output_bias": "config"}
_GEMMA: Mapping[str, Any] = {
    **_CONFIG_BIAS,
    "norms": _SANDWICH,
    "norm_offset": 1.0,
    "activation_key": "hidden_activation",
    "scales_embedding": True,
    "scales_queries": True,
    "caps_logits": True,
    "sliding": "alternate",
}
_GEMMA_DEFAULTS: Mapping[str, Any] = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(architecture="LlamaForCausalLM", **_CONFIG_BIAS, mlp_bias="config"),
    # With `layer_types`, transformers makes a Mistral of a file a Ministral, and saves it as one.
    "mistral": Family(architecture="MistralForCausalLM", sliding="listed", defaults={"sliding_window": 4096}),
    "ministral": Family(architecture="MinistralForCausalLM", sliding="listed", defaults={"sliding_window": 4096}),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM", qkv_bias="always", sliding="qwen",
        defaults={"sliding_window": 4096, "max_window_layers": 28},
    ),
    "qwen2_parscale": Family(
        architecture="Qwen2ParScaleForCausalLM", qkv_bias="always", sliding="qwen", has_lanes=True,
        defaults={
            "sliding_window": 4096, "max_window_layers": 28,
            "parscale_n": 1, "parscale_n_tokens": 48, "parscale_attn_smooth": 0.01,
        },
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM", **_CONFIG_BIAS, qk_norm="head", sliding="qwen",
        defaults={"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
    ),
    "qwen3_moe": Family(
        architecture="Qwen3MoeForCausalLM", **_CONFIG_BIAS, qk_norm="head", sliding="switch", has_experts=True,
        defaults={
            "sliding_window": 4096, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
            "decoder_sparse_step": 1,
        },
    ),
    "smollm3": Family(
        architecture="SmolLM3ForCausalLM", **_CONFIG_BIAS, mlp_bias="config", sliding="no_rope",
        has_no_rope_layers=True,
        defaults={"rope_theta": 2e6, "tie_word_embeddings": True, "no_rope_layer_interval": 4},
    ),
    "olmo2": Family(
        architecture="Olmo2ForCausalLM", **_CONFIG_BIAS, norms=_AFTER, qk_norm="projection",
        defaults={"rms_norm_eps": 1e-5},
    ),
    "phi3": Family(
        architecture="Phi3ForCausalLM", fused=True, sliding="always", has_partial_rope=True,
        defaults={"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
    ),
    "gemma2": Family(
        architecture="Gemma2ForCausalLM", **_GEMMA, caps_attention=True,
        defaults={
            **_GEMMA_DEFAULTS, "sliding_window_pattern": 2,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3_text": Family(
        architecture="Gemma3ForCausalLM", **_GEMMA, qk_norm="head", has_local_rope=True,
        defaults={
            **_GEMMA_DEFAULTS, "sliding_window_pattern": 6,
            "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        },
    ),
}  # fmt: skip
"""By `model_type`."""


def windows(family: Family, data: Mapping[str, Any], has_rope: Sequence[bool]) -> list[int | None]:
    """How many tokens each layer sees; None: all. `data` has the family's defaults.

    Raises `UnsupportedModel` for layers of another kind.
    """
    layers, window, rule = len(has_rope), data.get("sliding_window"), family.sliding
    kinds = data.get("layer_types")
    for kind in kinds or ():
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedModel(f"layers of type {kind!r} are not supported; supported: full and sliding attention")
    needs_switch = rule in ("qwen", "switch", "no_rope")
    if rule == "never" or not window or (needs_switch and not data.get("use_sliding_window")):
        return [None] * layers
    if rule in ("always", "switch"):
        slides = [True] * layers
    elif kinds is not None:
        slides = [kind == "sliding_attention" for kind in kinds]
    elif rule == "listed":
        slides = [True] * layers
    elif rule == "qwen":
        slides = [i >= (data["max_window_layers"] or 0) for i in range(layers)]
    elif rule == "alternate":
        pattern = data["sliding_window_pattern"] or family.defaults["sliding_window_pattern"]
        slides = [(i + 1) % pattern != 0 for i in range(layers)]
    else:
        slides = [not rotated for rotated in has_rope]
    return [int(window) if slide else None for slide in slides]


def rotated_layers(family: Family, data: Mapping[str, Any], layers: int) -> list[bool]:
    """Which layers have RoPE."""
    if not family.has_no_rope_layers:
        return [True] * layers
    listed = data.get("no_rope_layers")
    if listed is not None:
        return [bool(flag) for flag in listed[:layers]]
    return [(i + 1) % data["no_rope_layer_interval"] != 0 for i in range(layers)]


def sparse_layers(family: Family, data: Mapping[str, Any], layers: int) -> list[bool]:
    """Which layers have experts."""
    if not family.has_experts:
        return [False] * layers
    dense = data.get("mlp_only_layers") or ()
    return [i not in dense and (i + 1) % data["decoder_sparse_step"] == 0 for i in range(layers)]
