"""AWQ and GPTQ folders against the ordinary folder with the same weights; packed here, bit by bit, by the layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from plait.runtime.engines.native.checkpoint import open_checkpoint
from plait.runtime.engines.native.integers import Blocks
from plait.runtime.engines.native.loader import load_config, load_model
from plait.runtime.engines.native.quantised import Quantisation
from plait.runtime.errors import InvalidInput, UnsupportedModel
from plait.tests.runtime.engines.native.helpers import Sequences, tiny

DOCUMENT = [3, 1, 4, 1, 5, 9, 2, 6]


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers as one long row of bits, lowest first, cut into int32: (rows, n) -> (rows, n * bits / 32)."""
    spread = (values[:, :, None] >> np.arange(bits)) & 1
    stream = spread.reshape(len(values), -1, 32).astype(np.uint64)
    return (stream << np.arange(32, dtype=np.uint64)).sum(-1).astype(np.uint32).view(np.int32)


def pack_awq(values: np.ndarray) -> np.ndarray:
    """Eight outputs per int32, in the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits up."""
    return pack_bits(values.reshape(len(values), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(values.shape), 4)


def quantised(tmp_path: Path, config: dict[str, Any], *, order: bool = False, seed: int = 0) -> tuple[Path, Path]:
    """A model whose attention and MLP matrices are packed as `config` says, and the same one unpacked."""
    model, plain = tiny("llama", seed=seed)
    packed, bits, size = tmp_path / "packed", config["bits"], config["group_size"]
    shutil.copytree(plain, packed)
    (tmp_path / "plain").mkdir()
    rng = np.random.default_rng(seed)
    kept, stored = dict(model.state_dict()), {}
    for name, weight in model.state_dict().items():
        if "_proj" not in name:
            stored[name] = weight.contiguous()
            continue
        base, (outputs, inputs) = name.removesuffix(".weight"), weight.shape
        size = inputs if config["group_size"] == -1 else config["group_size"]
        groups = np.arange(inputs) // size
        if order:
            groups = rng.permutation(groups)
        values = rng.integers(0, 1 << bits, (inputs, outputs))
        zeros = rng.integers(0, 1 << bits, (inputs // size, outputs))
        if config.get("sym"):
            zeros[:] = 1 << (bits - 1)
        scales = (0.2 * rng.random(zeros.shape) / (1 << bits)).astype(np.float16)
        whole = (values - zeros[groups]).astype(np.float32) * scales[groups].astype(np.float32)
        kept[name] = torch.from_numpy(whole.T.copy())
        if config["quant_method"] == "awq":
            parts = {"qweight": pack_awq(values), "qzeros": pack_awq(zeros)}
        else:
            shift = 0 if config.get("checkpoint_format") == "gptq_v2" else 1
            parts = {
                "qweight": pack_bits(values.T, bits).T.copy(),
                "qzeros": pack_bits((zeros - shift) & ((1 << bits) - 1), bits),
                "g_idx": groups.astype(np.int32),
            }
        stored |= {f"{base}.{part}": torch.from_numpy(array) for part, array in parts.items()}
        stored[f"{base}.scales"] = torch.from_numpy(scales)
    save_file(stored, packed / "model.safetensors")
    data = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**data, "quantization_config": config}))
    shutil.copy(plain / "config.json", tmp_path / "plain")
    save_file({n: t.contiguous() for n, t in kept.items()}, tmp_path / "plain" / "model.safetensors")
    return packed, tmp_path / "plain"


CONFIGS: list[tuple[dict[str, Any], bool]] = [
    ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, False),
    ({"quant_method": "awq", "bits": 4, "group_size": -1}, False),
    *(({"quant_method": "gptq", "bits": bits, "group_size": 32, "sym": False}, False) for bits in (2, 3, 4, 8)),
    ({"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": True, "desc_act": False}, False),
    ({"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True}, True),
    ({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}, False),
]


@pytest.mark.parametrize(("config", "order"), CONFIGS, ids=lambda value: json.dumps(value))
def test_the_same_as_unpacked(config: dict[str, Any], order: bool, tmp_path: Path) -> None:
    packed, plain = quantised(tmp_path, config, order=order)
    ours, theirs = open_checkpoint(packed), open_checkpoint(plain)
    for name in load_file(plain / "model.safetensors"):
        assert torch.equal(ours.tensor(name, torch.float32), theirs.tensor(name, torch.float32)), name
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(ours.tensor(name, torch.float32, [3, 1]), theirs.tensor(name, torch.float32)[[3, 1]])
    found, expected = (Sequences(load_model(folder), 1).step([DOCUMENT]) for folder in (packed, plain))
    assert torch.equal(found, expected)
    assert ours.num_tensors == theirs.num_tensors
    assert load_config(packed) == load_config(plain)


@pytest.mark.parametrize(("config", "order"), CONFIGS, ids=lambda value: json.dumps(value))
def test_bits_that_keep_a_weight(config: dict[str, Any], order: bool, tmp_path: Path) -> None:
    packed, plain = quantised(tmp_path, config, order=order)
    checkpoint, name = open_checkpoint(packed), "model.layers.0.mlp.down_proj.weight"
    is_fine = config["bits"] == 8 or config["group_size"] == 16
    bits = checkpoint.bits(name)
    assert checkpoint.is_quantised and bits == (8 if is_fine else 4)
    assert checkpoint.bits("model.norm.weight") is None and checkpoint.bits("model.embed_tokens.weight") is None
    assert not open_checkpoint(plain).is_quantised and open_checkpoint(plain).bits(name) is None
    weight = checkpoint.tensor(name, torch.float32)
    error = (Blocks.of(weight, bits).numbers(weight.shape[1]) - weight).abs().max()
    assert error <= (1 / 127 if bits == 8 else 2e-3) * weight.abs().max()


@pytest.mark.parametrize(
    ("groups", "bits"),
    [
        ({}, 4),
        ({"group_size": -1}, 4),
        ({"group_size": 128}, 4),
        ({"q_group_size": 64}, 4),
        ({"group_size": 16}, 8),
        ({"group_size": 128, "desc_act": True}, 8),
        ({"group_size": None}, 8),
    ],
)
def test_bits_that_groups_need(groups: dict[str, Any], bits: int) -> None:
    """4 where any 32 neighbouring inputs share a scale."""
    assert Quantisation.from_hf({"quant_method": "gptq", "bits": 4, **groups}).nearest_bits == bits


def test_a_packing_without_groups_of_its_own(tmp_path: Path) -> None:
    """Early GPTQ files have no g_idx: groups follow each other."""
    packed, plain = quantised(tmp_path, CONFIGS[4][0])
    tensors = {n: t for n, t in load_file(packed / "model.safetensors").items() if not n.endswith("g_idx")}
    save_file(tensors, packed / "model.safetensors")
    found, expected = (Sequences(load_model(folder), 1).step([DOCUMENT]) for folder in (packed, plain))
    assert torch.equal(found, expected)


def test_large_quantised_models_are_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = quantised(tmp_path, CONFIGS[0][0])
    assert load_model(packed).dtype == torch.float32
    monkeypatch.setattr("plait.runtime.engines.native.loader._SMALL", 1000)
    assert load_model(packed).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes.*supported: awq, gptq, GGUF"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"bits": 4}, "unknown"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "awq with 4 bits in the format 'gemv'"),
        ({"quant_method": "awq", "bits": 3}, "awq with 3 bits"),
        ({"quant_method": "gptq", "bits": 5}, "gptq with 5 bits"),
        ({"quant_method": "gptq", "bits": 4.0}, "gptq with 4.0 bits"),
        ({"quant_method": "awq", "bits": 4.0}, "awq with 4.0 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "gptq", "bits": "4"}, "gptq with '4' bits"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {"bits": 8}}}, "dynamic"),
    ],
)
def test_other_methods_are_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("llama")[1], tmp_path / "model"))
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, "quantization_config": config}))
    with pytest.raises(UnsupportedModel, match=message):
        load_model(folder)


LAYER = "model.layers.1.self_attn.o_proj"


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("scales", torch.zeros(2, 60, dtype=torch.float16), "do not fit each other"),
        ("scales", torch.zeros(3, 64, dtype=torch.float16), "do not fit|do not divide"),
        ("g_idx", torch.full((64,), 7, dtype=torch.int32), "names groups beyond"),
        ("g_idx", torch.zeros(3, dtype=torch.int32), "do not fit each other"),
        ("qweight", None, f"lacks the tensor {LAYER}.weight"),
        ("scales", None, rf"lacks the tensor {LAYER}\.scales"),
        ("qzeros", None, rf"lacks the tensor {LAYER}\.qzeros"),
    ],
)
def test_damaged_packings(part: str, tensor: torch.Tensor | None, message: str, tmp_path: Path) -> None:
    packed, _ = quantised(tmp_path, CONFIGS[4][0])
    tensors = load_file(packed / "model.safetensors")
    if tensor is None:
        del tensors[f"{LAYER}.{part}"]
    else:
        tensors[f"{LAYER}.{part}"] = tensor
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(InvalidInput, match=message):
        load_model(packed)


KINDS = [torch.int32, torch.int64, torch.int16, torch.uint8, torch.bool, torch.float16, torch.float32]
odd_tensors = st.builds(
    lambda shape, dtype: torch.ones(shape).to(dtype),
    st.sampled_from([(), (8,), (64,), (2, 8), (8, 8), (64, 8), (2, 64), (1, 8, 8), (0, 8), (8, 0), (0,)]),
    st.sampled_from(KINDS),
)


@given(
    st.sampled_from([Quantisation(method="awq", bits=4), Quantisation(method="gptq", bits=3)]),
    st.dictionaries(st.sampled_from(["qweight", "qzeros", "scales", "g_idx"]), odd_tensors, max_size=2),
)
def test_parts_of_any_kind_are_taken_or_named(packing: Quantisation, odd: dict[str, torch.Tensor]) -> None:
    is_awq = packing.method == "awq"
    parts = {
        "qweight": torch.zeros((64, 8) if is_awq else (6, 64), dtype=torch.int32),
        "qzeros": torch.zeros((2, 8) if is_awq else (2, 6), dtype=torch.int32),
        "scales": torch.ones(2, 64, dtype=torch.float16),
        "g_idx": torch.zeros(64, dtype=torch.int32),
    } | odd

    def read(name: str) -> torch.Tensor:
        return parts[name.removeprefix("layer.")]

    try:
        weight = packing.weight("layer", read, torch.float32)
    except InvalidInput as error:
        assert odd and str(error).startswith("layer")
        return
    assert weight.ndim == 2 and weight.isfinite().all()
    for name, tensor in odd.items():
        if name != "g_idx" or not is_awq:
            assert tensor.ndim == (1 if name == "g_idx" else 2)
            assert tensor.is_floating_point() == (name == "scales") and tensor.dtype != torch.bool
