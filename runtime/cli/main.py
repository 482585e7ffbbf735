"""The `plait` command: `plait run JOB.json`, `plait trace show FILE`, and what other packages add.

`plait NAME ...` for a name that is not known here calls the entry point NAME of the group `plait.commands` with the
remaining arguments; it returns the exit status.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console

from ..errors import InvalidInput, PlaitError
from ..job_spec import JobSpec, parse_job
from ..result import Result
from ..runtime import Runtime
from ..trace import viewer
from ..trace.perfetto import perfetto
from ..trace.record import Trace
from ..trace.tree import show
from . import contexts as contexts_cli
from .live import watch

GROUP = "plait.commands"
"""Entry points of this group are commands: callables that take the arguments and return the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for what plait refuses, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    parser, own = _parser(sorted(others))
    console = Console()
    try:
        if arguments and arguments[0] in others and arguments[0] not in own:
            status: int = others[arguments[0]].load()(arguments[1:])
            return status
        options = parser.parse_args(arguments)
        if options.command == "run":
            spec = parse_job(_read(options.job))
            result = asyncio.run(_run(spec, options, Console(stderr=True)))
            sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
        elif options.command == "contexts":
            contexts_cli.run(options, console)
        else:
            _trace(options, console)
    except PlaitError as error:
        sys.stderr.write(f"plait: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser(others: Sequence[str]) -> tuple[argparse.ArgumentParser, set[str]]:
    """The parser, and the commands it parses itself; `others` are only listed."""
    parser = argparse.ArgumentParser(prog="plait", description="A runtime for parallel reasoning.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run a job and print its result as JSON",
        epilog='A job: {"method": {"method": "apr", "prompt": "apr 24 : 63 9 5 2 ;", "dialect": "compact"}, '
        '"budget": {"seconds": 30}, "seed": 1}',
    )
    run.add_argument("job", help="a JSON file, or - for standard input")
    run.add_argument("--model", default="countdown", help="a shipped model, a folder or scheme:rest (countdown)")
    run.add_argument("--trace", type=Path, help="write the trace to this file")
    run.add_argument("--contexts", type=Path, help="folder of encoded contexts, to read and to add to")
    actions = commands.add_parser("trace", help="look at traces").add_subparsers(dest="action", required=True)
    show = actions.add_parser("show", help="draw a trace as a tree, in the terminal")
    show.add_argument("file", type=Path)
    view = actions.add_parser("view", help="write a self-contained HTML page that shows a trace")
    view.add_argument("file", type=Path)
    view.add_argument("--out", type=Path, help="the page (FILE.html)")
    export = actions.add_parser("export", help="write a trace in another program's format")
    export.add_argument("--perfetto", action="store_true", required=True, help="Chrome's trace events, for Perfetto")
    export.add_argument("file", type=Path)
    export.add_argument("out", type=Path)
    contexts_cli.add_parser(commands)
    own = set(commands.choices)
    for name in others:
        if name not in own:
            commands.add_parser(name, add_help=False, help=f"see `plait {name} --help`")
    return parser, own


def _trace(options: argparse.Namespace, console: Console) -> None:
    trace = Trace.load(options.file)
    if options.action == "show":
        show(trace, console)
    elif options.action == "view":
        out = options.out or options.file.with_name(f"{options.file.name}.html")
        _write(out, viewer.render(trace))
        sys.stdout.write(f"{out}\n")
    else:
        _write(options.out, json.dumps(perfetto(trace), separators=(",", ":")))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error}") from None


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the job file {name}: {error}") from None


async def _run(spec: JobSpec, options: argparse.Namespace, console: Console) -> Result:
    chosen = {} if options.contexts is None else {"contexts": options.contexts}
    async with Runtime(options.model, **chosen) as runtime:
        job = await runtime.submit(spec, trace_file=options.trace)
        await watch(aiter(job), console=console)
        return await job
