"""Fingerprints of what an evaluation ran: they change with it, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from plait.evals.benchmark import Sample
from plait.evals.environment import samples_digest


@dataclass
class Given:
    numbers: list[int]
    known: frozenset[str]


PLAIN = [None, 3, 2.5, "x", [1, (2, "y")], {"a": {"b": [1]}, 3: None}, Path("a/b")]
UNSTABLE = [
    {"word", "other", "third", "fourth"},
    {("a", 1): {"x"}, ("b", 2): Given([3], frozenset("abcdef"))},
    object(),
    lambda: None,
    threading.Lock(),
    (n for n in range(3)),
]


def digest(data):
    return samples_digest([Sample(id="a", question="?", reference=None, data=data)])


@pytest.mark.parametrize("data", PLAIN, ids=repr)
def test_problems_of_plain_data_are_known_by_what_json_says_of_them(data):
    """So evaluations that were begun earlier go on."""
    rows = [astuple(Sample(id="a", question="?", reference=None, data=data))]
    assert digest(data) == hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()[:16]


def test_problems_are_the_same_in_every_process():
    ask = "from plait.tests.evals.test_environment import *; print(*map(digest, UNSTABLE))"
    # This one's seed is drawn, so its sets are in another order.
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.check_output([sys.executable, "-c", ask], env=env, text=True)
    assert told.split() == [*map(digest, UNSTABLE)]


def test_other_data_is_another_problem():
    others = [
        {1, 2},
        {1, 3},
        {(1, 2): 3},
        {(1, 2): 4},
        {(1, 3): 3},
        Given([1], frozenset("a")),
        Given([1], frozenset("b")),
    ]
    assert len({*map(digest, others)}) == len(others)
