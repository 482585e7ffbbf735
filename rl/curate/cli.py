"""`plait data`: make training data: `curate` Multiverse texts from chains of thought, `export` traces as a data set.

    plait data curate solutions.jsonl --out runs/curated --model Qwen/Qwen2.5-32B-Instruct
    plait data curate solutions.jsonl --out runs/curated --model ./model --set attempts=5 --set max_distance=0.3
    plait data export runs/countdown/traces/*/*.jsonl.gz --out runs/dataset

Curating reads JSON Lines with `problem`, `solution` and perhaps `id` and `answer`, and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio

from ...runtime.cli.options import add_engine_options, engine_options, named_path, parse_field, positive
from ...runtime.disk import make_folder, no_empty_folder, writing
from ...runtime.errors import InvalidInput
from ...runtime.runtime import Runtime
from .curator import CurateConfig, curate, read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("curate", "export"))
    parser.add_argument("files", nargs="+", type=named_path, help="JSON Lines to curate, or trace files to export")
    parser.add_argument("--out", type=named_path, required=True, help="folder of what comes of it")
    parser.add_argument("--model", help="what curates: as for Runtime; an instruct model")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="see CurateConfig; repeatable")
    parser.add_argument("--max-tokens", type=positive, help="export: longer samples are left out")
    add_engine_options(parser)


def run(options: argparse.Namespace) -> int:
    if options.action == "export":
        if options.model is not None or options.set or engine_options(options):
            raise InvalidInput("export runs no model: --model, --set and engine options are for curate")
        from ..samples import trace_dataset

        with no_empty_folder(options.out):
            make_folder(options.out)  # before the work
            found = trace_dataset(options.files, max_tokens=options.max_tokens)
            with writing(options.out):
                found.save_to_disk(str(options.out))
        print(f"{len(found):,} samples in {options.out}")
        return 0
    if options.max_tokens is not None:
        raise InvalidInput("--max-tokens is for export; curate takes --set max_tokens=N")
    config = CurateConfig(**dict(map(parse_field, options.set)))
    if options.model is None or len(options.files) != 1:
        raise InvalidInput("curate takes one file and --model")
    samples = read(options.files[0])  # before a model is loaded
    counts = asyncio.run(_curate(samples, options, config))
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


async def _curate(samples: list[dict[str, str]], options: argparse.Namespace, config: CurateConfig) -> dict[str, int]:
    async with Runtime(options.model, **engine_options(options)) as runtime:
        return await curate(samples, options.out, runtime, config, model=options.model)
