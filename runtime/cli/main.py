"""The `plait` command: finds the command that is asked for and runs it."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

from rich.console import Console
from rich.logging import RichHandler

from ..errors import PlaitError
from ..plugins import import_plugin
from .command import COMMANDS, Command, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for what plait refuses or nobody reads to its end, 130 when
    interrupted or terminated."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _ending_like_interrupt():
            try:
                return _main(arguments)
            finally:
                sys.stdout.flush()
    except PlaitError as error:
        sys.stderr.write(f"plait: {error}\n")
        return 1
    except BrokenPipeError:
        if not _is_unread(sys.stdout.fileno()):
            raise
        # What is left is written when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _is_unread(pipe: int) -> bool:
    """Has the reader of a pipe gone, as `head` does?"""
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


@contextmanager
def _ending_like_interrupt() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: jobs are cancelled, their traces saved, what they hold is freed."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.SIG_IGN:
        # As for what a shell starts in the background. It is to end all the same, and asyncio ends jobs in good order
        # only where this is the handler.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if interrupted is signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupted)


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
            command = COMMANDS.find(name)
        except PlaitError as error:
            if len(names) == 1:
                raise
            commands.add_parser(name, help=str(error), add_help=False)  # One broken package hides no other command.
            continue
        assert command is not None
        line = summary(command)
        one = commands.add_parser(
            name,
            help=line,
            description=(command.__doc__ or "").strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[_common()],
            allow_abbrev=False,
        )
        command.add_arguments(one)
        one.set_defaults(command=command)
    return parser


def _log(verbose: int) -> None:
    """Show what the loggers `plait.*` say, on standard error."""
    logger = logging.getLogger("plait")
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False))
