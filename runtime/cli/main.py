"""The `plait` command: finds the command that is asked for and runs it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from rich.console import Console
from rich.logging import RichHandler

from ..errors import PlaitError
from ..plugins import blaming, import_plugin
from .command import COMMANDS, Command, summary
from .exit_status import exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its `exit_status`."""
    return exit_status(lambda: _main(list(sys.argv[1:] if arguments is None else arguments)))


def _main(arguments: list[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(_parser(COMMANDS.names()))  # ends the process
    common, rest = _common().parse_known_args(arguments)
    _log(common.verbose)
    for name in common.plugins:
        import_plugin(name)
    options = parse(rest)
    command: Command = options.command
    return command.run(options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line, and its `command`; ends the process where the line is wrong."""
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    parser = _parser([name] if name in COMMANDS.names() else COMMANDS.names())
    return parser.parse_args(arguments)


def _common() -> argparse.ArgumentParser:
    """What every command takes, wherever it stands; it is looked at first, since what is imported may add choices."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--import",
        dest="plugins",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE.py",
        help="run this first: it registers methods, rewards, benchmarks, ...; may be repeated",
    )
    group.add_argument("-v", "--verbose", action="count", default=0, help="say what is done; twice: in detail")
    return parser


def _parser(names: Iterable[str]) -> argparse.ArgumentParser:
    """The parser, with these commands in it."""
    parser = argparse.ArgumentParser(prog="plait", description="A runtime for parallel reasoning.")
    parser.add_argument("--version", action="version", version=f"plait {version('plait')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    names = list(names)
    for name in names:
        try:
            command, line = _command(name)
        except PlaitError as error:
            if len(names) == 1:
                raise
            # One broken package hides no other command.
            commands.add_parser(name, help=_literal(str(error)), add_help=False)
            continue
        one = commands.add_parser(
            name,
            help=_literal(line),
            description=(command.__doc__ or "").strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[_common()],
            allow_abbrev=False,
        )
        command.add_arguments(one)
        one.set_defaults(command=command)
    return parser


def _command(name: str) -> tuple[Command, str]:
    """The command and its summary. Raises `InvalidInput` also for one that fails when it is asked what it takes."""
    command = COMMANDS.find(name)
    assert command is not None
    with blaming(f"{COMMANDS.called(name)} cannot say what it takes"):
        command.add_arguments(argparse.ArgumentParser(parents=[_common()]))
        return command, summary(command)


def _literal(text: str) -> str:
    """The text as argparse's help takes it."""
    return text.replace("%", "%%")


def _log(verbose: int) -> None:
    """Show what the loggers `plait.*` say, on standard error."""
    logger = logging.getLogger("plait")
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False))
