"""Lists of values in a method's fields stand for a grid; lists that a field takes stay as they are."""

from __future__ import annotations

import re
import tomllib
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plait
from plait import InvalidInput
from plait.evals import EvalConfig
from plait.evals.config import read_toml
from plait.tests.evals.tools import grid


def names(*methods):
    return [method.name for method in grid(methods=methods).methods]


def test_a_list_for_a_scalar_is_a_grid():
    assert names({"method": "sequential", "temperature": [0, 0.6]}) == [
        "sequential temperature=0",
        "sequential temperature=0.6",
    ]
    assert names({"method": "self_consistency", "n": [2, 4], "top_p": [0.5], "label": "SC"}) == [
        "SC n=2 top_p=0.5",
        "SC n=4 top_p=0.5",
    ]
    assert len(names({"method": "tree_search", "strategy": ["ets", "beam"], "width": [2, 4, 8]})) == 6
    nested = grid(methods=[{"fields": {"method": "sequential", "top_k": [1, 2]}, "attempts": 3}]).methods
    assert [(m.fields["top_k"], m.attempts) for m in nested] == [(1, 3), (2, 3)]


def test_a_list_that_the_field_takes_is_one_value():
    (method,) = grid(methods=[{"method": "sequential", "stop": ["a", "b"]}]).methods
    assert method.fields["stop"] == ["a", "b"]
    (method,) = grid(methods=[{"method": "hogwild", "workers": ["Ann", "Ben"]}]).methods
    assert method.fields["workers"] == ["Ann", "Ben"]
    two = grid(methods=[{"method": "sequential", "stop": [["a"], ["b", "c"]]}]).methods
    assert [method.fields["stop"] for method in two] == [["a"], ["b", "c"]]
    assert len(names({"method": "hogwild", "workers": [2, 3]})) == 2


def test_in_a_file(tmp_path):
    path = tmp_path / "sweep.toml"
    method = 'method = "sequential"\ntemperature = [0, 0.6]\nstop = ["x", "y"]\n'
    path.write_text(f'[benchmark]\nname = "countdown"\n[[methods]]\n{method}')
    config = EvalConfig(**read_toml(path))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a BOM, as some editors write
    assert EvalConfig(**read_toml(path)) == config
    assert [m.fields["temperature"] for m in config.methods] == [0, 0.6]
    assert [m.fields["stop"] for m in config.methods] == [["x", "y"]] * 2
    assert grid(methods=config.settings()["methods"]).methods == config.methods  # what is expanded stays as it is


def test_the_example_of_the_docs():
    text = (Path(plait.__file__).parent / "docs" / "evaluations.md").read_text()
    methods = tomllib.loads(re.search("```toml\n(.*?)```", text, re.DOTALL)[1])["methods"]
    found = grid(methods=methods).methods
    assert [(m.fields["n"], m.fields["temperature"]) for m in found] == [(4, 0.6), (4, 1.0), (16, 0.6), (16, 1.0)]
    assert all(m.fields["stop"] == ["\n\n", "END"] for m in found)


@given(
    st.dictionaries(
        st.sampled_from(["top_k", "n", "max_tokens"]), st.lists(st.integers(1, 50), min_size=1, max_size=3, unique=True)
    )
)
def test_all_combinations_in_order(lists):
    methods = grid(methods=[{"method": "self_consistency", **lists}]).methods
    assert [tuple(m.fields[name] for name in lists) for m in methods] == list(product(*lists.values()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": [0, "x"]}, "methods: .*number 1: malformed Sequential: temperature: .*valid number"),
        ({"temperature": []}, "number 1: malformed Sequential: temperature"),
        ({"temperature": [0, 0.0]}, "twice"),
        ({"attempts": [1, 2]}, "attempts"),
        ({"temperatur": [1, 2]}, "temperatur: Extra"),
        ({"stop": [["a"], "b", 3]}, "stop"),
        ({"temperature": [0, 1], "label": [1]}, "label"),
    ],
)
def test_lists_that_are_neither(fields, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        grid(methods=[{"method": "apr"}, {"method": "sequential", **fields}])
    assert "\n" not in str(caught.value)
