"""Logits of the model layer equal transformers', however the tokens are batched and paged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plait.runtime.native.loader import load_model
from plait.tests.native.helpers import Sequences, tiny

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-mha": ("llama", {"num_key_value_heads": 4}),
    "llama-mqa": ("llama", {"num_key_value_heads": 1}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5}}),
    "llama-odd-sizes": ("llama", {"hidden_size": 72, "intermediate_size": 100, "head_dim": 18, "vocab_size": 67}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3-bias": ("qwen3", {"attention_bias": True, "head_dim": 40}),
    "mistral": ("mistral", {}),
    "mistral-head-dim": ("mistral", {"head_dim": 32}),
}
LENGTHS = (75, 33, 8)


def _documents(vocab: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocab, (n,), generator=generator).tolist() for n in LENGTHS]


def _expected(hf_model: Any, documents: list[list[int]]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [hf_model(torch.tensor([d])).logits[0].float() for d in documents]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, list[list[int]], list[torch.Tensor]]:
    family, overrides = CASES[request.param]
    hf_model, folder = tiny(family, **overrides)
    documents = _documents(hf_model.config.vocab_size)
    expected = _expected(hf_model, documents)
    # The comparison must be able to fail: logits of whole units, none of them constant.
    assert min(logits.std(0).min().item() for logits in expected) > 0.1
    return hf_model, folder, documents, expected


@pytest.mark.parametrize("impl", ["torch", "cpu"])
def test_prefill_in_one_go(case: Any, impl: Any) -> None:
    _, folder, documents, expected = case
    sequences = Sequences(load_model(folder, impl=impl), len(documents))
    torch.testing.assert_close(sequences.step(documents), torch.cat(expected), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("chunk", [7, 1])
def test_prefill_in_chunks(case: Any, impl: Any, chunk: int) -> None:
    """Chunks of every document side by side, which end at different steps."""
    _, folder, documents, expected = case
    sequences = Sequences(load_model(folder, impl=impl), len(documents), seed=chunk)
    got: list[list[torch.Tensor]] = [[] for _ in documents]
    for begin in range(0, max(LENGTHS), chunk):
        parts = [d[begin : begin + chunk] for d in documents]
        logits = sequences.step(parts)
        for rows, part in zip(got, logits.split([len(p) for p in parts]), strict=True):
            rows.append(part)
    torch.testing.assert_close(torch.cat([torch.cat(g) for g in got]), torch.cat(expected), atol=1e-4, rtol=1e-5)
