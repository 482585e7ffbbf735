"""Configurations made of objects: the same JSON however a method is given, and one clear error where there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest

from plait import APR, Hogwild, InvalidInput, Method, SelfConsistency, Sequential, TreeSearch
from plait.evals import Benchmark, EvalConfig, MethodConfig, benchmark_names, parse_benchmark, run
from plait.search import ETS, PRM, FunctionReward, Rebase, Reward
from plait.tests.evals.tools import engine, grid


def by_length(prompt, steps):
    return 1 / len(steps)


def halves(prompt, steps):
    return 0.5


BY_LENGTH = f"{__name__}.by_length"


@pytest.mark.parametrize(
    "ways",
    [
        [{"method": "apr"}, APR, APR(prompt="x"), {"fields": APR}],
        [
            {"method": "self_consistency", "temperature": 1, "n": 4},
            {"n": 4.0, "temperature": 1.0, "method": "self_consistency"},
            SelfConsistency(prompt=[1, 2], n=4, temperature=1),
        ],
        [{"method": "hogwild", "workers": 2}, Hogwild(prompt="x", workers=("Alice", "Bob"))],
        [
            {"method": "tree_search", "strategy": "ets", "reward": by_length},
            {"method": "tree_search", "strategy": {"strategy": "ets"}, "reward": f"function:{BY_LENGTH}"},
            {"method": "tree_search", "strategy": ETS(), "reward": FunctionReward(function=BY_LENGTH)},
            TreeSearch(prompt="x", strategy=ETS(), reward=by_length),
        ],
        [
            {"method": "tree_search", "generator": Sequential(prompt="x", stop=(";",)), "reward": "prm:countdown_prm"},
            {
                "method": "tree_search",
                "generator": {"method": "sequential", "prompt": "x", "stop": [";"]},
                "reward": PRM(model="countdown_prm"),
            },
        ],
    ],
)
def test_it_makes_no_difference_how_a_method_is_given(ways):
    configs = [grid(methods=(way,)) for way in (*ways, MethodConfig(fields=ways[0]))]
    first = configs[0]
    for config in configs:
        assert config.settings() == first.settings()
        assert config.methods[0].name == first.methods[0].name
        assert config == first
    assert grid(**json.loads(json.dumps(first.settings()))).settings() == first.settings()


def test_what_was_set_counts_but_for_the_prompt():
    method = MethodConfig(fields=Sequential(prompt="no problem", answer="text", max_tokens=None), attempts=3, label="s")
    assert method.fields == {"method": "sequential", "answer": "text", "max_tokens": None}
    assert (method.name, method.attempts) == ("s", 3)
    benchmark = grid().benchmark
    sample = benchmark.load()[0]
    given = benchmark.prompt(sample, "sequential")
    assert given["answer"] != "text"
    built = method.build(benchmark, sample, 99)
    assert built == Sequential(**{**given, "answer": "text", "max_tokens": None, "context_limit": 99})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"method": "tree_search", "width": 4, "strategy": "ets"}, "tree_search strategy=ets width=4"),
        ({"method": "tree_search", "strategy": ETS(floor=True)}, "tree_search strategy=ets(floor=True)"),
        ({"method": "tree_search", "reward": by_length}, f"tree_search reward=function(function={BY_LENGTH})"),
        (
            {"method": "tree_search", "reward": "prm:m", "temperature": 2},
            "tree_search reward=prm(model=m) temperature=2",
        ),
        (
            {"method": "tree_search", "generator": Sequential(prompt="p", stop=("a", "b"))},
            "tree_search generator=sequential(prompt=p, stop=['a', 'b'])",
        ),
        (
            {"method": "sequential", "temperature": 0.25, "max_tokens": None},
            "sequential max_tokens=None temperature=0.25",
        ),
    ],
)
def test_labels_are_short(fields, name):
    assert MethodConfig(fields=fields).name == name


async def test_a_grid_of_objects_is_run_and_goes_on_as_json(tmp_path):
    def script(context):
        return " 3 + 5 = 8 ;"

    objects = grid(methods=(TreeSearch(prompt="x", reward=by_length, strategy=Rebase(), width=2, max_depth=2), APR))
    first = engine(script)
    await run(objects, tmp_path, engine=first)
    settings = json.loads((tmp_path / "settings.json").read_text())["settings"]
    assert settings["methods"][0]["fields"]["reward"] == {"reward": "function", "function": BY_LENGTH}
    units = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(units) == 12 and not [row for unit in units for row in unit["rows"] if row["error"]]
    assert any(prompt.startswith("step ") for prompt in first.prompts)
    fields = {"method": "tree_search", "reward": f"function:{BY_LENGTH}", "strategy": "rebase", "width": 2}
    idle = engine(script)
    await run(grid(methods=({**fields, "max_depth": 2}, {"method": "apr"})), tmp_path, engine=idle)
    assert idle.prompts == []


def test_functions_of_one_place_are_two_methods():
    fields = [{"method": "tree_search", "reward": lambda prompt, steps, worth=worth: worth} for worth in (1.0, 2.0)]
    one, two = grid(methods=fields).methods
    assert one.name != two.name
    assert two.fields["reward"]["function"] == f"{one.fields['reward']['function']}#2"


class Mine(Reward):
    reward: Literal["prm"] = "prm"
    model: str = "m"

    def check(self):
        pass

    async def open(self, ctx, prompt, tokenizer):
        raise NotImplementedError


class Other(Sequential):
    """Has the name of another."""


class Nameless(Method):
    async def run(self, ctx):
        raise NotImplementedError


class Own(Benchmark):
    name: Literal["own"] = "own"
    check: Callable[..., Any] | None = None

    def load(self):
        return []

    def prompt(self, sample, method):
        return {}

    def grade(self, sample, answer, text):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": [{"method": "nonsense"}]}, "methods.0: .*unknown method 'nonsense'; known: apr"),
        ({"methods": [{}]}, "unknown method None"),
        ({"methods": []}, "methods: there is none"),
        ({"budgets": []}, "budgets: there is none"),
        ({"methods": [{"method": "sequential"}, {"method": "apr", "top_p": 7, "deep": 1}]}, "methods.1: .*top_p.*deep"),
        ({"methods": [{"fields": {"method": "apr", 3: 1}}]}, "malformed APR: 3"),
        ({"methods": ["sequential"]}, "methods.0"),
        ({"methods": [int]}, "a method is a dict, a method or its class, not type"),
        ({"methods": [{"fields": 3}]}, "a method is a dict, a method or its class, not int"),
        ({"methods": [{"method": "tree_search", "reward": 3}]}, "reward: .*a name, an object or a function, not int"),
        ({"methods": [{"method": "tree_search", "reward": Mine()}]}, "reward: Mine is not registered"),
        ({"methods": [Other]}, "Other is not registered"),
        ({"methods": [Other(prompt="x")]}, "Other is not registered"),
        ({"methods": [Nameless]}, "Nameless is not registered"),
        ({"methods": [{"method": "sequential", "temperature": math.inf}]}, "temperature: .*finite number"),
        ({"benchmark": Own(check=by_length)}, "benchmark own: check: it cannot be written as JSON"),
        ({"engine": {"kv_tokens": 1, "device": object()}}, "engine: it cannot be written as JSON"),
    ],
)
def test_what_is_no_json_is_said_at_once(changes, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        grid(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "window", "limit"), [(None, None, None), (80, None, 80), (None, 60, 60), (80, 60, 60), (80, 400, 80)]
)
def test_a_window_holds_unless_the_methods_own_limit_is_less(own, window, limit):
    benchmark = grid().benchmark
    fields = {"method": "sequential"} if own is None else {"method": "sequential", "context_limit": own}
    assert MethodConfig(fields=fields).build(benchmark, benchmark.load()[0], window).context_limit == limit


def test_a_method_config_alone_is_checked_too():
    with pytest.raises(InvalidInput, match="malformed method: .*max_token: Extra"):
        MethodConfig(fields={"method": "sequential", "max_token": 3})
    with pytest.raises(InvalidInput, match="attempts"):
        MethodConfig(fields=APR, attempts=0)


def test_a_benchmark_may_be_an_object():
    benchmark = parse_benchmark({"name": "countdown", "numbers": 3, "count": 6})
    assert grid(benchmark=benchmark).settings() == grid().settings()
    assert grid(benchmark=Own()).settings()["benchmark"] == {"name": "own"}


def test_every_field_says_what_it_is():
    benchmarks = [type(parse_benchmark({"name": name})) for name in benchmark_names()]
    assert len(benchmarks) >= 6
    for cls in (EvalConfig, MethodConfig, Benchmark, *benchmarks):
        assert [name for name, field in cls.model_fields.items() if not field.description] == [], cls
