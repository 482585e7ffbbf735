"""Syntax trees, by several threads at a time."""

from __future__ import annotations

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plait.agents import definitions
from plait.agents.definitions import bound_names, parse
from plait.runtime.methods.hogwild.finishers import FINISHERS


@pytest.fixture
def restless():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def compiles(text: str) -> bool:
    return FINISHERS["code"].find(f"```\n{text}\n```", "any") is not None


def test_threads_do_not_disturb_each_other(restless):
    text = Path(definitions.__file__).read_text()
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(parse, [text] * 200))
        names = list(pool.map(bound_names, [text] * 200))
        several = pool.map(lambda read: read(text), [parse, bound_names, compiles] * 100)
    assert all(several)
    assert all(tree is not None for tree in trees) and {"parse", "bound_names"} <= set.intersection(*names)
    assert warnings.filters == filters
