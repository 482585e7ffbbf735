"""What a model makes of held-out prompts: how many of them get a well-formed block, how many of its blocks are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runtime.methods.multiverse.check import well_formed
from ..runtime.methods.multiverse.method import Multiverse
from ..runtime.result import Result
from ..runtime.runtime import Runtime
from .config import ProbeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    prompts: int
    answered: int
    """Prompts whose text has a well-formed block."""
    blocks: int
    """Blocks that were opened."""
    well_formed: int
    """Of these."""
    branches: int
    """Paths that were run in parallel and merged."""
    total_tokens: int
    critical_tokens: int
    seconds: float

    def row(self) -> dict[str, Any]:
        return asdict(self)


def probe(config: ProbeConfig, model: Path, prompts: Sequence[Sequence[int]], traces: Path, *, seed: int) -> Probed:
    """Run them all, side by side; their traces are kept in the folder `traces`."""
    results = asyncio.run(_results(config, model, prompts, seed))
    traces.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(results):
        result.trace.save(traces / f"{number}.jsonl.gz")
    counts = [well_formed(result.text) for result in results]
    return Probed(
        prompts=len(results),
        answered=sum(good > 0 for good, _ in counts),
        blocks=sum(opened for _, opened in counts),
        well_formed=sum(good for good, _ in counts),
        branches=sum(len(result.trace.branches) - 1 for result in results),
        total_tokens=sum(result.usage.total_tokens for result in results),
        critical_tokens=sum(result.usage.critical_tokens for result in results),
        seconds=max(result.usage.seconds for result in results),
    )


async def _results(config: ProbeConfig, model: Path, prompts: Sequence[Sequence[int]], seed: int) -> list[Result]:
    async with Runtime(str(model), kv_tokens=config.kv_tokens) as runtime:
        jobs = [
            await runtime.submit(
                Multiverse(prompt=list(prompt), max_tokens=config.max_tokens, temperature=config.temperature), seed=seed
            )
            for prompt in prompts
        ]
        return [await job for job in jobs]
