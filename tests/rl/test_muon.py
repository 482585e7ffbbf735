"""Muon beside torch's own, and beside AdamW."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plait.rl.muon import MuonWithAdamW, StackedMuon, orthogonal


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_stacked_muon_is_muon(monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bfloat16})
    torch.manual_seed(0)
    start = [torch.randn(24, 16), torch.randn(24, 16), torch.randn(16, 40)]
    steps = orthogonal(start[0][None], (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert steps.dtype == (torch.bfloat16 if has_bfloat16 else torch.float32)
    results = []
    for kind in (torch.optim.Muon, StackedMuon):
        matrices = [torch.nn.Parameter(x.clone()) for x in start]
        optimizer = kind(matrices, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        for step in range(3):
            torch.manual_seed(step)
            for matrix in matrices:
                matrix.grad = torch.randn_like(matrix)
            optimizer.step()
        results.append((matrices, optimizer.state_dict()))
    (ours, _), (theirs, state) = results[::-1]
    for a, b, x in zip(ours, theirs, start, strict=True):
        # Its Newton-Schulz steps are in bfloat16, and sums of a stack are in another order.
        assert (a - b).norm() < 0.03 * (b - x).norm()
        assert (b - x).norm() > 0.1
    again = StackedMuon([torch.nn.Parameter(x) for x in start], adjust_lr_fn="match_rms_adamw")
    again.load_state_dict(state)
    assert torch.equal(again.state_dict()["state"][0]["momentum_buffer"], state["state"][0]["momentum_buffer"])


def llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config)


def step(model: LlamaForCausalLM, seed: int, *optimizers: torch.optim.Optimizer) -> None:
    tokens = torch.randint(0, 30, (2, 8), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def test_the_matrices_of_layers_go_by_muon_and_all_else_by_adamw():
    model, other = llama(), llama()
    both = MuonWithAdamW(model, lr=0.02, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)
    matrices = [p for name, p in other.named_parameters() if name.endswith("proj.weight")]
    others = [p for name, p in other.named_parameters() if not name.endswith("proj.weight")]
    muon = StackedMuon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.02, weight_decay=0.0, betas=(0.8, 0.9), eps=1e-6)
    for seed in range(3):
        step(model, seed, both)
        step(other, seed, muon, adamw)
        if seed == 1:  # from here on by what was saved
            saved = both.state_dict()
            both = MuonWithAdamW(model, lr=1.0, weight_decay=0.0, betas=(0.5, 0.5))
            both.load_state_dict(saved)
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


def test_a_tied_output_layer_is_no_matrix_and_what_is_frozen_stays():
    model = llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before = frozen.clone()
    optimizer = MuonWithAdamW(model, lr=0.1, weight_decay=0.0, betas=(0.9, 0.9))
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    assert sizes == [13, 6]  # seven matrices of a layer less one; embeddings, and two norms of a layer and the last
    step(model, 0, optimizer)
    assert torch.equal(frozen, before)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1)])
def test_betas_are_checked(betas):
    with pytest.raises(ValueError, match="betas"):
        MuonWithAdamW(llama(), lr=0.1, weight_decay=0.0, betas=betas)
