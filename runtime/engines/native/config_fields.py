"""What the keys of config.json that are read may hold; those of other programs are left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import InvalidInput
from ...mistakes import mistakes

Whole = Annotated[int, Field(ge=0, lt=2**31)]
Step = Annotated[int, Field(ge=1, lt=2**31)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rope = dict[str, str | bool | Number | list[Number] | None]


class ConfigFields(BaseModel):
    """Types of the keys, None where one is left out. The positive integers that every model has are checked where they
    are read (`ModelConfig.from_hf`)."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model_type: str | None = None
    architectures: list[str] | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None
    quantization_config: dict[str, Any] | None = None
    use_bidirectional_attention: bool | None = None
    original_max_position_embeddings: Step | None = None
    rms_norm_eps: Annotated[float, Field(ge=0, lt=1)] = 1e-6
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    tie_word_embeddings: bool | None = None
    query_pre_attn_scalar: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    sliding_window: Whole | None = None
    sliding_window_pattern: Step | None = None
    use_sliding_window: bool | None = None
    max_window_layers: Whole | None = None
    layer_types: list[str] | None = None
    no_rope_layers: list[int | bool] | None = None
    no_rope_layer_interval: Step = 1
    mlp_only_layers: list[int] | None = None
    decoder_sparse_step: Step = 1
    norm_topk_prob: bool | None = None
    rope_theta: Positive | None = None
    rope_local_base_freq: Positive | None = None
    partial_rotary_factor: Positive | None = None
    rope_scaling: Rope | None = None
    rope_parameters: Rope | dict[str, Rope | None] | None = None
    parscale_attn_smooth: Annotated[float, Field(ge=0, le=1)] = 0.0


def check_fields(data: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` that names the first key that holds what makes no sense."""
    try:
        ConfigFields.model_validate(dict(data))
    except ValidationError as error:
        where, what = mistakes(error)[0]
        raise InvalidInput(f"config.json: {where.partition('.')[0]}: {what}") from None
