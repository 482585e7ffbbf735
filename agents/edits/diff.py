"""Unified diffs, their hunks found by their text: models count lines badly."""

from __future__ import annotations

import re
from typing import ClassVar

from ..unified import FilePatch, Hunk, PatchError, read_patch
from .base import Edit, EditError, EditForm, EditWithModes, NothingFound, Source
from .fences import fences
from .finish import finish
from .lines import Change, change, file_lines
from .paths import existing, fresh
from .search import not_found, positions


class Diff(EditForm):
    """A unified diff.

    Context and removed lines must be in the file as they are written. Where they occur several times, those at the
    line that the header names are meant, and if none are there the hunk is refused: the nearest may be the wrong ones.
    """

    name: ClassVar[str] = "diff"
    example: ClassVar[str] = """\
<edit>
--- a/shop/cart.py
+++ b/shop/cart.py
@@ -12,5 +12,5 @@
     def total(self):
-        return sum(item.price for item in self.items)
+        return sum(item.price * item.count for item in self.items)

     def clear(self):
         self.items = []
--- /dev/null
+++ b/shop/errors.py
@@ -0,0 +1,2 @@
+class EmptyCart(Exception):
+    pass
</edit>"""

    def instructions(self) -> str:
        return """\
Write the change as one unified diff against the files as they were shown, inside one <edit> and </edit>.
Rules:
- Each file begins with the lines --- a/path/of/file and +++ b/path/of/file.
- Each hunk begins with @@ -line,count +line,count @@.
- Lines of a hunk begin with ' ' (unchanged), '-' (removed) or '+' (added). Unchanged and removed lines are copied
  exactly, with their indentation.
- Put three unchanged lines before and after each change, more where they occur several times in the file.
- A new file has --- /dev/null; a deleted file has +++ /dev/null and all its lines removed."""

    def parse(self, text: str, source: Source) -> Edit:
        try:
            files = read_patch(_unfenced(text), is_bare=True)
        except PatchError as error:
            raise EditError(f"the diff cannot be read: {error}") from None
        if not files:
            raise NothingFound("there is no diff: begin it with the lines --- a/path/of/file and +++ b/path/of/file")
        edit: Edit = {}
        programs, origins = set(), {}
        for number, file in enumerate(files, start=1):
            where = f"file {number} ({(file.new or file.old or '')[:100]}, line {file.line})"
            for path, new in _read(file, source, where).items():
                if path in edit:
                    raise EditError(f"{path} is in the diff twice: put all its hunks below one header")
                edit[path] = new
                if file.old is None and "100755" in file.modes:
                    programs.add(path)
                elif file.old is not None and path not in source.files:
                    origins[path] = existing(file.old, source, where)
        return EditWithModes(finish(edit, source), programs=programs, origins=origins)


def _unfenced(text: str) -> str:
    """What stands in fences around diffs. One that opens behind the first header is a line of a file."""
    inner = [block for block in fences(text) if any(line.startswith("+++ ") for line in block.lines)]
    header = re.search(r"(?m)^(?:diff --git |--- .*\n\+\+\+ )", text)
    if not inner or (header is not None and text.count("\n", 0, header.start()) + 1 < inner[0].line):
        return text
    return "\n".join("\n".join(block.lines) for block in inner)


def _read(file: FilePatch, source: Source, where: str) -> Edit:
    if file.is_binary:
        raise EditError(f"{where}: binary files cannot be edited")
    if any(mode not in ("100644", "100755") for mode in file.modes):
        raise EditError(f"{where}: only plain files can be made")
    if file.old is None:
        if file.new is None:
            raise EditError(f"{where}: both names are /dev/null")
        path = fresh(file.new, source, where)
        hunk = file.hunks[0] if file.hunks else Hunk(file.line, 0)
        if len(file.hunks) > 1 or hunk.old:
            raise EditError(f"{where}: a new file has one hunk, all its lines added")
        text = "".join(line + "\n" for line in hunk.new)
        return {path: text if hunk.new_ends else text.removesuffix("\n")}
    if file.new is not None and file.modes:
        raise EditError(f"{where}: the mode of a file that is there cannot be edited: leave out the lines with 'mode'")
    old = existing(file.old, source, where)
    text = source.files[old]
    if file.new is None:
        # That all lines stand there again is not asked for: the name is clear enough. An empty one may lack its '-'.
        if kept := next((hunk for hunk in file.hunks if any(hunk.new)), None):
            raise EditError(
                f"{where}, hunk at line {kept.line}: a deleted file has all its lines removed: "
                f"write +++ b/{old} to keep it"
            )
        return {old: None}
    new = change(text, [_change(hunk, old, source, where) for hunk in file.hunks])
    if file.new == file.old:
        return {old: new}
    path = fresh(file.new, source, where)
    return {path: new} if file.is_copy else {old: None, path: new}


def _change(hunk: Hunk, path: str, source: Source, where: str) -> Change:
    where = f"{where}, hunk at line {hunk.line}"
    lines = file_lines(source.files[path])
    if not hunk.old:
        if lines:
            raise EditError(f"{where}: it has no unchanged or removed line that says where it belongs")
        at = 0
    else:
        found = positions(hunk.old, lines)
        if not found:
            raise EditError(f"{where}: {not_found(hunk.old, path, source)}")
        at = found[0]
        if len(found) > 1:
            if hunk.start is None or hunk.start - 1 not in found:
                listed = ", ".join(str(first + 1) for first in found[:10])
                raise EditError(f"{where}: its lines occur {len(found)} times in {path} (lines {listed}): add context")
            at = hunk.start - 1
    ends = None if hunk.old_ends and hunk.new_ends else hunk.new_ends
    last = at + len(hunk.old)
    return Change(first=at, last=last, lines=hunk.new, where=where, ends=ends if last == len(lines) else None)
