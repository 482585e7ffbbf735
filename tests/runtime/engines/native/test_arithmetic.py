"""Which instructions multiply bfloat16 weights, and tile registers, which are emulated where there are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.runtime.disk import cache_folder
from plait.runtime.engines.native import arithmetic, ops
from plait.runtime.engines.native.config import ModelConfig
from plait.runtime.engines.native.kernels import (
    BFLOAT16,
    BFLOAT16_TILES,
    FLOAT32_HALVED,
    kernel_library,
    open_library,
)
from plait.runtime.engines.native.ops import KernelOps
from plait.runtime.engines.native.weights import Weights
from plait.runtime.errors import InvalidInput
from plait.tests.compiled import EMULATED_TILES, LAYERS, assembly_with_tiles, build

from .test_ops import _config, _inputs, _run, _weights, shapes


def _library() -> CDLL:
    library = kernel_library()
    assert library is not None
    return library


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> CDLL:
    """A library with tile registers, by Intel's description of them."""
    target = tmp_path_factory.mktemp("tiles") / "tiles.so"
    build(LAYERS, target, *EMULATED_TILES, "-fopenmp")
    library = open_library(target)
    assert library.plait_has_tiles()
    return library


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where measurements are kept."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    arithmetic.fastest.cache_clear()
    yield place / "plait"
    arithmetic.fastest.cache_clear()


def _ops(library: CDLL, config: ModelConfig, weights: Weights, kind: int, threads: int = 1) -> KernelOps:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "fastest", lambda _: kind)
        return KernelOps(library, config, weights, threads)


def _project(layer_ops: KernelOps, tokens: Tensor) -> list[Tensor]:
    """One linear layer, of inputs that are rounded alike in all kinds."""
    return [part.clone() for part in layer_ops.qkv(0, layer_ops.embed(tokens))]


@settings(max_examples=20, deadline=None)
@given(config=shapes, rows=st.integers(1, 70), bias=st.booleans(), threads=st.sampled_from([1, 2]))
def test_tiles_equal_vectors(tiles: CDLL, config: ModelConfig, rows: int, bias: bool, threads: int) -> None:
    """Any shape: whole tiles, last ones of few units, few and many rows; with a bias, and added to what is there."""
    weights = _weights(config, torch.bfloat16, bias=bias)
    tokens, attended = _inputs(config, rows)
    by_tiles = _ops(tiles, config, weights, BFLOAT16_TILES, threads)
    vectors = _ops(_library(), config, weights, BFLOAT16)
    for got, want in zip(_project(by_tiles, tokens), _project(vectors, tokens), strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    for got, want in zip(_run(by_tiles, tokens, attended), _run(vectors, tokens, attended), strict=True):
        assert (got - want).norm() <= 0.01 * max(want.norm().item(), want.numel() ** 0.5)


@pytest.mark.parametrize(
    ("inner", "most", "numbers"),
    [
        (200, 70, (1, 2, 15, 16, 17, 31, 32, 33, 48, 49)),
        (200, 530, (1, 33, 512, 513)),  # beyond what goes through the panels together
        (7600, 80, (1, 32, 33, 69, 70, 75)),  # panels so deep that they go by parts, from 70 rows on
    ],
)
def test_rows_in_tiles_do_not_depend_on_the_batch(tiles: CDLL, inner: int, most: int, numbers: tuple[int, ...]) -> None:
    config = _config(hidden=72, inner=inner)
    weights = _weights(config, torch.bfloat16, bias=True)
    tokens, attended = _inputs(config, most)
    expected = _run(_ops(tiles, config, weights, BFLOAT16_TILES), tokens, attended)
    vectors = _run(_ops(_library(), config, weights, BFLOAT16), tokens, attended)
    for got, want in zip(expected, vectors, strict=True):
        assert (got - want).norm() <= 0.01 * want.norm()
    for rows in numbers:
        chosen = torch.randperm(most, generator=torch.Generator().manual_seed(rows))[:rows]
        layer_ops = _ops(tiles, config, weights, BFLOAT16_TILES, threads=1 + rows % 2)
        for got, want in zip(_run(layer_ops, tokens[chosen], attended[chosen]), expected, strict=True):
            assert torch.equal(got, want[chosen])


def test_tile_registers_compile() -> None:
    found = assembly_with_tiles(LAYERS / "ops.cpp")
    assert all(name in found for name in ("ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"))


def test_all_candidates_are_measured(tiles: CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_INPUTS", 64)  # the emulation is slow
    monkeypatch.setattr(arithmetic, "_OUTPUTS", 128)
    assert set(arithmetic.measure(tiles)) == {BFLOAT16, FLOAT32_HALVED, BFLOAT16_TILES}
    measured = arithmetic.measure(_library())
    assert set(measured) == set(arithmetic.candidates(_library()))
    assert all(0 < seconds < 1 for seconds in measured.values())


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({BFLOAT16: 1.0, FLOAT32_HALVED: 2.0}, BFLOAT16),
        ({BFLOAT16: 1.0, FLOAT32_HALVED: 0.9}, BFLOAT16),
        ({BFLOAT16: 1.0, FLOAT32_HALVED: 0.8}, FLOAT32_HALVED),
        ({BFLOAT16: 1.0, FLOAT32_HALVED: 0.8, BFLOAT16_TILES: 0.3}, BFLOAT16_TILES),
    ],
)
def test_the_clearly_faster_one_is_chosen(seconds: dict[int, float], chosen: int) -> None:
    assert arithmetic.choose(seconds) == arithmetic.choose(seconds, seconds) == chosen


def test_measurements_that_do_not_agree_choose_nothing() -> None:
    fast, slow = {BFLOAT16: 1.0, FLOAT32_HALVED: 0.5}, {BFLOAT16: 1.0, FLOAT32_HALVED: 0.9}
    other = {BFLOAT16: 1.0, FLOAT32_HALVED: 0.8, BFLOAT16_TILES: 0.3}
    assert {arithmetic.choose(*pair) for pair in ((fast, slow), (slow, fast), (fast, other))} == {BFLOAT16}


def test_one_measurement_for_a_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "measure", lambda _: {BFLOAT16: 1.0, FLOAT32_HALVED: 0.1})
    assert arithmetic.fastest(_library()) == FLOAT32_HALVED
    assert [*json.loads((folder / "arithmetic.json").read_text()).values()] == ["float32"]

    monkeypatch.setattr(arithmetic, "measure", lambda _: {BFLOAT16: 0.1, FLOAT32_HALVED: 1.0})
    assert arithmetic.fastest(_library()) == FLOAT32_HALVED
    arithmetic.fastest.cache_clear()  # as in a new process
    assert arithmetic.fastest(_library()) == FLOAT32_HALVED
    assert [path.name for path in folder.iterdir()] == ["arithmetic.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"KEY": 3}', '{"KEY": "abacus"}', '{"KEY": "tiles"}', "\xff"]
)
def test_a_file_of_no_use_is_measured_again(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, or of instructions that are not there."""
    monkeypatch.setattr(arithmetic, "candidates", lambda _: (BFLOAT16, FLOAT32_HALVED))
    monkeypatch.setattr(arithmetic, "measure", lambda _: {BFLOAT16: 1.0, FLOAT32_HALVED: 0.1})
    folder.mkdir()
    written = text.replace("KEY", arithmetic.build_key(_library()))
    (folder / "arithmetic.json").write_bytes(written.encode("latin-1"))
    assert arithmetic.fastest(_library()) == FLOAT32_HALVED
    assert "float32" in json.loads((folder / "arithmetic.json").read_text()).values()


@pytest.mark.parametrize("tiles", [False, True])
def test_no_place_for_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    """What is measured at every start may come out otherwise: nothing is."""
    kinds = (BFLOAT16, FLOAT32_HALVED, *((BFLOAT16_TILES,) if tiles else ()))
    monkeypatch.setattr(arithmetic, "candidates", lambda _: kinds)
    monkeypatch.setattr(arithmetic, "measure", lambda _: {**dict.fromkeys(kinds, 1.0), FLOAT32_HALVED: 0.1})
    folder.write_text("a file, no folder")
    assert arithmetic.fastest(_library()) == (BFLOAT16_TILES if tiles else BFLOAT16)
    arithmetic.fastest.cache_clear()

    def nobody(_: object) -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(nobody))
    assert arithmetic.fastest(_library()) == (BFLOAT16_TILES if tiles else BFLOAT16)
    with pytest.raises(InvalidInput, match="XDG_CACHE_HOME"):
        cache_folder("contexts")
