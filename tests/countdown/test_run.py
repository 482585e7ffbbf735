"""The evaluation command, on the shipped model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from plait.evals.countdown.problems import Problem
from plait.evals.countdown.run import run
from plait.evals.stats import wilson
from plait.runtime.runtime import Runtime


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_equal_published_ones(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_wilson_rejects_nonsense():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2"):
        wilson(3, 2)


async def test_a_wrong_answer_is_counted_as_unsolved():
    problems = [Problem((8, 3, 1), 24), Problem((2, 3, 1), 97)]
    async with Runtime("countdown") as runtime:
        report = await run(runtime, "apr", problems, context=512)
    rows = {row["target"]: row for row in report.rows}
    assert not rows[97]["solved"]
    assert rows[97]["reason"]
    assert report.mean("total_tokens") > 0


def test_the_command_writes_a_table_and_verdicts(tmp_path):
    data = tmp_path / "problems.jsonl"
    data.write_text('{"nums": [8, 3, 1], "target": 24}\n{"nums": [60, 30, 9, 1], "target": 99}\n')
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "plait.evals.countdown.run", "--data", str(data), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "/2" in done.stdout
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 2
