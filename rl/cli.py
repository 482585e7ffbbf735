"""`plait train`: train a model as a TOML file says; the same command goes on where it stopped.

plait train sft rl/configs/multiverse_smollm2.toml --out runs/smollm2
plait train sft runs/smollm2                        # go on, by the configuration in its folder
plait train sft config.toml --set max_minutes=60 --set trainer.learning_rate=1e-4
torchrun --nproc-per-node 2 -m plait train sft config.toml
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ..runtime.cli.options import named_path, parse_field
from ..runtime.disk import holding, no_empty_folder
from ..runtime.errors import InvalidInput
from .config import read_toml
from .processes import is_first
from .run_folder import CONFIG

KINDS = {"grpo": "grpo.train:run", "prm": "prm.train:run", "sft": "sft:run"}
"""What can be trained: module and function, `run(fields, out, fresh)`; loaded when it is asked for."""
EXTRA = {"trl", "peft", "datasets", "accelerate", "matplotlib"}
"""Packages that come with plait's extra `rl`, and not without."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument(
        "config",
        type=named_path,
        help="a TOML file (see rl/config.py, rl/grpo/config.py and rl/prm/config.py), or the folder of an earlier run",
    )
    parser.add_argument("--out", type=named_path, help="folder of checkpoints and logs (runs/NAME)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field; may be repeated")
    parser.add_argument("--fresh", action="store_true", help="begin anew, whatever checkpoints there are")


def run(options: argparse.Namespace) -> int:
    given: Path = options.config
    out: Path = options.out or (given if given.is_dir() else Path("runs") / given.stem)
    data = read_folder(given) if given.is_dir() else read_toml(given)
    for text in options.set:
        put(data, *parse_field(text))
    if not given.is_dir():
        make_absolute(data)
    module, _, name = KINDS[options.kind].partition(":")
    try:
        train: Callable[[dict[str, Any], Path, bool], None] = getattr(import_module(f".{module}", __package__), name)
        with no_empty_folder(out), holding(out) if is_first() else nullcontext():
            train(data, out, options.fresh)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in EXTRA:
            raise
        raise InvalidInput(f"{error}: pip install 'plait[rl]'") from None
    return 0


def read_folder(folder: Path) -> dict[str, Any]:
    """The fields that a run was begun with. Raises `InvalidInput`."""
    import json

    try:
        data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder} is not the folder of a training: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"{folder / CONFIG} holds no fields")
    return data


def put(data: dict[str, Any], name: str, value: Any) -> None:
    """Set a field; `trainer.learning_rate` is one of a table."""
    *tables, last = name.split(".")
    for table in tables:
        inner = data.setdefault(table, {})
        if not isinstance(inner, dict):
            raise InvalidInput(f"{name}: {table} is not a table")
        data = inner
    data[last] = value


def make_absolute(data: dict[str, Any]) -> None:
    """The folder of the model and the files of benchmarks, which are relative to the working folder: a run may go on
    from another one."""
    from ..evals.paths import absolute_fields
    from ..runtime.engines.registry import shipped_models

    model, sources = data.get("model"), data.get("data")
    with suppress(OSError):  # a name that no file can have
        if isinstance(model, str) and model not in shipped_models() and Path(model).is_dir():
            data["model"] = str(Path(model).absolute())
    for table in (data, data.get("held_out"), *(sources if isinstance(sources, list) else ())):
        benchmark = table.get("benchmark") if isinstance(table, dict) else None
        if isinstance(benchmark, dict):
            table["benchmark"] = absolute_fields(benchmark, Path.cwd())
