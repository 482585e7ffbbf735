"""How many threads a model is worth."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from plait.runtime.engines.native import threads
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.ops import KernelOps
from plait.tests.runtime.engines.native.helpers import tiny


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny("llama")[1]


@pytest.fixture
def ops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KernelOps:
    """Taken for a large one, on 6 cores."""
    monkeypatch.setattr(threads, "_LARGE", 0)
    monkeypatch.setattr(threads, "_cores", lambda: 6)
    found = load_model(folder, impl="cpu").ops
    assert isinstance(found, KernelOps)
    return found


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 10.0, 2: 6.0, 4: 4.0, 6: 3.0}, 6),
        ({1: 10.0, 2: 6.0, 4: 5.5, 6: 5.4}, 2),  # more would gain next to nothing
        ({1: 10.0, 2: 6.0, 4: 5.5, 6: 4.0}, 6),
        ({1: 10.0, 2: 9.0, 4: 30.0, 6: 90.0}, 1),  # a busy machine
    ],
)
def test_as_many_as_pay(
    ops: KernelOps, seconds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_seconds", lambda _, count: seconds[count])
    assert threads.settle_threads(ops) == chosen
    assert ops.work.threads == chosen


def test_a_measurement(ops: KernelOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    assert threads.settle_threads(ops) in (1, 2)


def test_small_models_and_others_take_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_seconds", lambda *_: pytest.fail("nothing is to be measured"))
    for impl in ("cpu", "torch"):
        assert threads.settle_threads(load_model(folder, impl=impl).ops) == 1


@pytest.mark.parametrize(
    ("named", "cores"), [("1", 1), ("3", 3), ("99", 5), ("", 5), ("none", 5), ("0", 5), ("2,1", 5)]
)
def test_no_more_than_the_environment_says(named: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", named)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    assert threads._cores() == cores


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, []), (2, [2]), (3, [2, 3]), (4, [2, 4]), (6, [2, 4, 6]), (9, [2, 4, 8, 9])]
)
def test_counts(cores: int, counts: list[int]) -> None:
    assert threads._counts(cores) == counts


def test_threads_do_not_change_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_LARGE", 0)
    monkeypatch.setattr(threads, "_cores", lambda: 3)
    monkeypatch.setattr(threads, "_seconds", lambda _, count: 1.0 / count)
    model, alone = load_model(folder, num_threads=None), load_model(folder)
    assert isinstance(model.ops, KernelOps) and model.ops.work.threads == 3
    tokens = torch.arange(40)
    assert torch.equal(model.ops.embed(tokens), alone.ops.embed(tokens))
    for got, want in zip(model.ops.qkv(0, tokens), alone.ops.qkv(0, tokens), strict=True):
        assert torch.equal(got, want)
