"""Other harnesses over the server; see `benchmarks/harnesses`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from plait.benchmarks.harnesses.__main__ import write_problems
from plait.benchmarks.harnesses.graders import grade


def test_problems_and_their_grades(tmp_path):
    write_problems(tmp_path / "problems", 5, 4)
    docs = [json.loads(line) for line in (tmp_path / "problems").read_text().splitlines()]
    assert len(docs) == 5 and all(len(set(doc["choices"])) > 1 and doc["prompt"] for doc in docs)
    doc = {"nums": [8, 3, 1, 2], "target": 48}
    assert grade(doc, ["answer 8*3*(1+1)"]) == {"correct": 0.0}
    assert grade(doc, [""]) == {"correct": 0.0}
    assert grade(doc, ["answer 8 * 3 * 2 * 1"]) == {"correct": 1.0}


@pytest.mark.timeout(600)
@pytest.mark.skipif(not (find_spec("lm_eval") and find_spec("inspect_ai")), reason="needs lm-eval and inspect-ai")
def test_scores_are_the_same():
    command = [sys.executable, "-m", "plait.benchmarks.harnesses", "--count", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n| answers |") == 3
