"""Search/replace blocks (arXiv 2501.14723, appendix and released code), with new and deleted files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from .base import Edit, EditError, EditForm, NothingFound, Source
from .finish import finish
from .lines import Change, bare, change, file_lines
from .paths import existing, fresh, regular
from .search import not_found, positions

_SEARCH = re.compile(r"^<{3,} ?SEARCH\b[ \t:]?(.*)$")
_DELETE = re.compile(r"^<{3,} ?DELETE\b[ \t:]?(.*)$")
_DIVIDER = re.compile(r"^={6,}[ \t]*$")
_REPLACE = re.compile(r"^>{3,} ?REPLACE[ \t]*$")


class Blocks(EditForm):
    """Lines to find, and what replaces them."""

    name: ClassVar[str] = "blocks"
    example: ClassVar[str] = """\
<edit>
<<<< SEARCH shop/cart.py
    def total(self):
        return sum(item.price for item in self.items)
==========
    def total(self):
        return sum(item.price * item.count for item in self.items)
>>>> REPLACE
<<<< SEARCH shop/errors.py
==========
class EmptyCart(Exception):
    pass
>>>> REPLACE
<<<< DELETE shop/old_cart.py
</edit>"""

    def instructions(self) -> str:
        return """\
Write the change as one or more blocks, all inside one <edit> and </edit>. A block is:
<<<< SEARCH path/of/file
lines of the file, exactly as they are
==========
the lines that replace them
>>>> REPLACE
Rules:
- SEARCH holds whole lines, copied exactly, with their indentation. They must occur once in the file: take a few lines
  more around them if they occur more often.
- All blocks refer to the file as it was shown, not to the result of other blocks, and do not overlap.
- Nothing between ========== and >>>> REPLACE removes the lines.
- For a new file, leave SEARCH empty. To delete a file, write the line <<<< DELETE path/of/file alone.
- Do not put line numbers or ``` into a block, and write no "..." for lines left out."""

    def parse(self, text: str, source: Source) -> Edit:
        edit: Edit = {}
        changes: dict[str, list[Change]] = {}
        for block in _blocks(text):
            _read(block, source, edit, changes)
        for path, parts in changes.items():
            if path in edit:
                raise EditError(f"{parts[0].where}: {path} is deleted by another block")
            edit[path] = change(source.files[path], parts)
        return finish(edit, source)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    where: str
    path: str
    lines: Sequence[str] | None
    """Between the markers; None: the file is deleted."""


def _blocks(text: str) -> Iterator[_Block]:
    lines = bare(text if text.endswith("\n") else text + "\n")
    number, at = 0, 0
    while at < len(lines):
        opening = _SEARCH.match(lines[at]) or _DELETE.match(lines[at])
        if opening is None:
            at += 1
            continue
        number += 1
        deletes, path = opening.re is _DELETE, opening[1].strip()
        where = f"block {number} ({'DELETE' if deletes else 'SEARCH'} {path[:100] or 'without a path'}, line {at + 1})"
        at += 1
        inner: list[str] | None = None
        if not deletes:
            inner = []
            while at < len(lines) and not _REPLACE.match(lines[at]):
                if _SEARCH.match(lines[at]) or _DELETE.match(lines[at]):
                    raise EditError(f"{where}: the line '>>>> REPLACE' is missing before line {at + 1}")
                inner.append(lines[at])
                at += 1
            if at == len(lines):
                raise EditError(f"{where}: the line '>>>> REPLACE' is missing at its end")
            at += 1
        yield _Block(where=where, path=path, lines=inner)
    if not number:
        raise NothingFound("there is no block: begin one with the line '<<<< SEARCH path/of/file'")


def _read(block: _Block, source: Source, edit: Edit, changes: dict[str, list[Change]]) -> None:
    where = block.where
    if not block.path:
        raise EditError(f"{where}: write the file's path behind SEARCH or DELETE")
    if block.lines is None:
        path = existing(block.path, source, where)
        edit[path] = None
        return
    dividers = [at for at, line in enumerate(block.lines) if _DIVIDER.match(line)]
    if not dividers:
        raise EditError(f"{where}: the line '==========' between the old and the new lines is missing")
    path = regular(block.path, where)
    if path in edit:
        raise EditError(f"{where}: another block creates or deletes {path}: write one block for it")
    old, new = block.lines[: dividers[0]], block.lines[dividers[0] + 1 :]
    if path not in source.files and not any(line.strip() for line in old):
        edit[fresh(path, source, where)] = "".join(line + "\n" for line in new)
        return
    path = existing(path, source, where)
    lines = file_lines(source.files[path])
    if not lines and not any(line.strip() for line in old):
        changes.setdefault(path, []).append(Change(first=0, last=0, lines=new, where=where))
        return
    # The old or the new lines may hold such a line too: the longest search text that the file holds is meant.
    for at in reversed(dividers):
        found = positions(block.lines[:at], lines)
        if found:
            old, new = block.lines[:at], block.lines[at + 1 :]
            break
    else:
        if dividers == [0]:
            raise EditError(f"{where}: SEARCH is empty, but {path} is there: copy the lines that are to be replaced")
        raise EditError(f"{where}: {not_found(old or block.lines[: dividers[1]], path, source)}")
    if len(found) > 1:
        listed = ", ".join(str(first + 1) for first in found[:10])
        raise EditError(
            f"{where}: SEARCH occurs {len(found)} times in {path}, at lines {listed}"
            f"{', ...' if len(found) > 10 else ''}: add lines around it, until it occurs once"
        )
    changes.setdefault(path, []).append(Change(first=found[0], last=found[0] + len(old), lines=new, where=where))
