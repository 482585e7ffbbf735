"""`plait calibrate-ape`: find a model's temperature and scale for parallel contexts.

    plait calibrate-ape FOLDER --data rag_qa.jsonl --count 20 --write

Tries a grid on a handful of questions with contexts, as APE does (arXiv 2502.05431, section 5), by the perplexity of
the accepted answer (the first of them) or by the F1 of what the model answers. `--write` keeps the best pair in the
model's folder, as `ape.json`, where the native engine finds it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from ....runtime.cli.options import add_engine_options, engine_options, positive, utf8
from ....runtime.cli.table import table
from ....runtime.engine import Engine, SamplingParams
from ....runtime.engines.registry import find_model
from ....runtime.errors import InvalidInput, UnsupportedByEngine
from ....runtime.runtime import Runtime
from .compare import answer
from .questions import INSTRUCTION, TEMPLATE, Row, Style, load

By = Literal["perplexity", "answer"]

GRID = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One pair of the grid."""

    temperature: float
    scale: float
    loss: float
    """Mean negative log-likelihood of an answer token in nats, or 1 - mean F1; lower is better."""

    @property
    def distance(self) -> float:
        """From plain attention."""
        return math.hypot(1 - self.temperature, 1 - self.scale)


async def calibrate(
    runtime: Runtime,
    rows: Sequence[Row],
    style: Style,
    *,
    by: By = "perplexity",
    temperatures: Sequence[float] = GRID,
    scales: Sequence[float] = GRID,
) -> list[Point]:
    """The whole grid, best first; of equally good pairs, the one closer to plain attention.

    Raises `UnsupportedByEngine` without parallel contexts and, by perplexity, without log-probabilities.
    """
    can = runtime.engine.capabilities
    if not can.parallel_contexts or (by == "perplexity" and not can.logprobs):
        raise UnsupportedByEngine(f"engine {runtime.engine.name} has no parallel contexts or no log-probabilities")
    if not rows:
        raise InvalidInput("nothing to calibrate on: there are no rows")
    pairs = [(temperature, scale) for temperature in temperatures for scale in scales]
    losses = dict.fromkeys(pairs, 0.0)
    weight = 0
    # Row by row, so that its contexts are encoded once for the whole grid.
    for row in track(rows, description="calibrating", transient=True, console=Console(stderr=True)):
        for pair in pairs:
            if by == "answer":
                fields = {"encoding": "parallel", "context_temperature": pair[0], "context_scale": pair[1]}
                losses[pair] += 1 - (await answer(runtime, row, style, **fields)).f1
                count = 1
            else:
                loss, count = await answer_loss(runtime.engine, row, style, *pair)
                losses[pair] += loss
        weight += count
    if not weight:
        raise InvalidInput("nothing to calibrate on: no answer has a token")
    points = [Point(temperature=t, scale=s, loss=loss / weight) for (t, s), loss in losses.items()]
    return sorted(points, key=lambda point: (point.loss, point.distance))


async def answer_loss(engine: Engine, row: Row, style: Style, temperature: float, scale: float) -> tuple[float, int]:
    """Summed negative log-likelihood of the first accepted answer in nats, and its number of tokens."""
    fields = {"encoding": "parallel", "context_temperature": temperature, "context_scale": scale}
    method = style.method(row, **fields)
    tokens = method.tokens(engine.tokenizer)
    layout = method.lay_out(method.prompt, tokens, engine, method.messages)
    wanted = engine.tokenizer.encode_continuation(tokens, row.answers[0] if style.chat else f" {row.answers[0]}")
    at = layout.parallel.at if layout.parallel else len(layout.tokens)
    branch = engine.open(layout.tokens[:at], job="calibration")
    try:
        if layout.parallel is not None:
            branch.attach_contexts(layout.parallel.texts, temperature=temperature, scale=scale)
            branch.extend(layout.tokens[at:])
        params = SamplingParams(max_tokens=len(wanted), forced=tuple(wanted), ignore_eos=True, logprobs=0)
        completion = await branch.generate(params)
    finally:
        branch.close()
    assert completion.logprobs is not None
    return -sum(completion.logprobs), len(wanted)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="as for Runtime: a name, a folder, a GGUF file")
    parser.add_argument("--data", type=Path, required=True, help="JSON Lines with question, contexts and answers")
    parser.add_argument("--count", type=positive, default=20, help="rows at most (20)")
    parser.add_argument("--by", choices=["perplexity", "answer"], default="perplexity")
    parser.add_argument("--instruction", type=utf8, default=INSTRUCTION)
    parser.add_argument("--template", type=utf8, default=TEMPLATE, help="{question} is replaced")
    parser.add_argument("--chat", action="store_true", help="use the model's chat template")
    parser.add_argument("--write", action="store_true", help="keep the best pair in the model's folder")
    add_engine_options(parser)


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options, Console()))
    return 0


async def _run(options: argparse.Namespace, console: Console) -> None:
    rows = load(options.data)[: options.count]
    style = Style(instruction=options.instruction, template=options.template, chat=options.chat)
    folder = find_model(options.model).path
    if options.write and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file: --write needs a folder to keep the pair in")
    async with Runtime(options.model, **engine_options(options)) as runtime:
        points = await calibrate(runtime, rows, style, by=options.by)
        default = runtime.engine.capabilities
    measure = "nats per answer token" if options.by == "perplexity" else "1 - F1"
    plain = next(point for point in points if point.distance == 0)
    lines = [
        {"rank": i, "temperature": point.temperature, "scale": point.scale, measure: f"{point.loss:.6f}"}
        for i, point in enumerate(points[:5], 1)
    ]
    lines.append({"rank": points.index(plain) + 1, "temperature": 1.0, "scale": 1.0, measure: f"{plain.loss:.6f}"})
    console.print(table(f"{len(rows)} rows of {options.data.name}", lines))
    before = f"{default.context_temperature:g} and {default.context_scale:g}"
    console.print(f"the model's temperature and scale were {before}", highlight=False)
    if options.write:
        from ....runtime.engines.native.context_scaling import write_scaling  # torch takes a moment

        written = write_scaling(folder, points[0].temperature, points[0].scale)
        console.print(f"the best are in {written}", highlight=False, soft_wrap=True)
