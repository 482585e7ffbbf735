"""Logits of the model layer equal transformers', however the tokens are batched and paged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from plait.runtime.engines.native.loader import from_transformers, load_model
from plait.runtime.engines.native.ops import KernelOps
from plait.runtime.engines.native.torch_ops import TorchOps
from plait.tests.runtime.engines.native.helpers import FAMILIES, Sequences, tiny

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
    "mistral-window": ("mistral", {"sliding_window": 24}),
    "mistral-window-1": ("mistral", {"sliding_window": 1}),
    "qwen2-window": ("qwen2", {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3-moe": ("qwen3_moe", {}),
    "qwen3-moe-normalized": ("qwen3_moe", {"norm_topk_prob": True, "mlp_only_layers": None, "decoder_sparse_step": 2}),
    "smollm3": ("smollm3", {}),
    "smollm3-window": ("smollm3", {"use_sliding_window": True, "sliding_window": 24}),
    "olmo2": ("olmo2", {}),
    "olmo2-bias": ("olmo2", {"attention_bias": True, "tie_word_embeddings": True}),
    "phi3": ("phi3", {}),
    "phi3-window": ("phi3", {"sliding_window": 24}),
    "phi3-partial": ("phi3", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}}),
    "gemma2": ("gemma2", {}),
    "gemma2-uncapped": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("gemma3", {}),
    "gemma3-linear": (
        "gemma3",
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0}}},
    ),
}
WITHOUT_KERNELS = ("qwen3_moe", "olmo2", "gemma2", "gemma3")
"""Families for which the compiled kernels lack something."""
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
    assert isinstance(load_model(folder).ops, TorchOps if family in WITHOUT_KERNELS else KernelOps)
    # The comparison must be able to fail: logits of whole units, none of them constant.
    assert min(logits.std(0).min().item() for logits in expected) > 0.1
    return hf_model, folder, documents, expected


@pytest.mark.parametrize("impl", ["torch", "auto"])
def test_prefill_in_one_go(case: Any, impl: Any) -> None:
    _, folder, documents, expected = case
    sequences = Sequences(load_model(folder, impl=impl), len(documents))
    torch.testing.assert_close(sequences.step(documents), torch.cat(expected), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("impl", ["torch", "auto"])
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


@pytest.mark.parametrize("impl", ["torch", "cpu"])
def test_chosen_rows_and_hidden_states(impl: Any) -> None:
    hf_model, folder = tiny("qwen3")
    document = _documents(131)[0]
    with torch.no_grad():
        expected = hf_model(torch.tensor([document]), output_hidden_states=True)
    model = load_model(folder, impl=impl)
    logits, hidden = Sequences(model, 1).forward([document], [74, 0, 30])
    torch.testing.assert_close(logits, expected.logits[0, [74, 0, 30]], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(hidden, expected.hidden_states[-1][0, [74, 0, 30]], atol=1e-4, rtol=1e-5)
    assert Sequences(model, 1).step([document], []).shape == (0, 131)


@pytest.mark.parametrize("impl", ["torch", "auto"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family: str, impl: Any) -> None:
    """As near to the float32 logits of the same weights as transformers' bfloat16 is, or nearer."""
    hf_model, folder = tiny(family, dtype=torch.bfloat16)
    documents = _documents(131)
    rounded = torch.cat(_expected(hf_model, documents))
    exact = torch.cat(_expected(hf_model.float(), documents))
    model = load_model(folder, dtype=torch.bfloat16, impl=impl)
    assert model.dtype == torch.bfloat16
    error = (Sequences(model, len(documents)).step(documents) - exact).norm() / exact.norm()
    assert error < 1.5 * (rounded - exact).norm() / exact.norm() < 0.1


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3", "gemma2"])
def test_live_transformers_model(share: bool, family: str) -> None:
    hf_model, _ = tiny(family, tie_word_embeddings=True)
    with torch.no_grad():
        for parameter in hf_model.parameters():
            # What a checkpoint in bfloat16 gives: the kernels could hold it in half the memory, but not what comes.
            parameter.copy_(parameter.bfloat16())
    documents = _documents(131)
    model = from_transformers(hf_model, share=share)
    before = Sequences(model, 3).step(documents)
    torch.testing.assert_close(before, torch.cat(_expected(hf_model, documents)), atol=1e-4, rtol=1e-5)

    loss = hf_model(torch.tensor(documents[:1]), labels=torch.tensor(documents[:1])).loss
    loss.backward()
    torch.optim.SGD(hf_model.parameters(), lr=0.5).step()
    after = torch.cat(_expected(hf_model, documents))
    assert (after - before).abs().max() > 0.01
    model.refresh()
    torch.testing.assert_close(Sequences(model, 3).step(documents), after, atol=1e-4, rtol=1e-5)


def test_greedy_tokens_do_not_depend_on_the_batch() -> None:
    """Logits of a sequence alone and among 30 others, bit for bit."""
    _, folder = tiny("llama")
    model = load_model(folder)
    prompts = torch.randint(131, (31, 20), generator=torch.Generator().manual_seed(3)).tolist()
    together, alone = Sequences(model, 31), Sequences(model, 1, seed=9)
    tokens = together.step(prompts).unflatten(0, (31, 20))[:, -1].argmax(-1).tolist()
    own = int(alone.step([prompts[17]])[-1].argmax())
    for _ in range(40):
        batched = together.step([[t] for t in tokens])
        single = alone.step([[own]])
        assert torch.equal(single[0], batched[17])
        tokens, own = batched.argmax(-1).tolist(), int(single[0].argmax())
