"""The demo runs on any engine that speaks the compact language."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from plait import Runtime, ScriptedEngine
from plait.evals.benchmarks.countdown.demo import demo
from plait.evals.benchmarks.countdown.problems import Problem, validation
from plait.runtime.cli.main import main
from plait.runtime.engines.scripted import WordTokenizer


def script(context):
    if context.startswith("seq"):
        return " answer none"
    if context.endswith("apr 24 : 9 8 3 1 ;"):
        return " 9 8 + 17 - x * 72 / x ; spawn"
    if "72 3 1" in context:
        return " answer 72 / 3 = 24 , 24 * 1 = 24"
    return " answer 9 * 8 = 72 , 72 / 3 = 24 , 24 * 1 = 24" if context.endswith("end") else " answer none"


async def test_demo_compares_the_methods():
    console = Console(file=io.StringIO(), width=120)
    async with Runtime(engine=ScriptedEngine(script, tokenizer=WordTokenizer())) as runtime:
        await demo(runtime, [Problem((9, 8, 3, 1), 24)], console, 512)
    text = console.file.getvalue()
    assert "make 24 from 9 8 3 1" in text
    assert "sequential: no answer" in text
    assert "apr: solved  9 * 8 = 72 , 72 / 3 = 24 , 24 * 1 = 24" in text
    assert [line.split()[:2] for line in text.splitlines()[-2:]] == [["sequential", "0/1"], ["apr", "1/1"]]


async def test_no_answer_steers_the_terminal():
    console = Console(file=io.StringIO(), width=120)
    async with Runtime(engine=ScriptedEngine(lambda _: " answer [/]\x1b[2J", tokenizer=WordTokenizer())) as runtime:
        await demo(runtime, [Problem((9, 8, 3, 1), 24)], console, 512)
    text = console.file.getvalue()
    assert "[/]\\x1b[2J" in text and "\x1b" not in text


OPTIONS = {
    "--count": [0, -1, 10**6],
    "--numbers": [-1, 0, 1, 2, 6, 9],
    "--context": [0, -5, 10**12],
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name in OPTIONS for value in OPTIONS[name]])
def test_what_it_cannot_do_is_refused(option, value, capsys):
    assert main(["demo", option, str(value)]) == 1
    assert capsys.readouterr().err.startswith(f"plait: {option} is {value}; from ")


@pytest.mark.parametrize("numbers", [3, 4, 5])
def test_there_are_problems_of_every_size_that_it_takes(numbers):
    found = validation(numbers, 3)
    assert len({problem.key for problem in found}) == 3 and all(len(problem.nums) == numbers for problem in found)


async def test_progress_is_written_where_nobody_watches():
    """A pipe gets each problem as it begins, and each method as it ends."""
    seen = []

    class Pipe(io.StringIO):
        def flush(self):
            seen.append(self.getvalue())

    problems = [Problem((9, 8, 3, 1), 24)] * 2
    async with Runtime(engine=ScriptedEngine(script, tokenizer=WordTokenizer())) as runtime:
        await demo(runtime, problems, Console(file=Pipe(), width=120), 512)
    assert "1/2 make 24" in seen[0] and "sequential" not in seen[0]
    assert any("apr: solved" in text and "2/2" not in text for text in seen)
