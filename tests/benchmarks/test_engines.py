"""The benchmark against other engines, without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from plait.benchmarks import engines
from plait.benchmarks.sides import EngineSide, Transformers
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

    async def prefill_all(self, prompts: Sequence[Sequence[int]]) -> None:
        self.prompts.append(prompts[0])
        assert len({tuple(prompt[:10]) for prompt in prompts}) == 1 and len(set(map(tuple, prompts))) == len(prompts)
        self.clock.seconds += sum(map(len, prompts)) * self.seconds / 2

    async def decode(self, branches: int, tokens: int) -> None:
        self.clock.seconds += 2 * branches * tokens * self.seconds


async def test_sides_take_turns_on_the_same_prompts() -> None:
    clock = Clock()
    ours, theirs = Fake(clock, 0.01), Fake(clock, 0.05)
    rates = await engines.compare(
        {"plait": ours, "other": theirs}, [1, 4], prompts=[10, 20], tokens=3, repeats=2, vocabulary=50, clock=clock,
        alike=3,
    )  # fmt: skip
    assert list(rates) == [
        "prefill 10", "decode, 1 branch", "decode, 4 branches", "prefill 20", "prefill, 3 of 10 + 32",
    ]  # fmt: skip
    assert {test: [[round(r) for r in found] for found in each.values()] for test, each in rates.items()} == {
        "prefill 10": [[100, 100], [20, 20]],
        "decode, 1 branch": [[50, 50], [10, 10]],
        "decode, 4 branches": [[50, 50], [10, 10]],
        "prefill 20": [[100, 100], [20, 20]],
        "prefill, 3 of 10 + 32": [[200, 200], [40, 40]],
    }
    assert ours.prompts == theirs.prompts and len(set(map(tuple, ours.prompts))) == 9


def test_the_table_has_medians_and_ranges_of_ratios() -> None:
    rates = {"prefill 8": {"plait": [10.0, 30.0, 20.0], "other": [10.0, 10.0, 5.0]}}
    assert engines.table(rates, "tokens per second").splitlines() == [
        "| tokens per second | plait | other | plait / other (range) |",
        "| --- | ---: | ---: | ---: |",
        "| prefill 8 | 20.0 | 10.0 | 2.00 (1.00-4.00) |",
    ]


async def test_what_plait_does_leaves_nothing() -> None:
    folder: Path = tiny("llama")[1]
    engine = NativeEngine(load_model(folder), IdTokenizer(131, (7,)), NativeOptions(kv_tokens=2048))
    await engine.start()
    side = EngineSide(engine)
    for seed in range(2):
        await side.prefill([seed, 5, 6, 7] * 10)
        before = engine.scheduler.num_rows
        await side.decode(4, 6)
        assert engine.scheduler.num_rows - before >= 4 * 5
    before = engine.scheduler.num_rows
    await side.prefill_all([[9] * 70 + [i] * 10 for i in range(4)])
    assert engine.scheduler.num_rows - before == 80 + 3 * 16  # whole blocks are shared
    side.close()
    assert engine.num_branches == 0
    await engine.close()
    engine.store.check_integrity()
    assert engine.block_usage().used == 0


async def test_transformers_decodes_behind_the_latest_prompt_and_keeps_it() -> None:
    side = Transformers(str(tiny("llama")[1]), torch.float32)
    for seed in range(2):
        await side.prefill([seed, 5, 6, 7])
        for _ in range(2):
            await side.decode(3, 4)
            await side.prefill_all([[1, 2, 3], [1, 2, 4]])
        assert side.length == 4
