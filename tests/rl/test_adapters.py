"""Adapters: what `[lora]` must not say."""

from __future__ import annotations

import pytest

from plait import InvalidInput
from plait.rl.adapters import lora_config
from plait.rl.config import TrainConfig


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"init_lora_weights": "pissa_niter_2"}, 'init_lora_weights: pissa_niter_2: .* "pissa" is exact'),
        ({"inference_mode": True}, "inference_mode: nothing would be trained"),
    ],
)
def test_arguments_that_no_training_can_have_are_refused(lora, message):
    with pytest.raises(InvalidInput, match=rf"^\[lora\]: {message}"):
        lora_config(TrainConfig(model="m", lora=lora), "CAUSAL_LM")


@pytest.mark.parametrize(
    "lora",
    [
        {"inference_mode": False},
        {"init_lora_weights": "pissa"},
        {"alora_invocation_tokens": None},
        {"layer_replication": None},
    ],
)
def test_what_peft_does_anyway_may_be_said(lora):
    assert lora_config(TrainConfig(model="m", lora=lora), "CAUSAL_LM") is not None
