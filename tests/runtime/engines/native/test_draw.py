"""Sampling of many rows at once against that of one row at a time, token for token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait import SamplingParams
from plait.runtime.engines.native.draw import draw, draw_rows, likeliest
from plait.runtime.engines.native.sampling import NO_TOKEN, Draw, Draws, greedy, sample, uniform, uniforms

VOCAB = 61
NUMBERS = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2.0**-53])
params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.05, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, VOCAB, 500]),
    top_p=st.just(1.0) | st.floats(0.01, 0.999),
    min_p=st.just(0.0) | st.floats(0.001, 1.0),
)
kinds = st.sampled_from(["plain", "plain", "flat", "ties", "few", "nothing", "nan", "inf", "one"])


def make_row(kind: str, generator: torch.Generator) -> Tensor:
    """Logits (V,)."""
    row = 3 * torch.randn(VOCAB, generator=generator)
    at = torch.randperm(VOCAB, generator=generator)
    if kind == "flat":
        row[:] = 1.5
    elif kind == "ties":
        row = torch.randint(4, (VOCAB,), generator=generator).float()
    elif kind == "few":
        row[at[3:]] = -torch.inf
    elif kind == "nothing":
        row[:] = -torch.inf
    elif kind == "one":
        row[at[0]] = 1e4
    elif kind in ("nan", "inf"):
        row[at[0]] = math.nan if kind == "nan" else math.inf
    return row


def draw_all(logits: Tensor, rows: list[SamplingParams], numbers: list[float], device: str = "cpu") -> list[int]:
    columns: list[list[float]] = [
        [p.temperature for p in rows], [p.top_p for p in rows], [p.min_p for p in rows], numbers
    ]  # fmt: skip
    temperature, top_p, min_p, number = (torch.tensor(c, dtype=torch.float64, device=device) for c in columns)
    top_k = torch.tensor([p.top_k for p in rows], device=device)
    return draw(logits.to(device), temperature, top_k, top_p, min_p, number).tolist()


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.tuples(params, kinds, NUMBERS), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_as_one_row_at_a_time(rows: list[tuple[SamplingParams, str, float]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.stack([make_row(kind, generator) for _, kind, _ in rows])
    expected = [d.token for d in sample(logits, [Draw(p, number) for p, _, number in rows])]
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        found = draw_all(logits, [p for p, _, _ in rows], [number for _, _, number in rows], device)
        assert found == expected
    is_none = [kind in ("nothing", "nan", "inf") for _, kind, _ in rows]
    assert [token == NO_TOKEN for token in expected] == is_none
    assert likeliest(logits).tolist() == [d.token for d in greedy(logits)]


def test_top_p_at_the_border_of_a_token() -> None:
    """There the last bit of a sum decides whether one more token stays."""
    rows = [SamplingParams(temperature=1.0, top_p=kept / VOCAB) for kept in range(1, VOCAB)]
    logits, last = torch.full((len(rows), VOCAB), 1.5), 1 - 2.0**-53
    expected = [d.token for d in sample(logits, [Draw(p, last) for p in rows])]
    assert draw_all(logits, rows, [last] * len(rows)) == expected


def test_frequencies_are_the_probabilities() -> None:
    logits, count = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]), 4000
    numbers = ((torch.arange(count) + 0.5) / count).tolist()
    found = draw_all(logits.expand(count, 4), [SamplingParams(temperature=1.0)] * count, numbers)
    shares = torch.tensor(found).bincount(minlength=4) / count
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=1 / count, rtol=0)


@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    first=st.integers(0, 2**40),
    count=st.integers(1, 5),
)
def test_numbers_of_a_burst_are_those_of_its_steps(seeds: list[int], first: int, count: int) -> None:
    begins = [first + i for i in range(len(seeds))]
    found = uniforms(seeds, begins, count)
    assert found.dtype == np.float64
    assert found.tolist() == [
        [uniform(s, at + step) for s, at in zip(seeds, begins, strict=True)] for step in range(count)
    ]


@pytest.mark.parametrize("step", [0, 2])
def test_rows_of_one_step(step: int) -> None:
    chosen = [SamplingParams(temperature=1.5, top_k=7), SamplingParams(), SamplingParams(temperature=0.5, top_p=0.8)]
    seeds, first = [1, 2**63, 3], [4, 0, 9]
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(step))
    draws = Draws.of(chosen, seeds, first, 3)
    each = [Draw(p, uniform(s, at + step)) for p, s, at in zip(chosen, seeds, first, strict=True)]
    assert draw_rows(logits, draws, step).tolist() == [d.token for d in sample(logits, each)]
