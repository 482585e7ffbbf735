"""The benchmark against llama.cpp, without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plait.benchmarks import llama_cpp
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Fake:
    """Takes so long for a token; what is not counted takes longer."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.prompts: list[Sequence[int]] = []

    async def prefill(self, prompt: Sequence[int]) -> None:
        self.prompts.append(prompt)
        self.clock.seconds += len(prompt) * self.seconds * (9 if len(self.prompts) == 1 else 1)

    async def decode(self, branches: int, tokens: int) -> None:
        self.clock.seconds += 2 * branches * tokens * self.seconds


async def test_sides_take_turns_on_the_same_prompts() -> None:
    clock = Clock()
    ours, theirs = Fake(clock, 0.01), Fake(clock, 0.05)
    lines = await llama_cpp.compare([ours, theirs], [1, 4], prompt=10, tokens=3, repeats=2, vocabulary=50, clock=clock)
    assert [line.test for line in lines] == ["prefill 10", "decode, 1 branch", "decode, 4 branches"]
    assert [round(line.ours) for line in lines] == [100, 50, 50]
    assert [round(line.theirs) for line in lines] == [20, 10, 10]
    assert str(lines[0]) == "| prefill 10 | 100.0 | 20.0 | 5.00 (5.00-5.00) |"
    assert ours.prompts == theirs.prompts and len(set(map(tuple, ours.prompts))) == 3


async def test_what_plait_does_leaves_nothing() -> None:
    folder: Path = tiny("llama")[1]
    engine = NativeEngine(load_model(folder), IdTokenizer(131, (7,)), NativeOptions(kv_tokens=2048))
    await engine.start()
    side = llama_cpp.Plait(engine)
    for seed in range(2):
        await side.prefill([seed, 5, 6, 7] * 10)
        before = engine.scheduler.num_rows
        await side.decode(4, 6)
        assert engine.scheduler.num_rows - before >= 4 * 5
    await side.close()
    assert engine.num_branches == 0
    await engine.close()
    engine.store.check_integrity()
    assert engine.block_usage().used == 0
