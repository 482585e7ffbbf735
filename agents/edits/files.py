"""Whole files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from .base import Edit, EditError, EditForm, NothingFound, Source
from .fences import fences
from .finish import finish
from .lines import Change, bare, change, file_lines
from .names import read_name
from .paths import existing, fresh, regular

_OPENING = re.compile(r"""^[ \t]*<file +path ?= ?["']?([^"'<>\n]*)["']? ?>""", re.MULTILINE)
_DELETE = re.compile(r"""^[ \t]*<delete +path ?= ?["']?([^"'<>\n]*)["']? ?/?>""", re.MULTILINE)


class Files(EditForm):
    """Each changed file anew, from its first to its last line."""

    name: ClassVar[str] = "files"
    example: ClassVar[str] = """\
<edit>
<file path="shop/errors.py">
class EmptyCart(Exception):
    pass


class NoSuchItem(KeyError):
    pass
</file>
<delete path="shop/old_cart.py"/>
</edit>"""

    def instructions(self) -> str:
        return """\
Write every file that changes whole, all inside one <edit> and </edit>. A file is:
<file path="path/of/file">
all of its lines, the unchanged ones too
</file>
Rules:
- The path is relative to the repository. A path that does not exist yet makes a new file.
- Leave nothing out: the file will hold exactly these lines. Write no "..." and no "rest unchanged".
- Files that do not change are not written. To delete a file, write <delete path="path/of/file"/>."""

    def parse(self, text: str, source: Source) -> Edit:
        edit: Edit = {}
        text = text.replace("\r\n", "\n")
        for number, (name, lines) in enumerate(_parts(text, source), start=1):
            where = f"file {number} ({name.strip()[:100]})"
            if lines is None:
                path, new = existing(name, source, where), None
            else:
                path = regular(name, where)
                new = _whole(path, lines, source, where)
            if path in edit:
                raise EditError(f"{where}: {path} is in the edit twice")
            edit[path] = new
        if not edit:
            raise NothingFound('there is no file: write <file path="path/of/file">, its lines and </file>')
        return finish(edit, source)


def _parts(text: str, source: Source) -> Iterator[tuple[str, list[str] | None]]:
    """Path and lines of every file; no lines: it is deleted."""
    openings = list(_OPENING.finditer(text))
    outside, done = "", 0
    for number, opening in enumerate(openings, start=1):
        if opening.start() < done:
            continue
        end = _end(text, opening, openings[number:])
        outside += text[done : opening.start()]
        done = end + len("</file>")
        yield opening[1], _unfenced(opening[1], bare(text[opening.end() : end].removeprefix("\n")))
    outside += text[done:]
    if not openings:
        for block in fences(text):
            name = read_name(block.before, source)
            if name is not None and name[1] is None:
                yield name[0], list(block.lines)
    for deletion in _DELETE.finditer(outside):
        yield deletion[1].rstrip("/ "), None


def _end(text: str, opening: re.Match[str], later: list[re.Match[str]]) -> int:
    """Where the closing tag of a file stands: the last one before the next file, for a file may hold the tag too."""
    at = -1
    for limit in [*(match.start() for match in later), len(text)]:
        at = text.rfind("</file>", opening.end(), limit)
        if at >= 0:
            return at
    raise EditError(f"file {opening[1].strip()}: </file> is missing at its end")


def _unfenced(path: str, lines: list[str]) -> list[str]:
    """Without a fence around all lines, which models like to write."""
    inner = [number for number, line in enumerate(lines) if line.strip()]
    if not inner or path.endswith((".md", ".rst")):
        return lines
    first, last = inner[0], inner[-1]
    if first < last and re.match(r"^```[\w+-]*\s*$", lines[first]) and re.match(r"^```\s*$", lines[last]):
        return lines[first + 1 : last]
    return lines


def _whole(path: str, lines: list[str], source: Source, where: str) -> str:
    if path not in source.files and path not in source.paths:
        fresh(path, source, where)
        return "".join(line + "\n" for line in lines)
    path = existing(path, source, where)
    if not any(excerpt.path == path and excerpt.name is None for excerpt in source.excerpts):
        raise EditError(f"{where}: {path} is there already, and was not shown whole: it cannot be written anew")
    old = source.files[path]
    return change(old, [Change(first=0, last=len(file_lines(old)), lines=lines)])
