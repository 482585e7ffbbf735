"""What is counted as done twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from plait.benchmarks import overlap
from plait.evals import EvalConfig, run


def test_shares_of_texts() -> None:
    a, b, c = [1, 2, 3, 4, 5], [9, 2, 3, 4, 8, 7], [1, 2]
    # Of a's three runs of 3 one is in b, of b's four one is in a; c has none.
    assert overlap.overlap([a, b, c], 3) == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert overlap.overlap([a, a], 3) == 1.0
    assert overlap.overlap([a, c], 3) is None and overlap.overlap([], 3) is None
    assert overlap.overlap([a, [6] * 9], 2) == 0.0


async def test_table_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Workers that are told the same greedily write the same; one text alone is none that is written twice."""
    methods = [
        {"label": "votes", "method": "self_consistency", "n": 3, "temperature": 0, "max_tokens": 24},
        {"label": "one", "method": "sequential", "max_tokens": 24},
    ]
    benchmark = {"name": "countdown", "numbers": 3, "count": 2}
    config = EvalConfig.model_validate({"model": "countdown", "benchmark": benchmark, "methods": methods})
    await run(config, tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["overlap", str(tmp_path / "out"), "--length", "4"])
    overlap.main()
    assert capsys.readouterr().out.splitlines()[2:] == ["| votes | 2 | 100.0 % |"]
