"""Every kind of RoPE has transformers' frequencies and factors; those that depend on the length keep to a context."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from plait.runtime.engines.native.config import ModelConfig
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import from_transformers, load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.rope import RopeConfig
from plait.runtime.errors import UnsupportedModel
from plait.tests.runtime.engines.native.helpers import FAMILIES, IdTokenizer, Sequences, tiny

HEAD_DIM = 16


def _long(short: float = 1.1, long: float = 3.0, count: int = 8) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": [short + 0.1 * i for i in range(count)],
        "long_factor": [long + 0.2 * i for i in range(count)],
    }


@st.composite
def _ropes(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["default", "linear", "yarn", "llama3", "dynamic", "longrope"]))
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": draw(st.sampled_from([100.0, 1e4, 5e5]))}
    factor = draw(st.sampled_from([1.0, 2.0, 8.0, 40.0]))
    if kind in ("linear", "llama3", "dynamic", "yarn"):
        rope["factor"] = factor
    if kind in ("yarn", "llama3", "longrope"):
        rope["original_max_position_embeddings"] = draw(st.sampled_from([32, 64, 512]))
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
    if kind == "yarn":
        optional: dict[str, Any] = {
            "beta_fast": 16, "beta_slow": 2, "truncate": False, "attention_factor": 0.7, "mscale": 0.7,
            "mscale_all_dim": 1.3,
        }  # fmt: skip
        rope |= {name: value for name, value in optional.items() if draw(st.booleans())}
    if kind == "longrope":
        rope |= _long()
        if draw(st.booleans()):
            rope["factor"] = factor
        if draw(st.booleans()):
            rope["attention_factor"] = 1.2
    return rope


@settings(max_examples=200, deadline=None)
@given(rope=_ropes())
def test_frequencies_and_factors_are_those_of_transformers(rope: dict[str, Any]) -> None:
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=512, rope_parameters=dict(rope))
    expected = LlamaRotaryEmbedding(config)
    for data in (config.to_dict(), {"max_position_embeddings": 512, "rope_scaling": rope}):
        got = RopeConfig.from_hf(data)
        assert torch.equal(got.inv_freq(HEAD_DIM), expected.inv_freq)
        assert got.attention_factor == pytest.approx(expected.attention_scaling, rel=1e-12)


@pytest.mark.parametrize(
    ("rope", "limit", "length"),
    [
        ({"rope_type": "default"}, None, 512),
        ({"rope_type": "linear", "factor": 4.0}, None, 512),
        ({"rope_type": "yarn", "factor": 4.0}, None, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, None, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, None, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, 100, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, 1000, 1000),
        ({"rope_type": "dynamic", "factor": 4.0}, 9000, 2048),
        ({**_long(), "original_max_position_embeddings": 64}, None, 64),
        ({**_long(), "original_max_position_embeddings": 64}, 64, 64),
        ({**_long(), "original_max_position_embeddings": 64}, 65, 512),
    ],
)
def test_context_is_what_is_exact(rope: dict[str, Any], limit: int | None, length: int) -> None:
    data = {
        "model_type": "llama", "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 512, "rope_parameters": rope,
    }  # fmt: skip
    assert ModelConfig.from_hf(data, context_limit=limit).max_context == length


YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {**_long(), "rope_theta": 100.0}
PARTIAL = {**_long(count=6), "rope_theta": 100.0, "partial_rotary_factor": 0.75}
CASES: dict[str, tuple[str, dict[str, Any], int | None, int]] = {
    # family, its config, context limit, tokens
    "yarn": ("llama", {"rope_parameters": YARN}, None, 90),
    "yarn-mscale": ("qwen3", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}}, None, 90),
    "dynamic-inside": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, None, 90),
    "dynamic-beyond": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64},
        90,
        90,
    ),
    "longrope-short": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}, None, 64),
    "longrope-long": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}, 128, 65),
    "phi4-mini-short": ("phi3", {"rope_parameters": PARTIAL, "original_max_position_embeddings": 64}, None, 64),
    "phi4-mini-long": ("phi3", {"rope_parameters": PARTIAL, "original_max_position_embeddings": 64}, 128, 100),
}


@pytest.mark.parametrize("impl", ["torch", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, impl: Any) -> None:
    family, overrides, limit, count = CASES[case]
    hf_model, folder = tiny(family, **overrides)
    document = torch.randint(131, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        expected = hf_model(torch.tensor([document]), use_cache=False).logits[0]
    model = load_model(folder, impl=impl, context_limit=limit)
    assert model.config.max_context >= count
    torch.testing.assert_close(Sequences(model, 1).step([document]), expected, atol=1e-4, rtol=1e-5)
    live = from_transformers(hf_model, context_limit=limit)
    torch.testing.assert_close(Sequences(live, 1).step([document]), expected, atol=1e-4, rtol=1e-5)


def test_partial_factors_are_those_of_phi3() -> None:
    config: Any = tiny("phi3", rope_parameters=PARTIAL, original_max_position_embeddings=64)[0].config
    expected = Phi3RotaryEmbedding(config)
    got = RopeConfig.from_hf(config.to_dict())
    assert torch.equal(got.inv_freq(HEAD_DIM), expected.inv_freq) and len(expected.inv_freq) == 6
    assert got.attention_factor == expected.attention_scaling > 1


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"phi3"}))
def test_a_share_is_refused_where_transformers_leaves_it_out(family: str) -> None:
    config: Any = tiny(family)[0].config.to_dict()
    ropes = config["rope_parameters"]
    for part in (config, *(ropes.values() if family == "gemma3" else [ropes])):
        ModelConfig.from_hf(config)
        part["partial_rotary_factor"] = 1.0
        ModelConfig.from_hf(config)
        part["partial_rotary_factor"] = 0.5
        with pytest.raises(UnsupportedModel, match=r"partial_rotary_factor 0\.5"):
            ModelConfig.from_hf(config)
        del part["partial_rotary_factor"]


def test_an_engine_chooses_by_its_context_limit() -> None:
    folder = tiny("phi3", rope_parameters=LONG, original_max_position_embeddings=64)[1]
    assert NativeEngine(load_model(folder), IdTokenizer(131), NativeOptions(kv_tokens=64)).context_limit == 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plait.runtime.engines.native.engine.load_tokenizer", lambda path: IdTokenizer(131))
        engine = NativeEngine.load(folder, context_limit=100, kv_tokens=64)
    assert engine.context_limit == 100
    assert {layer.rope.factors for layer in engine.model.config.layers if layer.rope} == {tuple(LONG["long_factor"])}
