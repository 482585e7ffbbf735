"""`plait serve`: a model over HTTP, by OpenAI's API and by jobs.

    plait serve countdown
    plait serve FOLDER --port 8000 --keys keys.txt --set max_running=8 --device cuda

Keys stand in a file, or in the environment variable PLAIT_API_KEYS: lines `NAME KEY [jobs=N] [tokens=N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from rich.console import Console

from ..engines.registry import last_part
from ..errors import InvalidInput
from ..passwords import without_password
from ..runtime import Runtime
from ..server.settings import ServerSettings
from .files import read_text
from .options import add_engine_options, engine_options, named_path, parse_field, utf8

KEYS = "PLAIT_API_KEYS"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a shipped model, a folder, a GGUF file, a name of the hub or scheme:rest")
    parser.add_argument("--name", type=utf8, help="what clients call the model (its last part)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--keys", type=named_path, help=f"file of API keys; else ${KEYS}; without either no key is asked for"
    )
    parser.add_argument("--no-keys", action="store_true", help="listen at other addresses though there are no keys")
    parser.add_argument("--allow", action="append", default=[], metavar="METHOD", help="let clients use it too")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of docs/server.md; may be repeated"
    )
    add_engine_options(parser)


def run(options: argparse.Namespace) -> int:
    fields: dict[str, Any] = dict(map(parse_field, options.set))
    settings = ServerSettings(**fields)
    if options.allow:
        settings = ServerSettings(**fields | {"methods": (*settings.methods, *options.allow)})
    lines = read_text(options.keys).splitlines() if options.keys else os.environ.get(KEYS, "").splitlines()
    if not any(line.partition("#")[0].strip() for line in lines):
        if options.keys:
            raise InvalidInput(f"there is no key in {options.keys}: lines are NAME KEY [jobs=N] [tokens=N]")
        if options.host not in LOOPBACK and not options.no_keys:
            raise InvalidInput(f"{options.host} can be reached by others: give --keys, or --no-keys to serve anyone")
    asyncio.run(_run(options, settings, lines))
    return 0


async def _run(options: argparse.Namespace, settings: ServerSettings, lines: Sequence[str]) -> None:
    try:
        from ..server.keys import Keys
        from ..server.listener import Listener, bound
        from ..server.service import Service
    except ImportError as error:
        raise InvalidInput(f"{error}: pip install 'plait[server]'") from None
    keys = Keys(lines, max_jobs=settings.jobs_per_key)
    name = options.name or last_part(options.model)
    if not name:
        raise InvalidInput(f"{without_password(options.model)!r} has no last part to call the model by: give --name")
    if ":" in name:
        raise InvalidInput(f"{without_password(name)!r} has a colon, behind which clients name methods: give --name")
    sockets = bound(options.host, options.port)
    async with AsyncExitStack() as stack:
        for one in sockets:
            stack.enter_context(one)
        runtime = await stack.enter_async_context(Runtime(options.model, **engine_options(options)))
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        listener = Listener(
            Service(runtime, name, settings, keys),
            on_start=lambda url: console.print(f"plait serves {name} at {url}"),
        )
        gc.collect()
        gc.freeze()  # To look at all that is loaded takes a fifth of a second, in which nobody is answered.
        await listener.serve(sockets)
