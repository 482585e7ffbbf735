"""Adapters: what `[lora]` must not say."""

from __future__ import annotations

import contextlib

import pytest
import torch
from transformers import AutoModelForCausalLM

from plait import InvalidInput
from plait.rl.adapters import FROM_DATA, check_adapter, check_modules, check_patterns, lora_config, train_rows
from plait.rl.config import TrainConfig
from plait.tests.runtime.engines.native.helpers import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
"""What peft warns of is its own."""


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"init_lora_weights": "pissa_niter_2"}, 'init_lora_weights: pissa_niter_2: .* "pissa" is exact'),
        *(({"init_lora_weights": one}, f"init_lora_weights: {one}: nothing here looks at data") for one in FROM_DATA),
        ({"eva_config": {"rho": 2.0}}, "eva_config: nothing here looks at data"),
        ({"lora_alpha": 0}, "lora_alpha is 0: it must be above 0"),
        ({"lora_alpha": -8}, "lora_alpha is -8: it must be above 0$"),
        ({"lora_alpha": "8"}, "lora_alpha: '8' is no number"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern: q_proj: None is no number"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern: q_proj is 0: it must be above 0"),
        *(({name: None}, f"{name}: None is no table") for name in ("rank_pattern", "alpha_pattern")),
        ({"alpha_pattern": ["q_proj"]}, r"alpha_pattern: \['q_proj'\] is no table"),
        ({"modules_to_save": "lm_head"}, "modules_to_save: 'lm_head' is no list"),
        ({"modules_to_save": 3}, "modules_to_save: 3 is no list"),
        ({"inference_mode": True}, "inference_mode: nothing would be trained"),
        ({"peft_type": "IA3"}, "peft_type: decided by the training's other fields, or fixed"),
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


EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
"""Two parameters of one module, which is no layer."""


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"modules_to_save": ["norm", "nonsense", "no"]}, "modules_to_save: the model has no nonsense, no$"),
        ({"modules_to_save": [3]}, "endswith"),
        ({"target_parameters": ["nonsense", "eight", "q_proj.weight"]}, "target_parameters: .* no nonsense, eight$"),
        *(
            ({"trainable_token_indices": asked}, f"trainable_token_indices: {message}$")
            for asked, message in (
                ([5, 99999], r"embed_tokens has \S+ rows, from 0 on, and no 99999"),
                ([-1, 2.5, "a", True], "embed_tokens has .* no -1, 2.5, 'a', True"),
                ({"model.embed_tokens": [99999]}, "model.embed_tokens has .* no 99999"),
                ({"embed_tokens": [5], "lm_head": [-1]}, "lm_head has .* no -1"),
                ({"nonsense": [5]}, "the model has no nonsense"),
            )
        ),
        ({"trainable_token_indices": {"norm": [5]}}, ".* no attribute"),
        ({"trainable_token_indices": {"embed_tokens": [0, 5], "lm_head": [5]}}, ""),
        ({"rank_pattern": {"q_proj": 2, "nope": 8}}, "rank_pattern: no layer with an adapter matches nope"),
        ({"alpha_pattern": {"lm_head": 8}}, "alpha_pattern: no layer with an adapter matches lm_head"),
        ({"rank_pattern": {"k_proj": 2}, "target_modules": ["q_proj"]}, "rank_pattern: .* matches k_proj"),
        ({"lora_bias": True}, "it cannot be merged"),
        ({"modules_to_save": ["norm", "model.embed_tokens"]}, ""),
        (
            {
                "rank_pattern": {r"^model\.layers\.0\..*q_proj": 2, "k_proj|v_proj": 4},
                "alpha_pattern": {"down_proj": 1},
            },
            "",
        ),
        ({**EXPERTS, "rank_pattern": {"experts": 2}}, "rank_pattern: .* matches experts"),
        ({**EXPERTS, "rank_pattern": {"experts.gate_up_proj": 2}, "alpha_pattern": {"experts.down_proj": 2}}, ""),
        ({"init_lora_weights": "pissa", "use_dora": True}, ""),
    ],
)
def test_what_holds_for_nothing_in_the_model_is_refused(lora, message):
    from peft import get_peft_model

    given = lora_config(TrainConfig(model="m", lora={"r": 4, **lora}), "CAUSAL_LM")
    model, _ = tiny("qwen3_moe" if "target_parameters" in lora else "llama")
    with pytest.raises(InvalidInput, match=rf"^\[lora\]: {message}") if message else contextlib.nullcontext():
        check_modules(given, model)
        model = get_peft_model(model, given)
        weights = [value.clone() for value in model.parameters()]
        check_patterns(model)
        check_adapter(model)
        assert all(map(torch.equal, weights, model.parameters()))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("asked", "embedding", "head"),
    [
        (None, [7, 8], [7, 8]),
        ([5, 7], [7, 8, 5], [7, 8]),
        ({"embed_tokens": [5]}, [7, 8, 5], [7, 8]),
        ({"model.embed_tokens": [5], "lm_head": [6]}, [7, 8, 5], [7, 8, 6]),
    ],
)
def test_rows_that_are_asked_for_are_trained_beside_those_of_tags(asked, embedding, head, tied):
    given = lora_config(TrainConfig(model="m", lora={"r": 4, "trainable_token_indices": asked}), "CAUSAL_LM")
    model, _ = tiny("llama", tie_word_embeddings=tied)
    train_rows(given, model, [7, 8])
    together = {"embed_tokens": list(dict.fromkeys([*embedding, *head]))}
    assert given.trainable_token_indices == (together if tied else {"embed_tokens": embedding, "lm_head": head})


@pytest.mark.parametrize(
    ("lora", "tags", "message"),
    [
        ({"trainable_token_indices": {"lm_head": [5]}}, [], "trainable_token_indices: lm_head: .* name embed_tokens"),
        ({"trainable_token_indices": {"embed_tokens": [5], "lm_head": [5]}}, [], "trainable_token_indices: lm_head: "),
        ({"trainable_token_indices": {"lm_head": [5]}}, [7], None),
        ({"trainable_token_indices": [5]}, [], None),
        (
            {"trainable_token_indices": [5], "modules_to_save": ["lm_head"]},
            [],
            "modules_to_save: lm_head: .*rows of it",
        ),
        ({"modules_to_save": ["lm_head"]}, [7], "modules_to_save: lm_head: .*rows of it"),
        ({"modules_to_save": ["lm_head"]}, [], None),
    ],
)
def test_rows_of_a_matrix_that_is_two_are_served_as_they_are_trained_or_refused(lora, tags, message, tmp_path):
    from peft import get_peft_model

    given = lora_config(TrainConfig(model="m", lora={"r": 4, **lora}), "CAUSAL_LM")
    model, _ = tiny("llama", tie_word_embeddings=True)
    if tags:
        train_rows(given, model, tags)
    if message is not None:
        with pytest.raises(InvalidInput, match=rf"^\[lora\]: {message}"):
            check_modules(given, model)
        return
    check_modules(given, model)
    model = get_peft_model(model, given)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) / 10
    ids = torch.tensor([[5, 7, 9]])
    trained = model(ids).logits
    model.merge_and_unload().save_pretrained(tmp_path)
    served = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(served(ids).logits, trained, rtol=1e-3, atol=1e-4)


def test_rows_that_are_none_are_one_error():
    given = lora_config(TrainConfig(model="m", lora={"trainable_token_indices": 5}), "CAUSAL_LM")
    with pytest.raises(InvalidInput, match=r"^\[lora\]: "):
        train_rows(given, tiny("llama")[0], [7, 8])
