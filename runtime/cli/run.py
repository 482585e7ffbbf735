"""`plait run`: run a job and print its result as JSON.

A job is one JSON object; `plait schema` describes it:

    {"method": {"method": "apr", "prompt": "apr 24 : 63 9 5 2 ;", "dialect": "compact"}, "budget": {"seconds": 30}}

    plait run job.json --model FOLDER --device cuda --dtype bfloat16 --seed 3 --budget total_tokens=500,seconds=10

Where a prompt and a method's own fields are all there is to say, no file is needed:

    plait run --model FOLDER --prompt 'What is 12 * 13?' --method sequential:chat=true,max_tokens=64
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from rich.console import Console

from ..disk import check_apart
from ..errors import InvalidInput
from ..job_spec import JobSpec, parse_job
from ..methods.registry import parse_method
from ..result import Result
from ..runtime import Runtime
from .files import read_text
from .live import watch
from .options import add_engine_options, add_job_options, engine_options, method_of, named_path, utf8, with_job_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=named_path, nargs="?", help="a JSON file, or - for standard input; or --prompt")
    parser.add_argument("--prompt", type=utf8, metavar="TEXT", help="in place of a job: what the model reads first")
    parser.add_argument(
        "--method", type=utf8, metavar="NAME[:FIELD=VALUE,...]", help="for --prompt; or sc8 (sequential)"
    )
    parser.add_argument("--model", default="countdown", help="as for Runtime: a name, folder, GGUF file (countdown)")
    parser.add_argument("--trace", type=named_path, help="write the trace to this file")
    parser.add_argument("--contexts", type=named_path, help="folder of encoded contexts, to read and to add to")
    add_engine_options(parser)
    add_job_options(parser)


def run(options: argparse.Namespace) -> int:
    check_apart(options.trace, options.job, options.model)
    spec = with_job_options(_spec(options), options)
    result = asyncio.run(_run(spec, options, Console(stderr=True)))
    sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    return 0


def _spec(options: argparse.Namespace) -> JobSpec:
    """What to run: the job of a file, or a method with a prompt."""
    # Not by argparse, which says this of the value of an option that it does not know, and does not name the option.
    if (options.job is None) == (options.prompt is None):
        raise InvalidInput("give either a job or --prompt")
    if options.prompt is not None:
        fields = method_of(options.method or "sequential")
        if "prompt" in fields:
            raise InvalidInput("there is a prompt in --method, and --prompt too: give one of them")
        return JobSpec(method=parse_method({**fields, "prompt": options.prompt}))
    if options.method is not None:
        raise InvalidInput("--method is for --prompt: a job names its method itself")
    return parse_job(read_text(options.job))


async def _run(spec: JobSpec, options: argparse.Namespace, console: Console) -> Result:
    chosen = engine_options(options)
    if options.contexts is not None:
        chosen["contexts"] = options.contexts
    async with Runtime(options.model, **chosen) as runtime:
        job = await runtime.submit(spec, trace_file=options.trace)
        await watch(aiter(job), console=console)
        return await job
