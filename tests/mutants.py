"""Small defects, one at a time, against the tests of the module that has them: `make mutants`.

A mutant is one function with one operator, number or statement changed. It is killed by a failing test, or by tests
that no longer end. One that survives is either no defect at all, or a test is missing. No file is written: everything
is imported once, and what a function does is changed in a child process that is forked for it.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("pytest", "numpy", "torch", "hypothesis", "pydantic", "transformers.models.llama.modeling_llama", "plait")

_NATIVE = "tests/runtime/engines/native"
_STEPS = [
    f"{_NATIVE}/test_{name}.py"
    for name in ("scheduler", "waiting", "fairness", "pace", "interrupts", "bursts", "engine", "non_finite", "contexts")
]
_STORE = [f"{_NATIVE}/test_{name}.py" for name in ("store", "waiting", "context_store", "engine", "pressure_machine")]
_PROTOCOL = ["tests/runtime/mqtt/test_protocol.py"]
_HOGWILD = "tests/runtime/methods/hogwild/test_native.py"
TESTS = {
    "runtime/engines/native/store.py": _STORE,
    "runtime/engines/native/job_blocks.py": _STORE,
    "runtime/engines/native/integrity.py": [f"{_NATIVE}/test_integrity.py", *_STORE],
    "runtime/engines/native/cached.py": _STORE,
    "runtime/engines/native/swap.py": _STORE,
    "runtime/engines/native/lineage.py": [f"{_NATIVE}/test_lineage.py", *_STORE],
    "runtime/engines/native/prefix_index.py": _STORE,
    "runtime/engines/native/alike.py": [f"{_NATIVE}/test_alike.py"],
    "runtime/engines/native/pressure.py": [
        *_STEPS,
        f"{_NATIVE}/test_pressure.py",
        f"{_NATIVE}/test_pressure_machine.py",
    ],
    "runtime/engines/native/gangs.py": [f"{_NATIVE}/test_gangs.py", *_STEPS],
    "runtime/engines/native/scheduler.py": _STEPS,
    "runtime/engines/native/planner.py": [*_STEPS, f"{_NATIVE}/test_drafting.py", f"{_NATIVE}/test_pressure.py"],
    "runtime/engines/native/running.py": [f"{_NATIVE}/test_running.py"],
    "runtime/engines/native/pace.py": [f"{_NATIVE}/test_pace.py"],
    "runtime/engines/native/view.py": [
        f"{_NATIVE}/test_view_text.py",
        *_STORE,
        f"{_NATIVE}/test_contexts.py",
        f"{_NATIVE}/test_views.py",
        f"{_NATIVE}/test_alike.py",
        _HOGWILD,
    ],
    "runtime/engines/native/branch.py": [*_STORE, f"{_NATIVE}/test_contexts.py", f"{_NATIVE}/test_views.py", _HOGWILD],
    "runtime/engines/native/results.py": [*_STEPS, f"{_NATIVE}/test_faults.py", f"{_NATIVE}/test_drafting.py"],
    "runtime/engines/sampled_text.py": ["tests/runtime/engines/test_sampled_text.py", f"{_NATIVE}/test_engine.py"],
    "runtime/engines/native/key_ranges.py": [f"{_NATIVE}/test_key_ranges.py"],
    "attention/int8.py": ["tests/attention/test_int8.py"],
    "runtime/engines/native/sampling.py": [f"{_NATIVE}/test_sampling.py"],
    "runtime/sampling.py": ["tests/runtime/test_sampling.py"],
    "runtime/event_queue.py": ["tests/runtime/test_event_queue.py"],
    "runtime/mqtt/client_state.py": _PROTOCOL,
    "runtime/mqtt/client_entries.py": _PROTOCOL,
    "runtime/mqtt/worker_state.py": _PROTOCOL,
    "runtime/budget.py": ["tests/runtime/test_budget.py"],
    "runtime/jobs/context.py": ["tests/runtime/jobs"],
    "runtime/jobs/scope.py": ["tests/runtime/jobs"],
    "runtime/jobs/state.py": ["tests/runtime/jobs"],
    "runtime/jobs/branch.py": ["tests/runtime/jobs"],
    "runtime/jobs/call.py": ["tests/runtime/jobs"],
    "runtime/jobs/notes.py": ["tests/runtime/jobs"],
    "runtime/methods/voting.py": ["tests/runtime/methods/test_voting.py"],
    "runtime/methods/answers.py": ["tests/runtime/methods/test_answers.py", "tests/runtime/methods/test_sequential.py"],
    "runtime/methods/self_consistency.py": [
        "tests/runtime/methods/test_voting.py",
        "tests/runtime/methods/test_sequential.py",
    ],
    "runtime/methods/sequential.py": [
        "tests/runtime/methods/test_sequential.py",
        "tests/runtime/methods/test_tools.py",
        "tests/runtime/methods/test_constraints.py",
    ],
    "runtime/methods/apr/method.py": ["tests/runtime/methods/apr"],
    "runtime/methods/hogwild/group.py": ["tests/runtime/methods/hogwild"],
    "runtime/methods/hogwild/policy.py": ["tests/runtime/methods/hogwild"],
    "runtime/methods/multiverse/run.py": ["tests/runtime/methods/multiverse/test_multiverse.py"],
    "search/allocation.py": ["tests/search/test_allocation.py", "tests/search/test_tree_search.py"],
    "search/aggregation.py": ["tests/search/test_aggregation.py"],
    "search/programme.py": ["tests/search/test_programme.py"],
    "search/run.py": ["tests/search/test_tree_search.py", "tests/search/test_prm.py"],
    "search/expansion.py": [
        "tests/search/test_expansion.py",
        "tests/search/test_step_texts.py",
        "tests/search/test_tree_search.py",
        "tests/search/test_prm.py",
        "tests/search/test_rewards.py",
    ],
    "search/strategies/base.py": ["tests/search/test_strategies.py", "tests/search/test_tree_search.py"],
    "search/strategies/ets.py": ["tests/search"],
    "evals/stats.py": ["tests/evals/test_stats.py"],
    "evals/store.py": ["tests/evals/test_store.py", "tests/evals/test_runner.py", "tests/evals/test_crash.py"],
    "rl/chats.py": ["tests/rl/test_chats.py"],
    "rl/masks.py": ["tests/rl/test_masks.py"],
    "rl/tree_mask.py": ["tests/rl/test_masks.py", "tests/rl/test_sft.py"],
}
"""Where the tests of a module are: a part of the folder that mirrors its own, the fastest first."""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "append": "extend", "popitem": "clear"}
_IGNORED = {"annotation", "returns", "decorator_list", "type_params", "msg"}
"""Fields of the syntax tree in which nothing runs that a test should see."""


@dataclass(frozen=True, slots=True)
class Mutant:
    place: str
    before: str
    after: str
    changed: list[tuple[FunctionType, CodeType]]
    """A function, and those that are made by decorators from the same lines, each with what it is to do instead."""

    def __str__(self) -> str:
        return f"{self.place}  {self.before.splitlines()[0]}  ->  {self.after.splitlines()[0]}"


def mutants(module: str) -> list[Mutant]:
    """All of a module, given by its path from the root."""
    file = importlib.import_module(_name(module)).__file__
    assert file is not None
    functions: dict[tuple[str, int], list[FunctionType]] = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename == file:
            functions.setdefault((one.__code__.co_qualname, one.__code__.co_firstlineno), []).append(one)
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    found = []
    for node, put in _places(tree):
        for other in _others(node):
            put(ast.fix_missing_locations(ast.copy_location(other, node)))
            code = compile(tree, file, "exec", dont_inherit=True)
            changed = [
                (function, new)
                for new in _codes(code)
                for function in functions.get((new.co_qualname, new.co_firstlineno), [])
                if new != function.__code__ and new.co_freevars == function.__code__.co_freevars
            ]
            if changed:  # else it is run on import alone
                place = f"{module}:{getattr(node, 'lineno', 0)}"
                found.append(Mutant(place, ast.unparse(node), ast.unparse(other), changed))
        put(node)
    return found


def _name(module: str) -> str:
    return "plait." + module.removesuffix(".py").replace("/", ".")


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _places(parent: ast.AST) -> Iterator[tuple[ast.AST, Callable[[ast.AST], None]]]:
    """Every node that runs, and what puts another one in its place."""
    for name, value in ast.iter_fields(parent):
        if name in _IGNORED or isinstance(parent, ast.Assert | ast.Raise):
            continue
        for at, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or _is_note(child) or _is_check(child):
                continue

            def put(other: Any, *, at: int = at, name: str = name, value: Any = value) -> None:
                if isinstance(value, list):
                    value[at] = other
                else:
                    setattr(parent, name, other)

            yield child, put
            yield from _places(child)


def _is_note(node: ast.AST) -> bool:
    """A docstring, or a line for the log."""
    if not isinstance(node, ast.Expr):
        return False
    return isinstance(node.value, ast.Constant) or ast.unparse(node).startswith(("logger.", "log."))


def _is_check(node: ast.AST) -> bool:
    """`zip(a, b, strict=True)`: an assertion, which holds."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _others(node: ast.AST) -> Iterator[ast.AST]:
    """What could be written instead by mistake."""
    match node:
        case ast.Compare(left, [operator], comparators):
            yield ast.Compare(left, [_COMPARISONS[type(operator)]()], comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield copy.copy(operand)
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.AugAssign(target, operator, value):
            if type(operator) in _OPERATORS:
                yield ast.AugAssign(target, _OPERATORS[type(operator)](), value)
            yield ast.Pass()
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Name(name) if name in _NAMES:
            yield ast.Name(_NAMES[name], node.ctx)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.If(ast.Name() | ast.Attribute() | ast.Call() as test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Expr() | ast.Delete():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def failure(mutant: Mutant | None, tests: list[str], seconds: float) -> str | None:
    """What a test that fails says, or that they take longer than `seconds` altogether; None: they pass. `mutant` None:
    the modules as they are."""
    folder = Path(tempfile.mkdtemp(prefix="plait-mutant-"))
    pid = os.fork()
    if not pid:
        try:
            code = _run(mutant, tests, folder)
        except BaseException:
            code = 1
        os._exit(code)
    try:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return (folder / "output").read_text(encoding="utf-8", errors="replace") if status else None
            time.sleep(0.05)
        return f"not done after {seconds:.0f} s"
    finally:
        _end(pid)
        shutil.rmtree(folder, ignore_errors=True)


def _run(mutant: Mutant | None, tests: list[str], folder: Path) -> int:
    import pytest

    os.setsid()
    tempfile.tempdir = str(folder)
    with (folder / "output").open("w", encoding="utf-8") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    for function, code in [] if mutant is None else mutant.changed:
        function.__code__ = code
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        f"--basetemp={folder / 'pytest'}",
    ]
    return int(pytest.main([*options, *tests]))


def _end(pid: int) -> None:
    """The child, whatever it left running, and its entry in the table of processes."""
    for call in (lambda: os.killpg(pid, signal.SIGKILL), lambda: os.waitpid(pid, 0)):
        try:
            call()
        except (ProcessLookupError, ChildProcessError):
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="paths from the root; none: all")
    parser.add_argument("--number", type=int, default=8, help="mutants of a module, drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    given = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.pop(0)  # this folder: its modules are not meant to be found by their bare names
    for library in LIBRARIES:
        importlib.import_module(library)
    for module in given.modules:
        importlib.import_module(_name(module))
    num_killed = num_all = 0
    for module in given.modules:
        tests = [test for test in TESTS[module] if (ROOT / test).exists()]
        began = time.monotonic()
        if said := failure(None, tests, 3600):
            print(f"{module}: its tests fail as it is\n{said[-3000:]}", flush=True)
            continue
        took = time.monotonic() - began
        everything = mutants(module)
        count = min(given.number or len(everything), len(everything))
        chosen = random.Random(f"{given.seed} {module}").sample(everything, count)
        lived = []
        for mutant in chosen:
            if failure(mutant, tests, 60 + 4 * took) is None:
                lived.append(mutant)
                print(f"survived  {mutant}", flush=True)
        killed = len(chosen) - len(lived)
        print(f"{module}: {killed} of {len(chosen)} killed ({len(everything)} in all; {took:.0f} s)", flush=True)
        num_killed, num_all = num_killed + killed, num_all + len(chosen)
    print(f"{num_killed} of {num_all} killed ({num_killed / max(num_all, 1):.0%})")


if __name__ == "__main__":
    main()
