"""The package as a package: import direction, the public names, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import plait

ROOT = Path(plait.__file__).parent
LAYERS = {
    "attention": set(),
    "runtime": {"attention"},
    "search": {"attention", "runtime"},
    "agents": {"attention", "runtime", "search"},
    "rl": {"attention", "runtime", "search", "agents", "evals"},
    "evals": {"attention", "runtime", "search", "agents"},
    "benchmarks": {"attention", "runtime", "search", "agents", "rl", "evals"},
}
"""Package -> the packages it may import."""


def imported(path: Path) -> set[str]:
    """Packages of plait that a module imports, anywhere in its code."""
    parts = ("plait", *path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: -node.level]) + "." if node.level else ""
            module = (base + (node.module or "")).rstrip(".")
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        found |= {name.split(".")[1] for name in names if name.startswith("plait.")}
    return found & LAYERS.keys()


def test_imports_point_down_only():
    wrong = []
    for package, allowed in LAYERS.items():
        for path in (ROOT / package).rglob("*.py"):
            above = imported(path) - allowed - {package}
            wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in sorted(above)]
    assert not wrong


def test_the_direction_test_sees_relative_and_absolute_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    folder = tmp_path / "runtime" / "methods"
    folder.mkdir(parents=True)
    module = folder / "m.py"
    module.write_text(
        "from ...evals.countdown import x\ndef f():\n    import plait.rl.masks\n    from plait import search"
    )
    assert imported(module) == {"evals", "rl", "search"}


def test_public_names_are_pinned():
    assert plait.__all__ == [
        "APR",
        "BlockUsage",
        "Branch",
        "BranchBusy",
        "BranchClosed",
        "Budget",
        "Capabilities",
        "Completion",
        "Context",
        "Engine",
        "EngineClosed",
        "Finish",
        "FinishReason",
        "Generated",
        "Generation",
        "Hogwild",
        "InvalidBudget",
        "InvalidInput",
        "InvalidJob",
        "Job",
        "JobSpec",
        "Method",
        "Multiverse",
        "NativeEngine",
        "OutOfBlocks",
        "Outcome",
        "PlaitError",
        "PromptTooLong",
        "Recorder",
        "ReplayEngine",
        "Result",
        "Runtime",
        "SamplingParams",
        "ScriptedEngine",
        "SelfConsistency",
        "Sequential",
        "Tokenizer",
        "Trace",
        "TracedBranch",
        "TreeSearch",
        "UnknownModel",
        "UnsupportedByEngine",
        "UnsupportedModel",
        "Usage",
        "errors",
        "events",
        "parse_job",
        "parse_method",
        "register",
        "register_dialect",
        "register_scheme",
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


CODE = """
import sys, time
start = time.perf_counter()
import plait
print(time.perf_counter() - start, *{"transformers", "torch", "rich", "vllm"}.intersection(sys.modules))
"""


def test_import_is_quick_and_light():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    seconds, *heavy = run.stdout.split()
    assert heavy == []
    assert float(seconds) < 2.0
