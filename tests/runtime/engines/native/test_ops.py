"""The compiled kernels against plain torch, and against themselves in other batches."""

from __future__ import annotations

import importlib.machinery
from ctypes import CDLL
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.runtime.engines.native import packing
from plait.runtime.engines.native.config import LayerConfig, ModelConfig
from plait.runtime.engines.native.families import FAMILIES
from plait.runtime.engines.native.kernels import FLOAT32, FLOAT32_HALVED, kernel_library, open_library
from plait.runtime.engines.native.model import LayerOps
from plait.runtime.engines.native.ops import KernelOps, choose_ops
from plait.runtime.engines.native.torch_ops import TorchOps
from plait.runtime.engines.native.weights import MLP, LayerWeights, Linear, Weights
from plait.runtime.errors import InvalidInput
from plait.tests.compiled import LAYERS, build


def _library() -> CDLL:
    library = kernel_library()
    assert library is not None
    return library


def _config(hidden: int = 48, inner: int = 80, heads: int = 4, kv_heads: int = 2, size: int = 16) -> ModelConfig:
    return ModelConfig(
        family=FAMILIES["llama"],
        vocab_size=131,
        hidden_size=hidden,
        intermediate_size=inner,
        layers=(LayerConfig(),),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=size,
        attention_scale=size**-0.5,
        max_context=64,
        rms_norm_eps=1e-5,
    )


def _weights(config: ModelConfig, dtype: torch.dtype, *, bias: bool = False, tied: bool = False) -> Weights:
    """Of such a size that activations stay around 1."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(dtype)

    def linear(outputs: int, inputs: int) -> Linear:
        return Linear(random(outputs, inputs), random(outputs) * outputs**0.5 if bias else None)

    def norm() -> Tensor:
        return (1 + 0.3 * torch.randn(hidden, generator=generator)).to(dtype)

    hidden, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
    embedding = random(config.vocab_size, hidden) * hidden**0.5
    layer = LayerWeights(
        attention_norm=norm(),
        q=linear(config.num_heads * size, hidden),
        k=linear(config.num_kv_heads * size, hidden),
        v=linear(config.num_kv_heads * size, hidden),
        o=linear(hidden, config.num_heads * size),
        mlp_norm=norm(),
        mlp=MLP(gate=linear(inner, hidden), up=linear(inner, hidden), down=linear(hidden, inner)),
    )
    head = embedding if tied else random(config.vocab_size, hidden)
    return Weights(embedding=embedding, layers=(layer,), norm=norm(), lm_head=head)


def _upcast(weights: Weights) -> Weights:
    """The same values in float32."""

    def cast(x: Any) -> Any:
        if isinstance(x, MLP):
            return MLP(gate=cast(x.gate), up=cast(x.up), down=cast(x.down))
        if isinstance(x, Linear):
            return Linear(x.weight.float(), None if x.bias is None else x.bias.float())
        return None if x is None else x.float()

    def layer(w: LayerWeights) -> LayerWeights:
        values: Any = {name: cast(getattr(w, name)) for name in w.__slots__}
        return LayerWeights(**values)

    layers = tuple(layer(w) for w in weights.layers)
    return Weights(
        embedding=weights.embedding.float(),
        layers=layers,
        norm=weights.norm.float(),
        lm_head=weights.lm_head.float(),
    )


def _run(layer_ops: LayerOps, tokens: Tensor, attended: Tensor) -> list[Tensor]:
    """Everything that one pass returns, with `attended` in place of attention's result."""
    embedded = layer_ops.embed(tokens)
    results = [embedded.clone()]
    results += [part.clone() for part in layer_ops.qkv(0, embedded)]
    finished = layer_ops.finish(0, embedded, attended)
    results.append(finished.clone())
    return [*results, *layer_ops.head(finished)]


def _assert_near(got: Tensor, want: Tensor, *, bf16: bool) -> None:
    """Float32 element by element; bfloat16, of three digits, as a whole (values are around 1)."""
    assert got.shape == want.shape
    if bf16:
        assert (got - want).norm() <= 0.03 * max(want.norm().item(), want.numel() ** 0.5)
    else:
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


def _inputs(config: ModelConfig, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab_size, (rows,), generator=generator)
    return tokens, torch.randn(rows, config.num_heads, config.head_dim, generator=generator)


shapes = st.builds(
    _config,
    hidden=st.integers(16, 150),
    inner=st.integers(1, 150),
    heads=st.just(4),
    kv_heads=st.sampled_from([1, 2, 4]),
    size=st.integers(1, 20).map(lambda n: 2 * n),
)


@settings(max_examples=40, deadline=None)
@given(config=shapes, rows=st.integers(1, 40), bias=st.booleans(), tied=st.booleans(), bf16=st.booleans())
def test_kernels_equal_torch(config: ModelConfig, rows: int, bias: bool, tied: bool, bf16: bool) -> None:
    """Any shape, odd ones too. In bfloat16 the weights are exact and the inputs of each linear layer are rounded."""
    weights = _weights(config, torch.bfloat16 if bf16 else torch.float32, bias=bias, tied=tied)
    tokens, attended = _inputs(config, rows)
    expected = _run(TorchOps(config, _upcast(weights)), tokens, attended)
    for got, want in zip(_run(KernelOps(_library(), config, weights, 1), tokens, attended), expected, strict=True):
        _assert_near(got, want, bf16=bf16)


@settings(max_examples=20, deadline=None)
@given(config=shapes, rows=st.integers(1, 40), bias=st.booleans())
def test_weights_of_bfloat16_in_half_the_memory(config: ModelConfig, rows: int, bias: bool) -> None:
    """The same bits as from the same weights packed as float32."""
    weights = _upcast(_weights(config, torch.bfloat16, bias=bias))
    tokens, attended = _inputs(config, rows)
    halved = KernelOps(_library(), config, weights, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_halved", Mock(side_effect=packing._NotBfloat16))
        whole = KernelOps(_library(), config, weights, 1)
    assert (halved.packed.type, whole.packed.type) == (FLOAT32_HALVED, FLOAT32)
    for got, want in zip(_run(halved, tokens, attended), _run(whole, tokens, attended), strict=True):
        assert torch.equal(got, want)


def test_parts_of_one_matrix_that_are_stored_in_other_types() -> None:
    """Packed as if they were of the first one's."""
    config = _config()
    weights = _weights(config, torch.bfloat16)
    tokens, attended = _inputs(config, 5)
    expected = _run(KernelOps(_library(), config, weights, 1), tokens, attended)
    mixed = replace(weights, layers=[replace(w, k=w.k._replace(weight=w.k.weight.float())) for w in weights.layers])
    for got, want in zip(_run(KernelOps(_library(), config, mixed, 1), tokens, attended), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("where", ["q", "down", "embedding"])
def test_one_number_of_float32_keeps_all_of_them(where: str) -> None:
    """Wherever it is met; what was packed until then is packed once more."""
    config = _config()
    weights = _upcast(_weights(config, torch.bfloat16))
    layer = weights.layers[-1]
    assert isinstance(layer.mlp, MLP)
    matrix = {"q": layer.q.weight, "down": layer.mlp.down.weight, "embedding": weights.embedding}[where]
    matrix[-1, -1] += 2**-20
    tokens, attended = _inputs(config, 5)
    found = KernelOps(_library(), config, weights, 1)
    assert found.packed.type == FLOAT32
    for got, want in zip(_run(found, tokens, attended), _run(TorchOps(config, weights), tokens, attended), strict=True):
        _assert_near(got, want, bf16=False)


@pytest.mark.parametrize("inner", [200, 2200])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "halved"])
def test_rows_do_not_depend_on_the_batch(kind: str, inner: int) -> None:
    """Bit for bit, whatever the number of rows, their order, and the number of threads; panels go in parts, too."""
    config = _config(hidden=72, inner=inner)
    weights = _weights(config, torch.float32 if kind == "float32" else torch.bfloat16, bias=True)
    if kind == "halved":
        weights = _upcast(weights)
    tokens, attended = _inputs(config, 150)
    layer_ops = KernelOps(_library(), config, weights, 1)
    expected = _run(layer_ops, tokens, attended)
    for threads in (1, 2):
        layer_ops = KernelOps(_library(), config, weights, threads)
        for rows in (1, 2, 3, 5, 6, 7, 8, 11, 13, 17, 31, 64, 4, 133):
            chosen = torch.randperm(150, generator=torch.Generator().manual_seed(rows))[:rows]
            for got, want in zip(_run(layer_ops, tokens[chosen], attended[chosen]), expected, strict=True):
                assert torch.equal(got, want[chosen])


def test_large_and_tiny_activations() -> None:
    """silu's exponential saturates instead of overflowing; the norm of a zero row is zero."""
    config = _config(inner=64)
    weights = _weights(config, torch.float32)
    weights.embedding[:3] = torch.tensor([[1e4], [0.0], [1e-20]])
    mlp = weights.layers[0].mlp
    assert isinstance(mlp, MLP)
    mlp.gate.weight.mul_(300)
    tokens, attended = torch.arange(3), torch.zeros(3, 4, 16)
    expected = _run(TorchOps(config, weights), tokens, attended)
    for got, want in zip(_run(KernelOps(_library(), config, weights, 1), tokens, attended), expected, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want, atol=2e-3, rtol=1e-4)


def test_head_of_chosen_rows() -> None:
    config = _config()
    layer_ops = KernelOps(_library(), config, _weights(config, torch.float32), 1)
    logits, hidden = layer_ops.head(layer_ops.embed(torch.arange(9)))
    x = layer_ops.embed(torch.arange(9))
    some, some_hidden = layer_ops.head(x[torch.tensor([7, 2])])
    assert torch.equal(some, logits[[7, 2]]) and torch.equal(some_hidden, hidden[[7, 2]])
    assert layer_ops.head(x[:0])[0].shape == (0, 131)


@pytest.mark.parametrize("token", [-1, 131, 2**40])
def test_token_outside_the_vocabulary(token: int) -> None:
    config = _config()
    layer_ops = KernelOps(_library(), config, _weights(config, torch.float32), 1)
    with pytest.raises(InvalidInput, match="vocabulary of 131"):
        layer_ops.embed(torch.tensor([3, token]))


def test_choice_of_implementation() -> None:
    config = _config()
    weights = _weights(config, torch.float32)
    assert isinstance(choose_ops(config, weights, "auto", 1), KernelOps)
    assert isinstance(choose_ops(config, weights, "cpu", 1), KernelOps)
    assert isinstance(choose_ops(config, weights, "torch", 1), TorchOps)
    half = _weights(config, torch.float16)
    assert isinstance(choose_ops(config, half, "auto", 1), TorchOps)
    with pytest.raises(InvalidInput, match="float16 on cpu"):
        choose_ops(config, half, "cpu", 1)


def test_without_the_library_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [])
    kernel_library.cache_clear()
    config = _config()
    weights = _weights(config, torch.float32)
    try:
        with pytest.warns(RuntimeWarning, match="plain torch serves") as warned:
            assert isinstance(choose_ops(config, weights, "auto", 1), TorchOps)
            assert isinstance(choose_ops(config, weights, "auto", 1), TorchOps)
        assert len(warned) == 1
        with pytest.raises(InvalidInput, match="compiled kernels"):
            choose_ops(config, weights, "cpu", 1)
    finally:
        kernel_library.cache_clear()


def test_kernels_built_for_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flags for this machine: other vector widths, bfloat16 in software, no OpenMP."""
    target = tmp_path / "plain.so"
    build(LAYERS, target, optimise=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # what is measured of it is for no one else
    library = open_library(target)
    config = _config(hidden=50, inner=70)
    tokens, attended = _inputs(config, 7)
    rounded = _weights(config, torch.bfloat16, bias=True)
    for weights in (_weights(config, torch.float32, bias=True), rounded, _upcast(rounded)):
        expected = _run(TorchOps(config, _upcast(weights)), tokens, attended)
        whole = _run(KernelOps(library, config, weights, 1), tokens, attended)
        for got, want in zip(whole, expected, strict=True):
            _assert_near(got, want, bf16=weights is rounded)
        alone = _run(KernelOps(library, config, weights, 1), tokens[4:5], attended[4:5])
        for got, want in zip(alone, whole, strict=True):
            assert torch.equal(got, want[4:5])


def test_a_foreign_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    with pytest.raises(OSError):
        open_library(tmp_path / "broken.so")
