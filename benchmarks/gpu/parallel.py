"""What parallel reasoning costs on the card: Hogwild! workers against one, and Multiverse by its degree of parallelism.

    python -m plait.benchmarks.gpu.parallel

Hogwild!: milliseconds per step of 1, 2 and 4 workers behind a shared text of 16k tokens, each seeing the others live.
Multiverse: milliseconds per token of the whole when a branch with 8k, 16k or 32k tokens forks into 1 to 8 paths, to
which a / x + b is fitted. Random weights of Qwen3-4B's shape in bfloat16; the keys and values of the texts are random
numbers, on which times do not depend.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from typing import Any

import numpy as np

from ...runtime.engines.native.engine import NativeEngine
from ...runtime.engines.native.options import NativeOptions
from ..decode import NoTokenizer
from ..hogwild import Team, fill
from .engine import generate
from .lines import Setting, setting
from .models import own_segment, random_model

HOGWILD_BAR = 1.2
"""Step of four workers to that of one; the paper has 1.22 on an L40S (arXiv 2504.06261)."""
FIT_BAR = 0.1
"""Largest relative deviation from a / x + b; the paper's fit is 15.4 / x + 0.6 to 2.1 ms (arXiv 2506.09991)."""
REPEATS = 3


def text(engine: NativeEngine, tokens: int) -> list[int]:
    rng = random.Random(tokens)
    return [rng.randrange(engine.vocab_size) for _ in range(tokens)]


async def hogwild(at: Setting, engine: NativeEngine, shared: int, passes: int) -> None:
    branch: Any = engine.open(text(engine, shared))
    block = branch.seal()
    branch.close()
    fill(engine, block.spans[-1].segment)
    counts = (1, 2, 4)
    teams = {count: Team(engine, count, block) for count in counts}
    for team in teams.values():
        await team.passes(8)
    times = {count: [await teams[count].passes(passes) for _ in range(REPEATS)] for count in counts}
    one = statistics.median(times[1])
    for count in counts:
        found = statistics.median(times[count])
        ratio, is_asked = found / one, count == max(counts)
        at.book.add(
            f"Hogwild!, 16k: {count} worker{'s' if count > 1 else ''}", value=found * 1e3, note=f"{ratio:.2f} of one",
            bar=f"at most {HOGWILD_BAR} of one" if is_asked else "",
            is_met=ratio <= HOGWILD_BAR if is_asked and not at.is_dry else None,
        )  # fmt: skip
    for team in teams.values():
        team.close()
    block.close()
    engine.store.evict_all()


def fit(degrees: list[int], ms: list[float]) -> tuple[float, float, float]:
    """a, b, and the largest relative deviation of a / x + b from what was measured; least squares of the relative
    deviations."""
    x, y = np.array(degrees, dtype=float), np.array(ms)
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / x, np.ones_like(x)], axis=1) / y[:, None], np.ones_like(y), rcond=None)
    return float(a), float(b), float(np.abs((a / x + b) / y - 1).max())


async def multiverse(at: Setting, engine: NativeEngine, context: int, label: str, tokens: int) -> None:
    parent: Any = engine.open(text(engine, context))
    fill(engine, own_segment(parent))
    degrees = list(range(1, 9))
    found = []
    for degree in degrees:
        times = []
        for _ in range(1 + REPEATS):
            paths = parent.fork(degree)
            times.append(await generate(paths, tokens))
            for path in paths:
                path.close()
        found.append(statistics.median(times[1:]) / (tokens * degree) * 1e3)
        at.book.add(f"Multiverse, {label}: {degree} at once", value=found[-1], unit="ms per token")
    parent.close()
    engine.store.evict_all()
    a, b, deviation = fit(degrees, found)
    at.book.add(
        f"Multiverse, {label}: fit", value=deviation * 100, unit="% off", note=f"{a:.2f} / x + {b:.2f} ms",
        bar=f"within {FIT_BAR:.0%}", is_met=None if at.is_dry else deviation <= FIT_BAR,
    )  # fmt: skip


async def measure(at: Setting) -> None:
    model = random_model("tiny" if at.is_dry else "Qwen3-4B", at.device)
    scale, passes = (256, 4) if at.is_dry else (1, 64)
    options = NativeOptions(device=str(at.device), kv_tokens=(32768 + 16384) // scale + 4096)
    engine = NativeEngine(model, NoTokenizer(model.config.vocab_size), options)
    await engine.start()
    try:
        if at.wants("Hogwild!, 16k"):
            with at.book.attempt("Hogwild!, 16k"):
                at.book.need(10)
                await hogwild(at, engine, 16384 // scale, passes)
        for thousands in (8, 16, 32):
            if at.wants(f"Multiverse, {thousands}k"):
                with at.book.attempt(f"Multiverse, {thousands}k"):
                    at.book.need(10)
                    await multiverse(at, engine, thousands * 1024 // scale, f"{thousands}k", passes)
    finally:
        await engine.close()


def main(arguments: list[str] | None = None) -> None:
    asyncio.run(measure(setting("parallel", __doc__, arguments)))


if __name__ == "__main__":
    main()
