"""The demo runs on any engine that speaks the compact language."""

from __future__ import annotations

import io

from rich.console import Console

from plait import Runtime, ScriptedEngine
from plait.evals.benchmarks.countdown.demo import demo
from plait.evals.benchmarks.countdown.problems import Problem
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
