"""Weights in 8 and 4 bits: how they are rounded, their kernels, and models that have them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait import Runtime, Sequential
from plait.runtime.engines.native import ops
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.integers import GROUP, Bits, Blocks, WeightType, check_losses
from plait.runtime.engines.native.kernels import open_library
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.ops import KernelOps, choose_ops
from plait.runtime.engines.native.stack import KernelStack
from plait.runtime.engines.native.torch_ops import TorchOps
from plait.runtime.engines.native.weights import MLP, Linear, Weights
from plait.runtime.errors import InvalidInput
from plait.tests import real
from plait.tests.compiled import LAYERS, build
from plait.tests.runtime.engines.native.gguf_files import TYPES as GGUF
from plait.tests.runtime.engines.native.gguf_files import write_gguf
from plait.tests.runtime.engines.native.helpers import Sequences, tiny
from plait.tests.runtime.engines.native.test_ops import _config, _inputs, _library, _run, _weights, shapes

TYPES: tuple[WeightType, ...] = ("int8", "int4")


def _ops(
    weights: Weights, kind: WeightType | None, *, threads: int = 1, library: Any = None, **shape: int
) -> KernelOps:
    return KernelOps(library or _library(), _config(**shape), weights, threads, weight_type=kind)


def _rounded(weights: Weights, kind: WeightType) -> Weights:
    """What the packed weights stand for, in float32."""
    bits: Bits = 8 if kind == "int8" else 4

    def matrix(weight: Tensor, bits: Bits = bits) -> Tensor:
        return Blocks.of(weight, bits).numbers(weight.shape[1])

    def cast(part: Any) -> Any:
        if isinstance(part, MLP):
            return MLP(gate=cast(part.gate), up=cast(part.up), down=cast(part.down))
        if isinstance(part, Linear):
            return Linear(matrix(part.weight), None if part.bias is None else part.bias.float())
        return None if part is None else part.float()

    layers = tuple(
        type(layer)(**{name: cast(getattr(layer, name)) for name in layer.__slots__}) for layer in weights.layers
    )
    embedding = matrix(weights.embedding, 8)
    head = embedding if weights.lm_head is weights.embedding else matrix(weights.lm_head, 8)
    return Weights(embedding=embedding, layers=layers, norm=weights.norm.float(), lm_head=head)


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 20), inputs=st.integers(1, 100), bits=st.sampled_from([8, 4]),
    size=st.floats(1e-2, 1e3), shift=st.floats(-2, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_rounds_to_the_nearest(outputs: int, inputs: int, bits: Bits, size: float, shift: float, seed: int) -> None:
    """Half a step off at most, and what float16 makes of scale or minimum (2**-11 of them, or 2**-25) at the ends."""
    weight = size * (torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) + shift)
    blocks = Blocks.of(weight, bits)
    step = blocks.scales.float().repeat_interleave(GROUP, 1)[:, :inputs]
    found = blocks.numbers(inputs)
    assert found.shape == weight.shape
    assert ((found - weight).abs() <= 0.5 * step * 1.001 + weight.abs().max() * 2**-10 + 128 * 2**-25).all()


def test_eight_bits_keep_what_was_in_eight_bits() -> None:
    """So what a file holds in Q8_0 is not rounded again."""
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(0))
    once = Blocks.of(weight, 8)
    twice = Blocks.of(once.numbers(96), 8)
    assert torch.equal(once.integers, twice.integers) and torch.equal(once.scales, twice.scales)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), levels=st.integers(6, 15), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_four_bits_keep_what_was_in_four_bits(seed: int, levels: int, dtype: torch.dtype) -> None:
    """So what a file holds in Q4_0, Q4_1 or Q4_K is not rounded again, be it read as bfloat16 between."""
    random = torch.Generator().manual_seed(seed)
    integers = torch.randint(0, levels + 1, (20, 3, GROUP), generator=random)
    integers[..., 0], integers[..., 1] = 0, levels
    scales = (0.01 + torch.rand(20, 3, generator=random)).half().float()[..., None]
    weight = (scales * integers - scales * 8).to(dtype)
    blocks = Blocks.of(weight.flatten(1), 4)
    # A group may lie on a finer grid as well.
    steps = (weight.float().amax(-1) - weight.float().amin(-1)) / blocks.scales.float()
    assert torch.equal(blocks.integers * levels, (integers * steps.round()[..., None]).to(torch.uint8))
    error = (blocks.numbers(3 * GROUP).view_as(weight) - weight.float()).abs() / scales
    assert error.max() < (0.02 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_weights_that_cannot_be_rounded(bits: Bits, bad: float) -> None:
    weight = torch.ones(3, 40)
    weight[1, 35] = bad
    with pytest.raises(InvalidInput, match=f"weights in {bits} bits"):
        Blocks.of(weight, bits)


@settings(max_examples=60, deadline=None)
@given(
    exponent=st.floats(-40, 2), bits=st.sampled_from([8, 4]), shift=st.sampled_from([0.0, 2.0]), seed=st.integers(0, 99)
)
def test_small_weights_keep_their_precision_or_are_refused(
    exponent: float, bits: Bits, shift: float, seed: int
) -> None:
    """Whatever the unit, the error is not much more than that of rounding, 0.5 and 9 % of the weights."""
    weight = torch.randn(20, 100, generator=torch.Generator().manual_seed(seed)) + shift
    small = weight * 10**exponent
    blocks = Blocks.of(small, bits)
    try:
        check_losses(blocks.losses, bits)
    except InvalidInput as refusal:
        assert exponent < -4 and "far too small" in str(refusal)
    else:
        assert exponent > -7
        error = (blocks.numbers(100) / 10**exponent - weight).norm() / weight.norm()
        assert error < (0.06 if bits == 8 else 0.14)


@pytest.mark.parametrize("kind", TYPES)
def test_next_to_nothing_beside_large_weights_may_become_nothing(kind: WeightType) -> None:
    """So may the embeddings of many tokens that were never trained; not all of a matrix, be it packed with others."""
    weights = _weights(dataclasses.replace(_config(), vocab_size=1500), torch.float32)
    weights.embedding[500:1300] *= 1e-9
    layer = weights.layers[0]
    layer.q.weight[3:40] *= 1e-9
    layer.k.weight.zero_()
    _ops(weights, kind)
    layer.v.weight.mul_(1e-9)
    with pytest.raises(InvalidInput, match="weights in . bits: the model has weights that are far too small"):
        _ops(weights, kind)


def _exact(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """x W^T with x in 8 bits, in float64; and the sum of the magnitudes."""
    groups = torch.nn.functional.pad(x, (0, -x.shape[1] % GROUP)).view(len(x), -1, GROUP)
    top = groups.abs().amax(-1, keepdim=True)
    scaled = groups * torch.where(top > 1e-30, 127 / top, torch.zeros(()))
    assume(((scaled - scaled.floor() - 0.5).abs() > 2e-5).all())  # a half may become either of its neighbours
    integers = scaled.round()
    rounded = (integers.double() * (top / 127).double()).flatten(1)[:, : x.shape[1]]
    return rounded @ weight.double().T, rounded.abs() @ weight.double().abs().T


@settings(max_examples=30, deadline=None)
@given(config=shapes, rows=st.integers(1, 20), vocabulary=st.integers(1, 300), large=st.booleans())
def test_linear_layer_against_float64(config: Any, rows: int, vocabulary: int, large: bool) -> None:
    """Shapes that fill neither groups nor panels. Sums of a group have no error; each group adds one of scale, product
    and sum: 2**-24 of the magnitudes each."""
    config = dataclasses.replace(config, vocab_size=vocabulary)
    weights = _weights(config, torch.float32)
    x = (1e3 if large else 1.0) * torch.randn(rows, config.hidden_size, generator=torch.Generator().manual_seed(rows))
    logits, hidden = KernelOps(_library(), config, weights, 1, weight_type="int8").head(x)
    want, magnitude = _exact(hidden, _rounded(weights, "int8").lm_head)
    groups = -(-config.hidden_size // GROUP)
    assert logits.shape == want.shape
    assert ((logits - want).abs() <= (groups + 4) * 2**-23 * magnitude + 1e-30).all()


# How far a small layer is off is chance: the same examples each time.
@settings(max_examples=30, deadline=None, derandomize=True)
@given(config=shapes, rows=st.integers(1, 20), bias=st.booleans(), tied=st.booleans(), kind=st.sampled_from(TYPES))
def test_layer_against_torch(config: Any, rows: int, bias: bool, tied: bool, kind: WeightType) -> None:
    """Any shape, against the rounded weights in float32: what is left are inputs in 8 bits, half a percent each."""
    weights = _weights(config, torch.float32, bias=bias, tied=tied)
    tokens, attended = _inputs(config, rows)
    expected = _run(TorchOps(config, _rounded(weights, kind)), tokens, attended)
    got = _run(KernelOps(_library(), config, weights, 1, weight_type=kind), tokens, attended)
    torch.testing.assert_close(got[0], expected[0], atol=1e-6, rtol=1e-6)
    for found, want in zip(got[1:], expected[1:], strict=True):
        assert found.shape == want.shape
        assert (found - want).norm() <= 0.03 * max(want.norm().item(), want.numel() ** 0.5)


def test_a_matrix_that_a_file_has_in_two_roundings_is_kept_once() -> None:
    """As embedding and head of tied models: the head's, where all is rounded anyway. Others are two."""
    config = dataclasses.replace(_config(hidden=72), vocab_size=1100)
    weights = _weights(config, torch.float32)
    head = weights.lm_head

    def bytes_of(embedding: Tensor, kind: WeightType) -> int:
        return KernelOps(
            _library(), config, dataclasses.replace(weights, embedding=embedding), 1, weight_type=kind
        ).packed.num_bytes

    coarse = Blocks.of(head, 4).numbers(head.shape[1])
    assert not torch.equal(coarse, head)
    apart, tuned = coarse.clone(), head.clone()
    apart[-1, 5] += 0.2 * (head[-1, :32].max() - head[-1, :32].min())
    tuned[-1, 5] += 0.02 * (head[-1, :32].max() - head[-1, :32].min())
    for kind in TYPES:
        assert bytes_of(coarse, kind) == bytes_of(head, kind) < bytes_of(weights.embedding, kind)
    for embedding in (apart, tuned, head.roll(1, 0)):
        assert bytes_of(embedding, "int4") == bytes_of(weights.embedding, "int4")
    assert bytes_of(coarse, "stored") == bytes_of(weights.embedding, "stored")
    rounded = dataclasses.replace(weights, embedding=coarse)
    tokens, attended = _inputs(config, 3)
    found = KernelOps(_library(), config, rounded, 1, weight_type="int4")
    assert torch.equal(_run(found, tokens, attended)[0], Blocks.of(head, 8).numbers(72)[tokens])


@pytest.mark.parametrize("kind", TYPES)
def test_rows_do_not_depend_on_the_batch(kind: WeightType) -> None:
    """A row alone is bit for bit the row among 2 to 64, for one thread and for two."""
    shape = {"hidden": 72, "inner": 200}
    weights = _weights(_config(**shape), torch.bfloat16, bias=True)
    tokens, attended = _inputs(_config(**shape), 64)
    alone = [_run(_ops(weights, kind, **shape), tokens[i : i + 1], attended[i : i + 1]) for i in range(64)]
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    for threads in (1, 2):
        layer_ops = _ops(weights, kind, threads=threads, **shape)
        for rows in (*range(2, 20), 31, 32, 33, 50, 63, 64):
            chosen = torch.randperm(64, generator=torch.Generator().manual_seed(rows))[:rows]
            for got, want in zip(_run(layer_ops, tokens[chosen], attended[chosen]), expected, strict=True):
                assert torch.equal(got, want[chosen]), (threads, rows)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows(kind: WeightType, bad: float) -> None:
    """In its own row alone."""
    weights = _weights(_config(), torch.float32)
    tokens, attended = _inputs(_config(), 5)
    clean = _run(_ops(weights, kind), tokens, attended)
    attended[2, 1, 3] = bad
    got = _run(_ops(weights, kind), tokens, attended)
    assert not got[-2][2].isfinite().any()
    others = [0, 1, 3, 4]
    assert torch.equal(got[-2][others], clean[-2][others]) and got[-2][others].isfinite().all()


@pytest.mark.parametrize("kind", TYPES)
def test_tiny_and_large_activations(kind: WeightType) -> None:
    weights = _weights(_config(), torch.float32)
    tokens = torch.arange(4)
    attended = torch.tensor([1e-38, 1e-20, 0.0, 1e6])[:, None, None] * torch.ones(4, 4, 16)
    expected = _run(TorchOps(_config(), _rounded(weights, kind)), tokens, attended)
    for got, want in zip(_run(_ops(weights, kind), tokens, attended), expected, strict=True):
        assert got.isfinite().all()
        assert ((got - want).norm(dim=-1) <= 0.03 * want.norm(dim=-1) + 0.03 * want.shape[-1] ** 0.5).all()


OTHER_MACHINES = ((), ("-mssse3",), ("-mavx",), ("-mavx2", "-mfma", "-mf16c"))
"""Other vector widths, other products of bytes or none."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], CDLL]:
    """The kernels by the compiler's flags, built once each."""

    @functools.cache
    def build_once(flags: tuple[str, ...]) -> CDLL:
        target = tmp_path_factory.mktemp("built") / "plain.so"
        build(LAYERS, target, *flags)
        return open_library(target)

    return build_once


@pytest.mark.parametrize("flags", [*OTHER_MACHINES, ("-mavx2", "-fsanitize=undefined", "-fno-sanitize-recover")])
def test_kernels_built_for_any_machine(built: Callable[[tuple[str, ...]], CDLL], flags: tuple[str, ...]) -> None:
    library = built(flags)
    shape = {"hidden": 50, "inner": 70}
    tokens, attended = _inputs(_config(**shape), 7)
    weights = _weights(_config(**shape), torch.float32, bias=True)
    for kind in TYPES:
        whole = _run(_ops(weights, kind, library=library, **shape), tokens, attended)
        for got, want in zip(whole, _run(_ops(weights, kind, **shape), tokens, attended), strict=True):
            torch.testing.assert_close(got, want, atol=0.02, rtol=0.02)  # a rounding of an input may tip over
        alone = _run(_ops(weights, kind, library=library, **shape), tokens[4:5], attended[4:5])
        for got, want in zip(alone, whole, strict=True):
            assert torch.equal(got, want[4:5])


@pytest.mark.parametrize("flags", [None, *OTHER_MACHINES])
@pytest.mark.parametrize("kind", TYPES)
def test_largest_sums(
    built: Callable[[tuple[str, ...]], CDLL], kind: WeightType, flags: tuple[str, ...] | None
) -> None:
    """All inputs of a group and all its integers as large as they come: no sum overflows, whatever its width."""
    library = None if flags is None else built(flags)
    weights = _weights(_config(hidden=96), torch.float32)
    ones = torch.ones_like(weights.layers[0].q.weight)
    ones[:, ::GROUP] = 0  # the minimum
    assert Blocks.of(ones, 8 if kind == "int8" else 4).integers.max() == (255 if kind == "int8" else 15)
    layer = dataclasses.replace(
        weights.layers[0], attention_norm=torch.ones(96), q=Linear(ones, None), k=Linear(-ones[:32], None)
    )
    layer_ops = _ops(dataclasses.replace(weights, layers=(layer,)), kind, library=library, hidden=96)
    x = layer_ops.embed(torch.zeros(5, dtype=torch.int64))
    x[:] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])[:, None]
    signs = x[:, :1].clone()
    q, k, _ = layer_ops.qkv(0, x)
    for found, want in ((q, 3 * (GROUP - 1)), (k, -3 * (GROUP - 1))):
        torch.testing.assert_close(found.flatten(1), (want * signs).expand(5, found[0].numel()), atol=0, rtol=2e-3)


def test_bytes() -> None:
    """Nothing else is kept: 8.5 bits a weight, or 5 with embedding and head in 8.5, in whole groups and panels."""
    config = dataclasses.replace(_config(hidden=128, inner=256), vocab_size=512)
    weights = _weights(config, torch.float32)
    sizes = {
        kind: KernelOps(_library(), config, weights, 1, weight_type=kind).packed.num_bytes for kind in (None, *TYPES)
    }
    tables, layer = 2 * 512 * 128, (64 + 32 + 32 + 64) * 128 + 3 * 128 * 256
    vectors = sizes[None] - 4 * (tables + layer)
    assert abs(sizes["int8"] - vectors - (tables + layer) * 34 / 32) < 1
    assert abs(sizes["int4"] - vectors - tables * 34 / 32 - layer * 20 / 32) < 1


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_model_near_its_rounded_weights(family: str, kind: WeightType) -> None:
    """Logits as of transformers' model with the rounded weights; in one call as in many."""
    reference, folder = tiny(family)
    bits: Bits = 8 if kind == "int8" else 4
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if weight.dim() == 2:
                is_table = "embed_tokens" in name or "lm_head" in name
                weight.copy_(Blocks.of(weight, 8 if is_table else bits).numbers(weight.shape[1]))
    tokens = torch.randint(131, (3, 9), generator=torch.Generator().manual_seed(1))
    want = reference(tokens).logits.detach().flatten(0, 1)
    whole, parts = (load_model(folder, weight_type=kind) for _ in range(2))
    assert isinstance(whole.stack, KernelStack)
    parts.stack = None
    got = Sequences(whole, 3).step(tokens.tolist())
    assert (got - want).norm() <= 0.04 * want.norm()
    # Angles are not of the same sine and cosine, and an input may be rounded the other way for it.
    assert (got - Sequences(parts, 3).step(tokens.tolist())).norm() <= 0.01 * want.norm()


@pytest.mark.parametrize(
    ("type", "bits", "error"),
    # Scales and minima are float16 in both; 5 bits lie on no grid of 8.
    [(GGUF.Q4_0, 4, 1e-3), (GGUF.Q4_1, 4, 1e-3), (GGUF.Q8_0, 8, 1e-3), (GGUF.Q5_0, 8, 1 / 127)],
)
def test_files_keep_what_they_hold(type: GGUF, bits: Bits, error: float, tmp_path: Path) -> None:
    reference, _ = tiny("llama")
    path = write_gguf(tmp_path / "model.gguf", reference, type=type)
    model = load_model(path, weight_type="stored")
    assert isinstance(model.ops, KernelOps)
    for layer in model.ops.packed.layers:
        assert {part.bits for part in (layer.qkv, layer.output, layer.gate_up, layer.down)} == {bits}
    assert model.ops.packed.embedding.bits == model.ops.packed.head.bits == 8
    for weight in (layer.mlp.down_proj.weight.detach() for layer in reference.model.layers):
        kept = Blocks.of(weight, bits).numbers(weight.shape[1])
        assert (kept - weight).abs().max() <= error * weight.abs().max()
    tokens = torch.randint(131, (1, 9), generator=torch.Generator().manual_seed(1))
    want = reference(tokens).logits.detach()[0]
    assert (Sequences(model, 1).step(tokens.tolist()) - want).norm() <= 0.06 * want.norm()  # inputs in 8 bits


def test_parts_of_a_matrix_have_the_most_bits_of_theirs() -> None:
    config = _config()
    weights = _weights(config, torch.float32)
    q, k, v = weights.layers[0].q, weights.layers[0].k, weights.layers[0].v
    mixed = dataclasses.replace(weights.layers[0], q=q._replace(bits=4), k=k._replace(bits=4), v=v._replace(bits=8))
    alike = dataclasses.replace(mixed, v=v._replace(bits=4))
    packed = [
        KernelOps(_library(), config, dataclasses.replace(weights, layers=(layer,)), 1, weight_type="stored").packed
        for layer in (mixed, alike)
    ]
    assert [one.layers[0].qkv.bits for one in packed] == [8, 4]
    assert [one.layers[0].output.bits for one in packed] == [8, 8]  # of which nobody knows


def test_refusals(tmp_path: Path) -> None:
    _, folder = tiny()
    for options, words in (
        ({"weights": "int3"}, "known: int8, int4"),
        ({"weights": 8}, "known: int8, int4"),
        ({"weights": "stored"}, "none in 8 bits or less; int8 and int4 round them"),
        ({"weights": "int8", "impl": "torch"}, "compiled kernels"),
        ({"weights": "int4", "tensor_parallel": 2}, "one process"),
    ):
        with pytest.raises(InvalidInput, match=words):
            NativeEngine.load(folder, **options)
    gaps: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("gemma2", {}, "norms behind attention"),
        ("qwen3_moe", {}, "experts"),
        ("llama", {"hidden_act": "gelu_pytorch_tanh"}, "activation gelu_tanh"),
    )
    for family, shape, gap in gaps:
        with pytest.raises(InvalidInput, match=f"^weights='int8' needs the compiled kernels, which have no {gap};"):
            NativeEngine.load(tiny(family, **shape)[1], weights="int8")
    with pytest.raises(InvalidInput, match="^weights='int8' needs float32 or bfloat16 .*, not torch.float16"):
        choose_ops(_config(), _weights(_config(), torch.float16), "auto", 1, weight_type="int8")


@pytest.mark.parametrize("name", ["smol135", "q05"])
def test_real_models_agree(name: str) -> None:
    """On prose the likeliest next token is mostly the one of bfloat16 weights, and it costs few bits."""
    from transformers import AutoTokenizer

    folder = real.folder(name)
    text = (Path(ops.__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:192])
    found: dict[str | None, tuple[Tensor, float]] = {}
    for kind in (None, *TYPES):
        model = load_model(folder, weight_type=kind, dtype=torch.bfloat16)
        logits = Sequences(model, 1).step([ids.tolist()])
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item()
        found[kind] = logits - logits.mean(-1, keepdim=True), loss
    exact = found[None][0]
    likeliest = exact.topk(2).values
    is_clear = likeliest[:, 0] - likeliest[:, 1] > 0.5
    for kind, agreement, cost, error in (("int8", 0.88, 0.03, 0.06), ("int4", 0.7, 0.5, 0.25)):
        is_same = found[kind][0].argmax(-1) == exact.argmax(-1)
        assert is_same.float().mean() >= agreement and (kind == "int4" or is_same[is_clear].all())
        assert (found[kind][0] - exact).norm() <= error * exact.norm()
        assert found[kind][1] - found[None][1] <= cost


@pytest.mark.parametrize("kind", TYPES)
async def test_engine_decodes_alone_as_among_others(kind: WeightType) -> None:
    """Sampled branches of a real model, in bursts and in steps of many."""

    async def run(runtime: Runtime, index: int) -> str:
        method = Sequential(prompt=f"The number {index} is", max_tokens=12, temperature=0.8)
        return (await (await runtime.submit(method, seed=index))).text

    async with Runtime(str(real.folder("smol135")), weights=kind) as runtime:
        alone = [await run(runtime, i) for i in range(3)]
        together = await asyncio.gather(*(run(runtime, i) for i in range(12)))
    assert alone == together[:3] and all(alone)
