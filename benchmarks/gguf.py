"""Loading a GGUF file against transformers' `from_pretrained(gguf_file=...)`, in one run.

    python -m plait.benchmarks.gguf MODEL.gguf [MORE.gguf ...] [--repeats 3]

Each load is a process of its own, which ends with a model and a tokenizer that can be used, bfloat16 weights on both
sides: plait's packed for its kernels, transformers' as parameters; and once more plait's with `weights="stored"`. Sides
take turns; figures are medians. Seconds begin behind the imports. Memory is what the process holds at most beyond what
it held before: its own pages (the peak of `RssAnon`, sampled every 10 ms), without pages of the mapped file, which the
system can drop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from . import machine

if TYPE_CHECKING:
    from ..runtime.engines.native.integers import WeightType


def load_ours(path: Path, weights: WeightType | None = None) -> tuple[object, object]:
    from ..runtime.engines.native.gguf_tokenizer import load_tokenizer
    from ..runtime.engines.native.loader import load_model

    return load_model(path, dtype=torch.bfloat16, weight_type=weights), load_tokenizer(path)


def load_theirs(path: Path) -> tuple[object, object]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


SIDES: dict[str, Callable[[Path], tuple[object, object]]] = {
    "plait": load_ours,
    "transformers": load_theirs,
    "plait, as stored": partial(load_ours, weights="stored"),
}


def measure(side: str, path: Path) -> dict[str, float]:
    """Seconds, and bytes at most, of one load in this process."""
    import transformers  # noqa: F401  # importing is not loading

    from ..runtime.engines.native import gguf_tokenizer, loader  # noqa: F401

    torch.set_num_threads(1)
    before = _own_bytes()
    peak = [before]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], _own_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        start = time.perf_counter()
        kept = SIDES[side](path)
        seconds = time.perf_counter() - start
    finally:
        done.set()
        sampler.join()
    held = _own_bytes()
    del kept
    return {"seconds": seconds, "peak": max(peak[0], held) - before, "held": held - before}


def _own_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        sys.stdout.write(json.dumps(measure(args.side, args.files[0])) + "\n")
        return
    table = Table(title=f"Loading GGUF files, bfloat16\n{machine.describe()}")
    for column in ("file", "MB", "side", "seconds", "peak MB", "held MB"):
        table.add_column(column, justify="left" if column in ("file", "side") else "right")
    for path in args.files:
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(args.repeats):
            for side, figures in runs.items():
                command = [sys.executable, "-m", "plait.benchmarks.gguf", str(path.resolve()), "--side", side]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                figures.append(json.loads(out.splitlines()[-1]))
        for side, figures in runs.items():
            medians = [statistics.median(run[name] for run in figures) for name in ("seconds", "peak", "held")]
            size = f"{path.stat().st_size / 1e6:,.0f}"
            table.add_row(
                path.name, size, side, f"{medians[0]:.1f}", *(f"{number / 1e6:,.0f}" for number in medians[1:])
            )
    Console().print(table)


if __name__ == "__main__":
    main()
