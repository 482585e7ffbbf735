"""What the tests of evaluations share: a model that writes in the compact language, and a small grid for it."""

from __future__ import annotations

from plait import ScriptedEngine
from plait.evals import EvalConfig
from plait.evals.benchmarks.countdown.solver import solve
from plait.runtime.engines.scripted import WordTokenizer
from plait.runtime.methods.apr.compact import CAP, read_prompt


def solver(context):
    """Writes the solution behind some idle words, as many as the first number says; none for targets above 90."""
    start = read_prompt(context.split())
    idle = "x " * start.nums[0]
    steps = solve(start.nums, start.target, cap=CAP) if start.target <= 90 else None
    if steps is None:
        return f" {idle}answer none"
    for op in "+-*/=":
        steps = [step.replace(op, f" {op} ") for step in steps]
    return f" {idle}answer {' , '.join(steps)}"


def engine(script=solver, **options):
    return ScriptedEngine(script, tokenizer=WordTokenizer(), **options)


def grid(**changes):
    values = {
        "benchmark": {"name": "countdown", "numbers": 3, "count": 6},
        "methods": [{"method": "sequential"}, {"label": "SC", "method": "self_consistency", "n": 2}],
        "concurrency": 3,
    }
    return EvalConfig(**{**values, **changes})
