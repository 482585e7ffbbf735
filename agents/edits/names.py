"""The line that names what a code block holds: `path` or `path::Qualified.name`."""

from __future__ import annotations

import re

from .base import EditError, Source

_NAME = re.compile(r"^[\s#*`>]*(?:(?:[Ff]ile|FILE)\s*:\s*)?([^\s:`*]+?)(?:::([\w.:]*\w)(?:\(.*\))?)?[\s`*:]*$")

_REFERENCE = re.compile(r"(?<=[\w`'\"*])::([^\W\d]\w*(?:(?:\.|::)\w+)*)")


def read_name(line: str, source: Source) -> tuple[str, str | None] | None:
    """Path and name; None: the line is something else."""
    match = _NAME.match(line)
    if match is None:
        path = line.strip(" \t#*`:")
        return (path, None) if " " in path and path in source.files else None
    path, name = match.groups()
    name = name and name.replace("::", ".")
    # A word alone on a line is no path, unless it is one of the repository.
    if name is None and path not in source.files and not re.search(r"/|\w\.\w+$", path):
        return None
    return path, name


def name_in(line: str, source: Source, where: str) -> tuple[str, str | None] | None:
    """The same, and also a `path::name` that stands amid words, its path with blanks: who writes one means that place.
    Raises `EditError` for several."""
    if (named := read_name(line, source)) is not None:
        return named
    found: dict[tuple[str, str], None] = {}
    done = 0
    for match in _REFERENCE.finditer(line):
        found[_path_at_end(line[done : match.start()], source), match[1].replace("::", ".")] = None
        done = match.end()
    if len(found) > 1:
        listed = ", ".join(f"{path}::{name}" for path, name in list(found)[:5])
        raise EditError(f"{where}: its line names {listed}: write one path/of/file.py::Name, alone on a line")
    return next(iter(found), None)


def _path_at_end(text: str, source: Source) -> str:
    """The longest known path that a text ends in; else its last word."""
    text = text.rstrip("`'\"*")[-1000:]
    starts = [match.end() for match in re.finditer(r"^|[\s`'\"*(:]", text)]
    return next((text[at:] for at in starts if text[at:] in source.files), text[starts[-1] :])
