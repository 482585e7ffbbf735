"""The line that names what a code block holds: `path` or `path::Qualified.name`."""

from __future__ import annotations

import re

from .base import Source

_NAME = re.compile(r"^[\s#*`>]*(?:(?:[Ff]ile|FILE)\s*:\s*)?([^\s:`*]+?)(?:::([\w.:]*\w)(?:\(.*\))?)?[\s`*:]*$")


def read_name(line: str, source: Source) -> tuple[str, str | None] | None:
    """Path and name; None: the line is something else."""
    match = _NAME.match(line)
    if match is None:
        return None
    path, name = match.groups()
    name = name and name.replace("::", ".")
    # A word alone on a line is no path, unless it is one of the repository.
    if name is None and path not in source.files and not re.search(r"/|\w\.\w+$", path):
        return None
    return path, name
