"""The package as a package: import contracts, the public names, and what importing costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import plait

ROOT = Path(plait.__file__).parent


def lint(folder):
    """Run import-linter on the package `plait` in a folder, by the contracts of pyproject.toml."""
    program = Path(sys.executable).with_name("lint-imports")
    config = ROOT / "pyproject.toml"
    command = [program, "--config", config, "--no-cache"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package's sources, in a folder of their own."""
    folder = tmp_path_factory.mktemp("contracts")
    for path in ROOT.rglob("*.py"):
        inner = path.relative_to(ROOT)
        if inner.parts[0] not in ("build", "tests", ".venv"):
            (folder / "plait" / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "plait" / inner)
    return folder


BROKEN = {
    "a circle": ("runtime/jobs/state.py", "from .branch import TracedBranch", "no circle"),
    "a circle for types": (
        "runtime/trace/record.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .trace import Trace",
        "no circle",
    ),
    "a circle in a function": ("evals/rows.py", "def f():\n    from .runner import run", "no circle"),
    "upwards": ("search/node.py", "from ..evals import stats", "imports between packages point down"),
    "attention knows nobody": ("attention/plan.py", "from ..runtime import errors", "imports between packages"),
    "engines know no jobs": ("runtime/engines/scripted.py", "from ..jobs import state", "inside the runtime"),
    "methods": ("runtime/methods/apr/compact.py", "from ..multiverse import grammar", "methods know nothing"),
    "engines": ("runtime/engines/native/store.py", "from .. import replay", "nor do engines"),
    "strategies": ("search/strategies/beam.py", "from . import ets", "nor strategies"),
    "benchmarks": ("evals/benchmarks/rag/benchmark.py", "from ..countdown import solver", "nor benchmarks"),
}


def test_import_contracts_hold(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract_is_red(copy, name):
    file, line, contract = BROKEN[name]
    path = copy / "plait" / file
    text = path.read_text()
    try:
        path.write_text(f"{text}\n{line}\n")
        done = lint(copy)
    finally:
        path.write_text(text)
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith(contract) and "BROKEN" in line]


def test_public_names_are_pinned():
    assert plait.__all__ == [
        "APR",
        "Answering",
        "BlockUsage",
        "Branch",
        "BranchBusy",
        "BranchClosed",
        "BrokerUnreachable",
        "Budget",
        "Capabilities",
        "Child",
        "ChoiceConstraint",
        "CodeMonkeys",
        "Completion",
        "Constraint",
        "Context",
        "Costs",
        "Decoding",
        "Dialect",
        "Engine",
        "EngineClosed",
        "Finish",
        "FinishReason",
        "Generated",
        "Generation",
        "GrammarConstraint",
        "Hogwild",
        "InvalidBudget",
        "InvalidInput",
        "InvalidJob",
        "Job",
        "JobFailed",
        "JobSpec",
        "Joined",
        "JsonConstraint",
        "Method",
        "Multiverse",
        "NativeEngine",
        "NonFiniteLogits",
        "OutOfBlocks",
        "OutOfBudget",
        "Outcome",
        "PlaitError",
        "PromptTooLong",
        "Recorder",
        "RegexConstraint",
        "ReplayEngine",
        "Result",
        "Runtime",
        "SamplingDefaults",
        "SamplingParams",
        "ScriptedEngine",
        "SelfConsistency",
        "Sequential",
        "ServerFailed",
        "Spawn",
        "Tokenizer",
        "Tool",
        "Trace",
        "TracedBranch",
        "TreeSearch",
        "UnknownModel",
        "UnsupportedByEngine",
        "UnsupportedModel",
        "Usage",
        "WorkerLost",
        "__version__",
        "context_text",
        "errors",
        "evals",
        "events",
        "extract",
        "parse_job",
        "parse_method",
        "prompt_tokens",
        "register",
        "register_command",
        "register_dialect",
        "register_equality",
        "register_scheme",
        "search",
        "send_spans",
    ]
    for name in plait.__all__:
        assert getattr(plait, name) is not None


def test_every_public_thing_is_documented():
    for name in plait.__all__:
        thing = getattr(plait, name)
        if isinstance(thing, type) and thing is not plait.FinishReason:  # its members are, one by one
            assert (thing.__doc__ or "").strip(), name


def test_every_error_is_a_plait_error_and_exported():
    errors = [e for e in vars(plait.errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert all(issubclass(error, plait.PlaitError) for error in errors)
    assert {error.__name__ for error in errors} <= set(plait.__all__)


def test_every_entry_point_leads_somewhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["entry-points"]
    kinds = {"benchmarks", "commands", "dialects", "edits", "engines", "equalities", "methods", "rewards"}
    kinds |= {"runtimes", "sandboxes", "strategies"}
    assert set(groups) == {f"plait.{kind}" for kind in kinds}
    for group, entries in groups.items():
        for name, value in entries.items():
            assert EntryPoint(name, value, group).load() is not None


CODE = """
import sys, time
start = time.process_time()
import plait
print(time.process_time() - start, *{"transformers", "torch", "triton", "rich", "vllm"}.intersection(sys.modules))
"""


def test_import_is_quick_and_light():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    seconds, *heavy = run.stdout.split()
    assert heavy == []
    assert float(seconds) < 2.0


HELP = """
import sys
from plait.runtime.cli.main import main
try:
    main(["--help"])
finally:
    print(*{"transformers", "torch", "triton", "vllm", "datasets"}.intersection(sys.modules), file=sys.stderr)
"""


def test_the_list_of_commands_is_light():
    """It reads the first line of each command's module."""
    run = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "calibrate-ape" in run.stdout and run.stderr == "\n"
