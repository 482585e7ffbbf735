"""`plait models`: list shipped models, those in the hub's cache, and what is in given files and folders.

Reads headers only. Memory is what the native engine would take on this machine's CPU: for the weights in the type that
it would choose, and for keys and values per 1,000 tokens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..engines.hub import cached_models
from ..engines.registry import MODELS, shipped_models
from ..errors import InvalidInput, PlaitError
from .options import named_path
from .table import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=named_path, nargs="*", help="GGUF files, model folders, or folders of these")


def run(options: argparse.Namespace) -> int:
    rows: list[dict[str, object]] = []
    refused: list[str] = []
    for name, path in _given(options.paths) if options.paths else _known():
        try:
            rows.append({"model": escape(name), **describe(path)})
        except PlaitError as error:
            refused.append(f"{name}: {error}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    if rows:
        console.print(table("models", rows))
    for line in refused:
        console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
    if not rows and not refused:
        console.print("no models", highlight=False)
    return 0


def describe(path: Path) -> dict[str, object]:
    """What the table says of a model folder or GGUF file. Raises what keeps it from being loaded."""
    import torch  # takes a moment

    from ..engines.native.checkpoint import open_checkpoint
    from ..engines.native.config import ModelConfig
    from ..engines.native.loader import auto_dtype
    from ..engines.native.pool import KVPool

    checkpoint = open_checkpoint(path)
    config = ModelConfig.from_hf(checkpoint.config, headless=True)
    dtype = auto_dtype(config, checkpoint.stored_dtype, torch.device("cpu"))
    return {
        "architecture": config.family.architecture.removesuffix("ForCausalLM"),
        "format": checkpoint.format,
        "parameters": _short(config.num_parameters, ""),
        "on disk": _short(_size(path), "B"),
        "weights": f"{_short(config.num_parameters * dtype.itemsize, 'B')} {str(dtype).removeprefix('torch.')}",
        "KV per 1k tokens": _short(1000 * KVPool.bytes_per_block(config, 16, dtype) // 16, "B"),
        "window": config.max_context,
    }


def _known() -> Iterator[tuple[str, Path]]:
    for name in shipped_models():
        yield name, MODELS / name
    for cached, path in cached_models():
        yield str(cached), path


def _given(paths: list[Path]) -> Iterator[tuple[str, Path]]:
    """Each of these, or the models inside."""
    for path in paths:
        if not path.exists():
            raise InvalidInput(f"there is no {path}")
        inside = [] if not path.is_dir() or (path / "config.json").is_file() else _inside(path)
        yield from ((str(one), one) for one in inside or [path])


def _inside(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix == ".gguf" or (p / "config.json").is_file())


def _size(path: Path) -> int:
    from ..engines.native.gguf_reader import model_parts

    files = model_parts(path) if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _short(number: float, unit: str) -> str:
    """`494 M`, `1.2 GB`."""
    for power, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            scaled = number / power
            return f"{scaled:.{0 if scaled >= 100 else 1}f} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()
