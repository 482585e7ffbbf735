"""Models by Triton kernels against plain torch: on a GPU, or interpreted on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plait import InvalidInput
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.gpu.ops import SLICE, GpuOps
from plait.runtime.engines.native.gpu.stack import GpuStack
from plait.runtime.engines.native.loader import from_transformers, load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.torch_ops import TorchOps
from plait.runtime.engines.native.weights import Linear
from plait.tests.runtime.engines.native.helpers import IdTokenizer, Sequences, tiny

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy says so of what the interpreter computes
SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 80}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biases": ("qwen2", {}),
    "head norms": ("qwen3", {"head_dim": 24}),
    "fused": ("phi3", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
}
DTYPES = [torch.float32] + [torch.bfloat16] * torch.cuda.is_available()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_invariant", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_plain_torch(
    case: str, is_invariant: bool, dtype: torch.dtype, device: torch.device
) -> None:
    family, shape = CASES[case]
    _, folder = tiny(family, dtype=dtype, **SMALL, **shape)
    mine = load_model(folder, device=device, dtype=dtype, impl="triton", is_invariant=is_invariant)
    assert isinstance(mine.ops, GpuOps) and isinstance(mine.stack, GpuStack)
    plain = load_model(folder, dtype=dtype, impl="torch")
    sequences = [Sequences(model, 2, max_tokens=64) for model in (mine, plain)]
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    for tokens, rows in (([[3, 5, 8, 13, 21], [1]], [5, 4]), ([[2], [9]], None), ([[], [7]], None)):
        got, want = (s.forward(tokens, rows) for s in sequences)
        for mine_one, other in zip(got, want, strict=True):
            torch.testing.assert_close(mine_one.cpu().float(), other.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("logit_rows", [None, [7, 4, 0]])
def test_rows_of_a_prefill_among_rows_that_decode(logit_rows: list[int] | None, device: torch.device) -> None:
    """Told apart, in any order: the logits are plain torch's, and those of the row that decodes what it gets alone."""
    _, folder = tiny(**SMALL)
    mine, plain = load_model(folder, device=device, impl="triton"), load_model(folder, impl="torch")
    stack: Any = mine.stack
    forward, marks = stack.forward, np.zeros(3, dtype=np.bool_)

    def marked(tokens: Any, positions: Any, slots: Any, plan: Any, *others: Any) -> Any:
        return forward(tokens, positions, slots, replace(plan, is_prefill=marks), *others)

    stack.forward = marked
    sequences = [Sequences(model, 3, max_tokens=64) for model in (mine, mine, plain)]
    for s in sequences:
        s.step([[], [3, 5, 8], []])
    marks = np.array([True] * 4 + [False] + [True] * 3)
    tokens = [[1, 2, 3, 4], [9], [6, 7, 8]]
    got, want = (sequences[i].step(tokens, logit_rows).cpu() for i in (0, 2))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    marks = np.array([False])
    alone = sequences[1].step([[], [9], []]).cpu()
    assert torch.equal(got[4 if logit_rows is None else 1], alone[0])
    assert mine.ops.num_decoding is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_parts_of_a_layer(family: str, device: torch.device) -> None:
    """One by one, in float16, which both round to at the same places."""
    _, folder = tiny(family, dtype=torch.float16, **SMALL)
    mine = load_model(folder, device=device, dtype=torch.float16, impl="triton").ops
    plain = load_model(folder, device=device, dtype=torch.float16, impl="torch").ops
    assert isinstance(plain, TorchOps)
    tokens = torch.tensor([5, 0, 130], device=device)
    xs = [ops.embed(tokens) for ops in (mine, plain)]
    for layer in range(2):
        for got, want in zip(mine.qkv(layer, xs[0]), plain.qkv(layer, xs[1]), strict=True):
            assert got.stride(-1) == 1
            torch.testing.assert_close(got, want, rtol=5e-3, atol=5e-3)
        attended = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(layer)).half().to(device)
        xs = [mine.finish(layer, xs[0], attended), plain.finish(layer, xs[1], attended)]
    torch.testing.assert_close(*xs, rtol=1e-2, atol=1e-2)
    for got, want in zip(mine.head(xs[0]), plain.head(xs[1]), strict=True):
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("rows", [0, 1, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE])
def test_a_row_of_a_product_has_the_same_bits_among_any(rows: int, device: torch.device) -> None:
    ops = load_model(tiny(**SMALL)[1], device=device, impl="triton").ops
    assert isinstance(ops, GpuOps)
    weights = Linear(torch.randn(70, 64, device=device), torch.randn(70, device=device))
    x = torch.randn(rows, 64, device=device)
    out = ops.linear(x, weights)
    torch.testing.assert_close(out, weights(x))
    for row in {0, rows // 2, rows - 1} & set(range(rows)):
        assert torch.equal(ops.linear(x[row : row + 1], weights)[0], out[row])


def test_matrices_of_one_input_are_held_once(device: torch.device) -> None:
    """Side by side: a copy that takes the place of the checkpoint's, and none of what is side by side already."""
    for family in ("qwen2", "phi3"):
        ops = load_model(tiny(family, **SMALL)[1], device=device, impl="triton").ops
        assert isinstance(ops, GpuOps)
        layer = ops.weights.layers[0]
        mlp: Any = layer.mlp
        for parts in ([layer.q, layer.k, layer.v], [mlp.gate, mlp.up]):
            at = parts[0].weight.data_ptr()
            for part in parts:
                assert part.weight.data_ptr() == at
                at += part.weight.nbytes
    live: Any = tiny("phi3", **SMALL)[0]
    live.to(device)
    ops = from_transformers(live, share=False, impl="triton").ops
    assert isinstance(ops, GpuOps)
    fused = dict(live.named_parameters())["model.layers.0.self_attn.qkv_proj.weight"]
    assert ops.weights.layers[0].q.weight.data_ptr() == fused.data_ptr()


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_follows_a_live_model(family: str, device: torch.device) -> None:
    live: Any = tiny(family, **SMALL)[0]
    live.to(device)
    mine = from_transformers(live, share=False, impl="triton")
    plain = from_transformers(live)
    tokens = [[3, 5, 8]]
    before = Sequences(mine, 1).step(tokens)
    torch.testing.assert_close(before, Sequences(plain, 1).step(tokens), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.mul_(1.1).add_(0.01)
    mine.refresh()
    after = Sequences(mine, 1).step(tokens)
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(after, Sequences(plain, 1).step(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3_moe", "olmo2", "gemma2"])
def test_families_that_the_kernels_have_not(family: str) -> None:
    _, folder = tiny(family)
    with pytest.raises(InvalidInput, match="impl='triton': the kernels have no"):
        load_model(folder, impl="triton")


def test_without_a_gpu_triton_is_refused_unless_it_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    _, folder = tiny(**SMALL)
    with pytest.raises(InvalidInput, match="impl='triton' is for a GPU, not cpu"):
        load_model(folder, impl="triton")


def test_more_query_heads_than_a_tile_has_rows(device: torch.device) -> None:
    """Attention is then left to plain torch."""
    shape: dict[str, Any] = {"hidden_size": 32, "head_dim": 16, "num_attention_heads": 18, "num_key_value_heads": 1}
    _, folder = tiny("qwen3", **shape, num_hidden_layers=1)
    mine = load_model(folder, device=device, impl="triton")
    assert isinstance(mine.ops, GpuOps) and mine.stack is None
    got, want = (Sequences(m, 1).step([[3, 5, 8]]) for m in (mine, load_model(folder, impl="torch")))
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block_size", [48, 128])
def test_blocks_that_the_kernels_have_not(block_size: int) -> None:
    model = load_model(tiny(**SMALL)[1], impl="torch")
    model.device = torch.device("cuda")
    with pytest.raises(InvalidInput, match=f"16, 32 or 64, not {block_size}"):
        NativeEngine(model, IdTokenizer(131), NativeOptions(block_size=block_size, kv_tokens=1024))
