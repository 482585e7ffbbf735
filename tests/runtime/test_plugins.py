"""Things of other packages that are something else than their kind: one line, for those who ask for them."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace

import pytest

from plait import APR, InvalidInput, Runtime, SelfConsistency, register_dialect, register_equality
from plait.agents.edits.base import FORMS
from plait.agents.sandbox.base import SANDBOXES
from plait.evals.benchmark import _benchmarks
from plait.runtime import plugins, runtime
from plait.runtime.cli.command import COMMANDS
from plait.runtime.cli.main import main
from plait.runtime.engines.registry import _schemes
from plait.runtime.equality.registry import EQUALITIES, labels
from plait.runtime.methods.apr.dialect import _dialects
from plait.runtime.methods.registry import METHODS
from plait.search.rewards.base import _rewards
from plait.search.strategies.base import _strategies

FUNCTIONS = [EQUALITIES, _dialects, _schemes]
CLASSES = [METHODS, _benchmarks, SANDBOXES, _rewards, _strategies, FORMS, runtime._runtimes]
ALL = [*FUNCTIONS, *CLASSES, COMMANDS]
BY_GROUP = pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.group)


class Other:
    """Of no kind."""


class Unfinished:
    """`plait unfinished`: 100%s of it."""

    def add_arguments(self, parser):
        raise RuntimeError("50%s")

    def run(self, options):
        return 0


class Ending:
    """The importing of a module that ends the process."""

    def __getattr__(self, name):
        raise SystemExit("bye")


@pytest.fixture
def odd(monkeypatch):
    """A package `odd` with things of every kind."""
    module = SimpleNamespace(
        number=7, other=Other, unfinished=Unfinished(), none=lambda *_: None, five=lambda *_: 5, lists=lambda _: [[1]]
    )
    monkeypatch.setitem(sys.modules, "odd", module)
    monkeypatch.setitem(sys.modules, "odd_end", Ending())
    values = {name: f"odd:{name}" for name in vars(module)} | {"ending": "odd_end:x"}

    def found(group):
        dist = SimpleNamespace(name="odd")
        return [*entry_points(group=group), *(EntryPoint(*one, group)._for(dist) for one in values.items())]

    monkeypatch.setattr("plait.runtime.plugins.entry_points", found)
    for registry in ALL:
        monkeypatch.setattr(registry, "_things", {})
    plugins._entries.cache_clear()
    yield
    plugins._entries.cache_clear()


@pytest.mark.parametrize(
    ("registry", "value"),
    # A class can be called: what it makes is looked at later.
    [*((one, "number") for one in ALL), *((one, "other") for one in (*CLASSES, COMMANDS))],
)
def test_what_is_not_of_its_kind_is_one_line_that_names_its_package(registry, value, odd):
    with pytest.raises(InvalidInput, match=rf"^the .*'{value}' of odd is not an? .* \(odd:{value}\)$"):
        registry.find(value)
    with pytest.raises(InvalidInput, match="'mine' is not a"):
        registry.register("mine", 7)


@BY_GROUP
def test_a_package_that_ends_the_process_cannot_be_loaded(registry, odd):
    with pytest.raises(InvalidInput, match=r"'ending' of odd cannot be loaded \(odd_end:x\): SystemExit: bye"):
        registry.find("ending")


@pytest.mark.parametrize(
    ("name", "told"),
    [("none", "makes NoneType, and no"), ("other", "makes Other, and no"), ("five", "makes int, and no")],
)
def test_what_makes_no_dialect_is_refused(name, told, odd):
    with pytest.raises(InvalidInput, match=f"the dialect '{name}' of odd {told} Dialect"):
        APR(prompt="p", dialect=name)


def test_a_dialect_that_cannot_be_made_is_refused(odd):
    register_dialect("needy", lambda size: None)
    with pytest.raises(InvalidInput, match="the dialect 'needy' cannot be made: TypeError: .*'size'"):
        APR(prompt="p", dialect="needy")


@pytest.mark.parametrize(
    ("name", "told"), [("none", "NoneType"), ("five", "int"), ("lists", "labels that cannot be told")]
)
def test_what_gives_no_labels_is_refused(name, told, odd):
    with pytest.raises(InvalidInput, match=f"the equality '{name}' of odd gave {told}"):
        labels(name, ["a"])
    with pytest.raises(InvalidInput, match="the equality 'number' of odd is not a function"):
        SelfConsistency(prompt="p", equal="number")
    register_equality("mine", lambda answers: (answer for answer in answers))
    assert labels("mine", ["a"]) == {"a": "a"}
    register_equality("deep", lambda answers: [([answer],) for answer in answers])
    with pytest.raises(InvalidInput, match="labels that cannot be told apart"):
        labels("deep", ["a"])


@pytest.mark.parametrize(("name", "told"), [("none", "NoneType"), ("five", "int")])
async def test_what_loads_no_engine_is_refused(name, told, odd):
    with pytest.raises(InvalidInput, match=f"the engine scheme '{name}' of odd gave {told}, and no Engine"):
        async with Runtime(f"{name}:x"):
            pytest.fail("opened")


def test_odd_commands_hurt_only_who_asks_for_them(odd, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "run a job and print its result" in out
    assert "number the command 'number' of odd is not a module or object with" in out
    assert "unfinished the command 'unfinished' of odd cannot say what it takes: RuntimeError: 50%s" in out
    with pytest.raises(SystemExit) as ended:
        main(["rnu"])
    assert ended.value.code == 2 and "Traceback" not in capsys.readouterr().err
    for name in ("number", "unfinished", "ending"):
        assert main([name]) == 1
        assert capsys.readouterr().err.startswith(f"plait: the command '{name}' of odd ")


def test_a_broken_method_is_left_out_of_the_schema(odd, capsys):
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert {"apr", "sequential"} <= {*json.loads(out)["$defs"]} and "odd" not in out
    assert "left out of the schema: the method 'number' of odd is not a class" in " ".join(err.split())
    assert main(["schema", "number"]) == 1
