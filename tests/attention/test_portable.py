"""The kernels as other machines build them: other vector widths, bfloat16 in software, no OpenMP, tile registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from plait.attention import library, span_attention
from plait.tests.attention.scenes import Scene, alone, make_plan, make_pools, prefill, scenes
from plait.tests.attention.test_span_attention import assert_close
from plait.tests.compiled import ATTENTION, EMULATED_TILES, assembly_with_tiles, build


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Call it with the folder of the library that `impl="cpu"` is to be."""

    def use(folder: Path) -> None:
        monkeypatch.setattr(library, "_FOLDER", folder)
        library.load.cache_clear()
        assert library.load() is not None

    yield use
    library.load.cache_clear()


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library with tile registers (AMX) in plain C++."""
    folder = tmp_path_factory.mktemp("tiles")
    build(ATTENTION, folder / "_kernels.so", *EMULATED_TILES)
    return folder


@pytest.mark.parametrize("march", ["x86-64", "x86-64-v4"])
def test_equals_the_reference(march: str, tmp_path: Path, use: Callable[[Path], None]) -> None:
    build(ATTENTION, tmp_path / "_kernels.so", f"-march={march}")
    use(tmp_path)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(scene=scenes())
    def check(scene: Scene) -> None:
        assert_close(scene, "cpu", rounds=False)

    check()


def test_tile_registers_equal_the_reference_and_rows_do_not_meet(tiles: Path, use: Callable[[Path], None]) -> None:
    """Random views; and a row alone gets the same bits."""
    use(tiles)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(scene=scenes().filter(lambda scene: scene.k_pool.dtype == torch.bfloat16))
    def check(scene: Scene) -> None:
        assert_close(scene, "cpu", rounds=True)
        out, lse = scene.run("cpu")
        for row in range(scene.plan.num_rows):
            plan, q = scene.plan, scene.q
            scene.plan, scene.q = alone(plan, row), q[row : row + 1]
            got, got_lse = scene.run("cpu")
            scene.plan, scene.q = plan, q
            assert torch.equal(got[0], out[row]) and torch.equal(got_lse[0], lse[row])

    check()


@pytest.mark.parametrize("size", [40, 64])
def test_prefill_in_tile_registers_whole_in_parts_and_as_decoding(
    size: int, tiles: Path, use: Callable[[Path], None]
) -> None:
    """The same bits, and nothing of what nobody sees."""
    use(tiles)
    tokens = 150
    k_pool, v_pool = make_pools(10, 2, size, dtype=torch.bfloat16)
    k_pool[-1, :, :, tokens - 144 :], v_pool[-1, :, tokens - 144 :] = float("nan"), float("nan")
    q = torch.randn(tokens, 6, size)
    outs = [prefill(q, k_pool, v_pool, step) for step in (150, 128, 7, 1)]
    assert outs[0].isfinite().all()
    assert all(torch.equal(out, outs[0]) for out in outs[1:])


def test_panels_of_one_tile_that_begin_at_different_tokens(tiles: Path, use: Callable[[Path], None]) -> None:
    """What the panel before left in the weights of tokens that this one does not see is not multiplied."""
    use(tiles)
    k_pool, v_pool = make_pools(4, 1, 32, dtype=torch.bfloat16)
    q = torch.randn(32, 1, 32)
    plan = make_plan(32, [list(range(4))], [(0, 16, 0, 0, 60, 0, 0, 0), (16, 16, 0, 20, 60, 0, 0, 0)])
    found = span_attention(q, k_pool, v_pool, plan, scale=0.2, impl="cpu")
    expected = span_attention(q, k_pool, v_pool, plan, scale=0.2, impl="reference")
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_tile_registers_compile() -> None:
    found = assembly_with_tiles(ATTENTION / "span_attention.cpp")
    assert all(name in found for name in ("ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored"))
