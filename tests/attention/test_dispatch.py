"""Which implementation `impl="auto"` takes, and what happens without the compiled kernels."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plait.attention import library, span_attention
from plait.attention.plan import AttentionPlan
from plait.attention.span import Impl
from plait.tests.attention.scenes import make_plan, make_pools

PLAN = [(0, 2, 0, 0, 20, 1, 0, 0)]


def _attend(impl: Impl = "auto", size: int = 48, q: Tensor | None = None, plan: AttentionPlan | None = None) -> Tensor:
    k_pool, v_pool = make_pools(2, 2, size)
    q = torch.ones(2, 4, size) if q is None else q
    return span_attention(q, k_pool, v_pool, plan or make_plan(2, [[0, 1]], PLAN), scale=0.2, impl=impl)


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    library.load.cache_clear()
    library.warn_missing.cache_clear()
    yield
    library.load.cache_clear()
    library.warn_missing.cache_clear()


def test_auto_uses_the_kernels_if_they_are_there() -> None:
    plan = make_plan(2, [[0, 1]], PLAN)
    _attend(plan=plan)
    assert ("cpu" in plan.derived) == (library.load() is not None)


def test_without_the_library_plain_torch_serves_and_one_warning_says_so(no_library: None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outs = [_attend(), _attend()]
    assert [str(warning.message).split(",")[0] for warning in caught] == [
        "plait's compiled attention kernels are missing"
    ]
    assert caught[0].category is RuntimeWarning
    assert Path(caught[0].filename).name == Path(__file__).name
    torch.testing.assert_close(outs[0], _attend("reference"))
    assert torch.equal(outs[0], outs[1])


def test_asking_for_the_kernels_without_the_library_says_how_to_build_them(no_library: None) -> None:
    with pytest.raises(RuntimeError, match="C\\+\\+ compiler"):
        _attend("cpu")


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI", -1)
    library.load.cache_clear()
    assert library.load() is None
    library.load.cache_clear()


@pytest.mark.parametrize("size", [8, 20])
def test_other_head_sizes_take_plain_torch(size: int) -> None:
    torch.testing.assert_close(_attend(size=size), _attend("reference", size=size))


def test_gradients_flow_through_plain_torch() -> None:
    q = torch.ones(2, 4, 48, requires_grad=True)
    _attend(q=q).sum().backward()
    assert q.grad is not None and q.grad.ne(0).any()
    with torch.no_grad():
        torch.testing.assert_close(_attend(q=q), _attend("reference"))


def test_tensors_that_do_not_fit_are_refused() -> None:
    k_pool, v_pool = make_pools(2, 2, 48)
    plan = make_plan(2, [[0, 1]], PLAN)
    cases: list[tuple[Tensor, Tensor, Tensor, str]] = [
        (torch.ones(3, 4, 48), k_pool, v_pool, "q must have shape"),
        (torch.ones(2, 3, 48), k_pool, v_pool, "multiple of 2"),
        (torch.ones(2, 4, 32), k_pool, v_pool, "D = 32"),
        (torch.ones(2, 4, 48), k_pool, k_pool, "D = 48"),
        (torch.ones(2, 4, 48), k_pool, v_pool.bfloat16(), "same dtype"),
        (torch.ones(2, 4, 48), k_pool[..., :8], v_pool[:, :, :8], "multiple of 16"),
    ]
    impls: list[Impl] = ["auto", "torch"]
    for impl in impls:
        for q, keys, values, message in cases:
            with pytest.raises(ValueError, match=message):
                span_attention(q, keys, values, plan, scale=1.0, impl=impl)
    with pytest.raises(ValueError, match="must be contiguous"):
        span_attention(torch.ones(2, 4, 48), k_pool.mT.contiguous().mT, v_pool, plan, scale=1.0, impl="cpu")
    with pytest.raises(ValueError, match="out must be"):
        span_attention(torch.ones(2, 4, 48), k_pool, v_pool, plan, scale=1.0, out=torch.ones(2, 4, 48).double())


def test_a_plan_that_outlives_the_interpreter_says_nothing() -> None:
    script = """
from plait.attention import span_attention
from plait.tests.attention.test_dispatch import PLAN, _attend, make_plan
plan = make_plan(2, [[0, 1]], PLAN)
_attend(plan=plan)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
