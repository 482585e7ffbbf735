"""`plait trace`: look at traces, in the terminal, in the browser, in other programs."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from ..disk import check_apart
from ..plain import json_text
from ..trace import viewer
from ..trace.perfetto import perfetto
from ..trace.trace import Trace
from ..trace.tree import show
from .files import write_text
from .options import named_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    drawn = actions.add_parser("show", help="draw a trace as a tree, in the terminal")
    drawn.add_argument("file", type=named_path)
    view = actions.add_parser("view", help="write a self-contained HTML page that shows a trace")
    view.add_argument("file", type=named_path)
    view.add_argument("--out", type=named_path, help="the page (FILE.html)")
    export = actions.add_parser("export", help="write a trace in another program's format")
    export.add_argument("--perfetto", action="store_true", required=True, help="Chrome's trace events, for Perfetto")
    export.add_argument("file", type=named_path)
    export.add_argument("out", type=named_path)


def run(options: argparse.Namespace) -> int:
    if options.action == "view" and options.out is None:
        options.out = options.file.with_name(f"{options.file.name}.html")
    if options.action != "show":
        check_apart(options.out, options.file)
    trace = Trace.load(options.file)
    if options.action == "show":
        show(trace, Console())
    elif options.action == "view":
        write_text(options.out, viewer.render(trace))
        sys.stdout.write(f"{options.out}\n")
    else:
        write_text(options.out, json_text(perfetto(trace)))
    return 0
