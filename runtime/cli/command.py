"""What a command of `plait` is, and where they are found: entry points of the group `plait.commands`."""

from __future__ import annotations

import argparse
from typing import Protocol

from ..plugins import Registry, has_methods


class Command(Protocol):
    """One command; mostly a module with these two functions. The first line of its docstring is its help."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""
        ...

    def run(self, options: argparse.Namespace) -> int:
        """Do it; returns the exit status. What is wrong with the options is raised as a `PlaitError`."""
        ...


COMMANDS: Registry[Command] = Registry(
    "command",
    "plait.commands",
    "a module or object with the functions `add_arguments` and `run`",
    lambda name, command: has_methods(command, Command),
)


def register_command(name: str, command: Command) -> None:
    """Make a command known: `plait NAME`, a module or object with a docstring, `add_arguments(parser)` and
    `run(options)`, which returns the exit status. Raises `InvalidInput` for a name that is taken."""
    COMMANDS.register(name, command)


def summary(command: Command) -> str:
    """The first line of its docstring, without the command's own name in front."""
    line = (command.__doc__ or "").strip().partition("\n")[0]
    name, colon, rest = line.partition(": ")
    return rest if colon and name.startswith("`") else line
