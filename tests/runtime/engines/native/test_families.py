"""Every family decodes what transformers decodes, through the whole engine."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native import ops
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.families import FAMILIES as TABLE
from plait.runtime.engines.native.loader import from_transformers, load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.errors import InvalidInput
from plait.tests.runtime.engines.native.helpers import FAMILIES, IdTokenizer, Sequences, tiny

LONG = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "short_factor": [1.1] * 6,
        "long_factor": [3.0] * 6,
        "partial_rotary_factor": 0.75,
    },
    "original_max_position_embeddings": 64,
}
GREEDY: dict[str, tuple[str, dict[str, Any]]] = {
    # Tied, scaled embeddings of random models repeat the last token for ever.
    **{family: (family, {"tie_word_embeddings": False}) for family in FAMILIES},
    "mistral-window": ("mistral", {"sliding_window": 50}),
    "phi4-mini": ("phi3", {**LONG, "sliding_window": 60}),
}


@pytest.mark.parametrize("case", GREEDY)
async def test_greedy_tokens_are_those_of_transformers(case: str) -> None:
    """200 tokens: each is the likeliest one in one forward pass of transformers over all of them."""
    family, overrides = GREEDY[case]
    hf_model, folder = tiny(family, **overrides)
    prompt = torch.randint(131, (33,), generator=torch.Generator().manual_seed(5)).tolist()
    engine = NativeEngine(load_model(folder, context_limit=512), IdTokenizer(131), NativeOptions(kv_tokens=512))
    await engine.start()
    branch = engine.open(prompt)
    tokens = (await branch.generate(SamplingParams(max_tokens=200))).token_ids
    await engine.close()
    assert len(set(tokens)) > 5
    with torch.no_grad():
        logits = hf_model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, 32:-1]
    assert logits.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None)
@given(kinds=st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=3, max_size=3) | st.none())
def test_listed_layers_have_the_window_where_transformers_has_it(family: str, kinds: list[str] | None) -> None:
    """Some families read `layer_types`, some do not; Mistral's are another architecture with it."""
    folder = tiny(family, num_hidden_layers=3)[1]
    file = folder / "config.json"
    window = {"sliding_window": 8, "use_sliding_window": True, "layer_types": kinds}
    file.write_text(json.dumps({**json.loads(file.read_text()), **window}))
    hf_model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    document = torch.randint(131, (40,), generator=torch.Generator().manual_seed(5)).tolist()
    with torch.no_grad():
        expected = hf_model(torch.tensor([document]), use_cache=False).logits[0]
    torch.testing.assert_close(Sequences(load_model(folder), 1).step([document]), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif("PLAIT_REAL_MODELS" not in os.environ, reason="PLAIT_REAL_MODELS names no folder of models")
def test_real_models_have_the_logits_of_transformers() -> None:
    folders = [path.parent for path in sorted(Path(os.environ["PLAIT_REAL_MODELS"]).glob("*/config.json"))]
    smallest = [folder for folder in folders if (folder / "model.safetensors").stat().st_size < 1.5e9]
    if not smallest:
        pytest.skip("no small model in PLAIT_REAL_MODELS")
    document = [(37 * i * i + 11) % 40000 for i in range(120)]
    for folder in smallest:
        hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            expected = hf_model(torch.tensor([document])).logits[0]
        del hf_model
        got = Sequences(load_model(folder, dtype=torch.float32), 1).step([document])
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_live_models_follow_their_parameters(family: str) -> None:
    """What an optimizer changes in place, fused projections and experts included, the next forward uses."""
    hf_model, _ = tiny(family)
    model, document = from_transformers(hf_model), [[3, 1, 4, 1, 5, 9, 2, 6] * 4]
    before = Sequences(model, 1).step(document)
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        expected = hf_model(torch.tensor(document)).logits[0]
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(Sequences(model, 1).step(document), expected, atol=1e-4, rtol=1e-5)


def test_the_table_is_of_architectures_that_transformers_has() -> None:
    for family in FAMILIES:
        hf_model, _ = tiny(family)
        assert TABLE[hf_model.config.model_type].architecture == type(hf_model).__name__
    assert len(TABLE) == len(FAMILIES) + 1  # transformers has no ParScale: see test_lanes.py


@pytest.mark.parametrize("family", ["olmo2", "gemma2", "qwen3_moe"])
def test_what_the_kernels_lack_is_logged_once_and_named(family: str, caplog: pytest.LogCaptureFixture) -> None:
    _, folder = tiny(family)
    ops._log_gap.cache_clear()
    with caplog.at_level(logging.INFO, logger="plait"):
        load_model(folder)
        load_model(folder)
    (message,) = (r.getMessage() for r in caplog.records if "plain torch" in r.getMessage())
    assert message.startswith(TABLE[family].architecture)
    with pytest.raises(InvalidInput, match="compiled kernels have no"):
        load_model(folder, impl="cpu")
