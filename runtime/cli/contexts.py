"""`plait contexts`: list, add and drop the encoded contexts that are kept on disk."""

from __future__ import annotations

import argparse
import asyncio
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from ..errors import InvalidInput, UnsupportedByEngine
from ..methods.prompt import Prompt
from ..methods.sequential import Sequential
from ..printable import printable
from ..runtime import Runtime
from .files import read_text
from .options import add_engine_options, engine_options, named_path, utf8
from .table import table

if TYPE_CHECKING:
    from ..engines.native.context_files import ContextFiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    shown = actions.add_parser("list", help="show them, most recently used first")
    add = actions.add_parser("add", help="encode text files, each as one context")
    add.add_argument("files", type=named_path, nargs="+")
    add.add_argument("--model", required=True, help="as for Runtime: a name, a folder, a GGUF file")
    add.add_argument("--instruction", type=utf8, default="", help="as in the jobs that are to find them")
    add.add_argument("--chat", action="store_true", help="for jobs whose prompt is a chat")
    add.add_argument("--system", type=utf8, help="the chat's system message")
    add_engine_options(add)
    drop = actions.add_parser("drop", help="delete them")
    drop.add_argument("names", nargs="*", help="beginnings of names, as the list shows them")
    drop.add_argument("--all", action="store_true")
    where = "folder; default: $PLAIT_CONTEXTS, else plait/contexts in the user's cache"
    for action in (shown, add, drop):
        action.add_argument("--store", type=named_path, help=where)


def run(options: argparse.Namespace) -> int:
    from ..engines.native.context_files import ContextFiles, default_folder  # torch takes a moment

    console = Console()
    store = ContextFiles(options.store or default_folder())
    if store.folder.exists() and not store.folder.is_dir():
        raise InvalidInput(f"{store.folder} is not a folder")
    if options.action == "list":
        show(store, console)
    elif options.action == "drop":
        if bool(options.names) == options.all or "" in options.names:  # all names begin with nothing
            raise InvalidInput("say which contexts to drop, or --all")
        counts = {name: store.drop(name) for name in options.names or [""]}
        count = sum(counts.values())
        console.print(f"{count} dropped", highlight=False)
        if unknown := [name for name, dropped in counts.items() if name and not dropped]:
            raise InvalidInput(f"no context's name begins with {', '.join(map(repr, unknown))}")
    else:
        prompt: Prompt = "?"
        if options.chat or options.system is not None:
            system = [] if options.system is None else [{"role": "system", "content": options.system}]
            prompt = [*system, {"role": "user", "content": "?"}]
        texts = [read_text(path) for path in options.files]
        engine = engine_options(options)
        asyncio.run(add(store.folder, options.model, texts, prompt=prompt, instruction=options.instruction, **engine))
        show(store, console)
    return 0


async def add(
    folder: Path, model: str, texts: Sequence[str], *, prompt: Prompt = "?", instruction: str = "", **options: Any
) -> None:
    """Encode texts, each as one context behind what stands in front of `prompt`'s text, and keep them in `folder`.
    `options`: of the engine; jobs find what was encoded with the same `dtype`."""
    from ..engines.native.engine import NativeEngine

    async with Runtime(model, contexts=folder, **options) as runtime:
        engine = runtime.engine
        if not isinstance(engine, NativeEngine) or engine.contexts is None:
            raise UnsupportedByEngine(f"engine {engine.name} keeps no contexts; the native engine does")
        for text in texts:
            fields: dict[str, Any] = {"contexts": (text,), "encoding": "parallel", "instruction": instruction}
            await (await runtime.submit(Sequential(prompt=prompt, max_tokens=1, **fields)))
            await engine.contexts.drain()  # before it can be driven out of memory


def show(store: ContextFiles, console: Console) -> None:
    """Print a table."""
    found = store.all()
    rows = [
        {
            "name": context.name[:12],
            "model": escape(context.model),
            "tokens": context.tokens,
            "MB": context.size / 1e6,
            "used": datetime.datetime.fromtimestamp(context.used).strftime("%Y-%m-%d %H:%M"),
            "text": escape(printable(" ".join(context.text.split())[:48])),
        }
        for context in found
    ]
    if rows:
        console.print(table("contexts", rows))
    size = sum(context.size for context in found) / 1e6
    console.print(f"{len(found)} contexts, {size:,.1f} MB in {store.folder}", highlight=False, soft_wrap=True)
