"""One call for a whole forward pass against the same kernels called one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.model import Model
from plait.runtime.engines.native.stack import KernelStack
from plait.runtime.errors import InvalidInput
from plait.tests.runtime.engines.native.helpers import Sequences, tiny

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "llama": ("llama", torch.float32, {}),
    "qwen2": ("qwen2", torch.float32, {}),
    "qwen3": ("qwen3", torch.float32, {}),
    "qwen3-bfloat16": ("qwen3", torch.bfloat16, {}),
    "some layers without positions": ("smollm3", torch.float32, {}),
    "scaled queries and keys": ("qwen3", torch.float32, {"rope_parameters": YARN}),
}


def _pair(family: str, dtype: torch.dtype, more: dict[str, Any] | None = None) -> tuple[Model, Model]:
    """A model that runs in one call, and itself layer by layer, as where a window cuts."""
    _, folder = tiny(family, dtype=dtype, **(more or {}))
    whole, parts = load_model(folder, dtype=dtype), load_model(folder, dtype=dtype)
    assert isinstance(whole.stack, KernelStack) and isinstance(parts.stack, KernelStack)
    parts._plans = lambda plan, positions: {None: replace(plan)}  # type: ignore[method-assign]
    parts.stack.forward = None  # type: ignore[method-assign,assignment]
    return whole, parts


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_call_equals_many(case: str) -> None:
    """Batches that grow and shrink, so that buffers move, and two pools in turn."""
    whole, parts = _pair(*CASES[case])
    sequences = [[Sequences(model, 5, seed=seed) for model in (whole, parts)] for seed in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    for lengths in ([3, 0, 1, 7, 2], [1, 1, 1, 1, 1], [40, 1, 0, 1, 30], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]):
        for pair in sequences:
            tokens = [torch.randint(131, (n,), generator=generator).tolist() for n in lengths]
            got, want = (s.step(tokens) for s in pair)
            assert torch.equal(got, want)


def test_more_logits_than_rows() -> None:
    """Forks that start from one row all get its logits."""
    whole, parts = _pair("qwen3", torch.bfloat16)
    rows = [0] * 40
    got, want = (Sequences(model, 1).step([[5]], rows) for model in (whole, parts))
    assert got.shape == (40, 131) and torch.equal(got[0], got[39])
    assert torch.equal(got, want)


@pytest.mark.parametrize("token", [-1, 131])
def test_token_outside_the_vocabulary(token: int) -> None:
    whole, _ = _pair("llama", torch.float32)
    with pytest.raises(InvalidInput, match="vocabulary of 131"):
        Sequences(whole, 1).step([[3, token]])


def test_slot_beyond_the_pool() -> None:
    whole, _ = _pair("llama", torch.float32)
    sequences = Sequences(whole, 1)
    sequences._blocks += 16
    with pytest.raises(ValueError, match="plan"):
        sequences.step([[1, 2]])


def test_plain_torch_has_no_stack() -> None:
    _, folder = tiny("llama")
    assert load_model(folder, impl="torch").stack is None


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "qwen3_moe"])
def test_nor_have_layers_that_the_kernels_do_not_know(family: str) -> None:
    assert load_model(tiny(family)[1]).stack is None
