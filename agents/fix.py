"""`plait fix`: fix an issue of a repository.

    plait fix . --issue issue.md --model MODEL
    plait fix . --issue "slugify('') should raise a ValueError" --model MODEL --small --n 16
    plait fix . --issue - --model MODEL --check "python -m pytest -q" --out patch.diff < issue.md
    plait fix . --issue issue.md --model MODEL --folder ../job --apply

It works on the files as they are, with what is not committed. The patch goes to standard output; the tests that speak
for it, why it was chosen and what it cost go to standard error. Nothing in the repository is touched, unless --apply is
given. The exit status is 0 with a patch and 1 without.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..runtime.cli.files import read_text, write_text
from ..runtime.cli.live import watch
from ..runtime.cli.options import (
    add_engine_options,
    add_job_options,
    engine_options,
    named_path,
    parse_field,
    utf8,
    with_job_options,
)
from ..runtime.disk import check_apart
from ..runtime.errors import InvalidInput
from ..runtime.events import AnyEvent, Done
from ..runtime.job_spec import JobSpec
from ..runtime.result import Result
from ..runtime.runtime import Runtime
from .code_monkeys import CodeMonkeys
from .fix_report import print_patch, report
from .git import GitError, git
from .repository import Repository
from .sandbox.base import SANDBOXES
from .sandbox.bubblewrap import Bubblewrap
from .working_copy import apply, working_copy

SMALL: dict[str, Any] = {
    "edits": "functions",
    "context": "mixed",
    "context_tokens": 3000,
    "scan": 0,
    "shows_tests": True,
    "test_calls": 3,
    "edit_calls": 3,
    "selection_calls": 0,
    "vote": "reproducing",
    "max_tokens": 1024,
}
"""Fields for a model of a few billion parameters: it rewrites functions that it sees, in short conversations."""
OWN = {"method", "repository", "commit", "issue", "folder"}
"""Fields that are not for --field."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=named_path, help="a git checkout, or any other folder")
    parser.add_argument("--issue", required=True, help="a file, - for standard input, or the text itself")
    parser.add_argument("--model", required=True, help="as for Runtime: a folder, GGUF file, name of the hub")
    parser.add_argument("--apply", action="store_true", help="put the patch into the files, all of it or none")
    parser.add_argument("--out", type=named_path, metavar="FILE", help="write the patch there")
    parser.add_argument("--trace", type=named_path, metavar="FILE", help="write the trace there")
    parser.add_argument(
        "--folder", type=named_path, help="keep what is done there: the same command goes on after a stop"
    )
    group = parser.add_argument_group("how it is fixed")
    group.add_argument("--small", action="store_true", help="fields that fit a model of a few billion parameters")
    group.add_argument("--n", type=int, help="trajectories (10)")
    group.add_argument("--check", metavar="COMMAND", help="fixes with which this fails come last: python -m pytest -q")
    group.add_argument(
        "--field", action="append", default=[], metavar="NAME=VALUE", help="any field of CodeMonkeys; may be repeated"
    )
    group.add_argument("--sandbox", default="bubblewrap", help="what tests run in: bubblewrap, local (bubblewrap)")
    group.add_argument(
        "--python",
        metavar="PATH",
        help="interpreter or virtual environment of the tests (the repository's own, or this)",
    )
    add_engine_options(parser)
    add_job_options(parser)


def run(options: argparse.Namespace) -> int:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    issue, top = _issue(options.issue), _top(options.path)
    _check_places(options, top)
    with working_copy(options.path) as source:
        method = _method(options, source, issue, top)
        spec = with_job_options(JobSpec(method=method), options)
        try:
            result = asyncio.run(_run(spec, options, console))
        except KeyboardInterrupt:
            if options.folder is not None:
                console.print(f"interrupted; what is done is in {options.folder}: the same command goes on")
            raise
    if result.answer is not None:
        print_patch(result.answer)
    report(result, console)
    if result.answer is None:
        return 1
    if options.out is not None:
        write_text(options.out, result.answer)
        console.print(f"the patch is in {options.out}")
    if options.apply:
        apply(options.path, result.answer)
        console.print(f"applied to {top}")
    else:
        is_inside = any(file and file.resolve().is_relative_to(top.resolve()) for file in (options.out, options.trace))
        what = "nothing else" if is_inside else "nothing"
        console.print(f"{what} in {top} is changed: {_how_to_apply(options, top)}")
    return 0


async def _run(spec: JobSpec, options: argparse.Namespace, console: Console) -> Result:
    async with Runtime(options.model, **engine_options(options)) as runtime:
        job = await runtime.submit(spec, trace_file=options.trace)
        await watch(_brief(aiter(job)), title="fix", console=console)
        return await job


async def _brief(events: AsyncIterator[AnyEvent]) -> AsyncIterator[AnyEvent]:
    """The events, without the patch: it is shown afterwards."""
    async for event in events:
        yield replace(event, answer="a patch") if isinstance(event, Done) and event.answer is not None else event


def _issue(given: str) -> str:
    """A name is a file's; several words may be either."""
    is_text = len(given.split()) > 1 and not _is_file(given)
    try:
        text = utf8(given) if is_text else read_text(given)
    except UnicodeError as error:
        raise InvalidInput(f"the issue cannot be read: {error}") from None
    if not text.strip():
        raise InvalidInput("the issue is empty: say what is wrong, and what should happen instead")
    return text


def _is_file(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # A text may be too long for a name.
        return False


def _top(path: Path) -> Path:
    """The top of the checkout that a folder is in, or the folder itself."""
    try:
        return Path(git("rev-parse", "--show-toplevel", folder=path).decode().removesuffix("\n"))
    except (GitError, OSError, InvalidInput):
        return path.resolve()


def _check_places(options: argparse.Namespace, top: Path) -> None:
    """Before any work: what is found out at its end, or would change the repository."""
    for name in ("out", "trace"):
        file: Path | None = getattr(options, name)
        if file is not None and not file.absolute().parent.is_dir():
            raise InvalidInput(f"--{name}: {file.absolute().parent} is no folder: make it first")
        check_apart(file, options.issue, options.model)
    if options.folder is not None and options.folder.resolve().is_relative_to(top.resolve()):
        raise InvalidInput(f"--folder: {options.folder} is in the repository, which is not to change: choose another")


def _method(options: argparse.Namespace, source: Repository, issue: str, top: Path) -> CodeMonkeys:
    """Raises `InvalidInput` for wrong fields, and for a sandbox that does not work here."""
    given = dict(map(parse_field, options.field))
    if own := sorted(OWN & given.keys()):
        raise InvalidInput(f"--field {own[0]}: that is said by the command's own arguments")
    fields: dict[str, Any] = {**SMALL} if options.small else {}
    fields |= {"repository": source.path, "commit": source.commit, "issue": issue, "project": top.name}
    if options.folder is not None:
        fields["folder"] = options.folder.absolute()
    if options.n is not None:
        fields["n"] = options.n
    if options.check is not None:
        fields["check_command"] = _words(options.check)
    fields["sandbox"] = given.get("sandbox") or _sandbox(options, top)
    method = CodeMonkeys(**{**fields, **given})
    if isinstance(method.sandbox, Bubblewrap):
        _check_bubblewrap(method.sandbox)
    return method


def _check_bubblewrap(sandbox: Bubblewrap) -> None:
    """Raise `InvalidInput` where it does not work, which is no reason to do without if only its Python is to blame."""
    sandbox.environment.interpreter()
    try:
        sandbox.check()
    except InvalidInput as error:
        try:
            Bubblewrap().check()
        except InvalidInput:
            raise InvalidInput(f"{error}; --sandbox local runs what the model writes without any") from None
        raise InvalidInput(f"{error}; --python names another Python") from None


def _words(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise InvalidInput(f"--check {command!r}: {error}") from None
    if not words:
        raise InvalidInput("--check: the command is empty")
    return words


def _sandbox(options: argparse.Namespace, top: Path) -> dict[str, Any]:
    """The sandbox of this name, with the Python that is asked for, or the repository's own."""
    kind = SANDBOXES.find(options.sandbox)
    has_python = kind is not None and "environment" in kind.model_fields
    python: str | None = options.python
    if python is not None and not has_python:
        raise InvalidInput(f"--python: the sandbox {options.sandbox} has its own")
    if python is None and has_python:
        python = next(
            (str(top / name) for name in (".venv", "venv") if os.access(top / name / "bin/python", os.X_OK)), None
        )
    return {"sandbox": options.sandbox, **({} if python is None else {"environment": {"python": python}})}


def _how_to_apply(options: argparse.Namespace, top: Path) -> str:
    if options.out is not None:
        # Git takes the patch's paths from where it runs, and elsewhere in the checkout passes over them.
        return f"git -C {shlex.quote(str(top.absolute()))} apply {shlex.quote(str(options.out.absolute()))} does that"
    if options.folder is not None:
        return "the same command with --apply does that, without asking the model again"
    return "--apply does that, --out FILE keeps the patch"
