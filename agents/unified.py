"""Reads unified diffs, those of git and those that a model or another tool wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class PatchError(ValueError):
    """A text that is no unified diff; says which line and why."""


@dataclass(slots=True)
class Hunk:
    line: int
    """Of its `@@` in the patch, from 1."""
    start: int | None
    """Its first old line as the header gives it, from 1; None: it gives none."""
    old: list[str] = field(default_factory=list)
    """Lines without ends."""
    new: list[str] = field(default_factory=list)
    old_ends: bool = True
    """Whether the last old line ends in a newline."""
    new_ends: bool = True


@dataclass(slots=True)
class FilePatch:
    line: int
    old: str | None
    """None: the file is new."""
    new: str | None
    """None: it is deleted."""
    hunks: list[Hunk] = field(default_factory=list)
    is_copy: bool = False
    is_binary: bool = False
    modes: list[str] = field(default_factory=list)
    """Modes that its header sets: `100644`."""


_HUNK = re.compile(r"^@@ -(\d{1,18})(?:,(\d{1,18}))? \+(\d{1,18})(?:,(\d{1,18}))? @@")
_HEADER = re.compile(r"^(?:(?:old|new|deleted file|new file) mode|(?:copy|rename) \w+|(?:dis)?similarity index|index) ")
_MODE = re.compile(r"^(?:new file|deleted file|old|new) mode (\d{6})$")


def read_patch(text: str, *, is_bare: bool = False) -> list[FilePatch]:
    """All files of a patch. Raises `PatchError`.

    Paths are those that `git apply` finds. They lose their first folder, whatever it is (`a/`, `b/`, and what
    `diff.mnemonicPrefix` writes), up to a file without a `diff --git` line whose new path has no folder: from there on
    paths are whole. A file without that line has one path, the new one, or the old one where the new one goes on from
    it (`x.py` and `x.py.new`). `is_bare`: they may have no prefix, as models leave it out; only `a/` and `b/` are taken
    off. Counts in hunk headers are believed where they fit; else a hunk goes on to the next header.
    """
    return _Reader(text, is_bare).read()


class _Reader:
    def __init__(self, text: str, is_bare: bool) -> None:
        self.is_bare = is_bare
        self.is_whole = False
        """Paths have no prefix to be taken off."""
        self.is_header = False
        """Behind a `diff --git` line only lines of its header have come."""
        self.lines = [line.removesuffix("\r") for line in text.split("\n")]
        if self.lines[-1] == "":
            self.lines.pop()
        self.raw = text.split("\n")
        self.at = 0
        self.files: list[FilePatch] = []

    def read(self) -> list[FilePatch]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith("diff --git "):
                old, new = self._git_names(line.removeprefix("diff --git "))
                self.files.append(FilePatch(self.at + 1, old, new))
                self.is_header = True
            elif self._is_names(self.at):
                self._names()
                continue
            elif line.startswith("@@"):
                self._hunk()
                continue
            elif self.files and not self.files[-1].hunks:
                self._header(line, self.files[-1])
                self.is_header &= self.is_bare or _HEADER.match(line) is not None
            self.at += 1
        return self.files

    def _is_names(self, at: int) -> bool:
        lines = self.lines[at : at + 2]
        return len(lines) == 2 and lines[0].startswith("--- ") and lines[1].startswith("+++ ")

    def _names(self) -> None:
        old, new = (_name(self.lines[self.at + offset][4:]) for offset in (0, 1))
        current = self.files[-1] if self.is_header and not self.files[-1].hunks else None
        if self.is_bare:
            if (old is None or old.startswith("a/")) and (new is None or new.startswith("b/")):
                old, new = old and old[2:], new and new[2:]
        elif current is None:
            old, new = self._guessed(old, new)
        else:
            old = old and (_squashed(self._stripped(old)) or current.old)
            new = new and (_squashed(self._stripped(new)) or current.new)
        if current is None:
            self.files.append(FilePatch(self.at + 1, old, new))
            self.is_header = False
        else:
            current.old, current.new = old, new
        self.at += 2

    def _guessed(self, old: str | None, new: str | None) -> tuple[str | None, str | None]:
        """Paths of a file without a `diff --git` line."""
        hunk = "".join(self.lines[self.at + 2 : self.at + 3])
        if new is not None and "/" not in new and hunk.startswith("@@ -"):
            self.is_whole = True
        old, new = (path and (self._stripped(path) or path) for path in (old, new))
        if old is None or new is None:
            return old and _squashed(old), new and _squashed(new)
        path = _squashed(old)
        if not new.startswith(path):
            path = _squashed(new)
        return path, path

    def _stripped(self, path: str) -> str:
        """A path less its prefix; empty: it has none."""
        return path if self.is_whole else path.partition("/")[2]

    def _git_names(self, text: str) -> tuple[str, str]:
        """Both paths of a `diff --git` line; later lines correct them where they are not the same."""
        old, new = _pair(text)
        if self.is_bare:
            return old.removeprefix("a/"), new.removeprefix("b/")
        return self._stripped(old) or old, self._stripped(new) or new

    def _header(self, line: str, file: FilePatch) -> None:
        if match := _MODE.match(line):
            file.modes.append(match[1])
            if line.startswith("new file"):
                file.old = None
            elif line.startswith("deleted file"):
                file.new = None
        elif match := re.match(r"^(rename|copy) (from|to) (.*)$", line):
            file.is_copy = match[1] == "copy"
            setattr(file, "old" if match[2] == "from" else "new", _squashed(_unquoted(match[3])))
        elif line.startswith(("GIT binary patch", "Binary files ")):
            file.is_binary = True

    def _hunk(self) -> None:
        if not self.files:
            raise PatchError(f"line {self.at + 1}: a hunk before any '--- a/path' and '+++ b/path'")
        hunk = self._counted() or self._open()
        self.files[-1].hunks.append(hunk)

    def _counted(self) -> Hunk | None:
        """The hunk by its counts; None: they do not fit."""
        match = _HUNK.match(self.lines[self.at])
        if match is None or match[1] is None:
            return None
        left_old, left_new = (1 if match[number] is None else int(match[number]) for number in (2, 4))
        at = self.at + 1
        while (left_old > 0 or left_new > 0) and at < len(self.lines):
            kind = self.lines[at][:1] or " "
            if kind not in " +-\\":
                return None
            left_old -= kind in " -"
            left_new -= kind in " +"
            at += 1
        if left_old or left_new:
            return None
        if at < len(self.lines) and self.lines[at].startswith("\\"):
            at += 1
        after = self.lines[at] if at < len(self.lines) else ""
        if after[:1] in ("+", "-", " ") and not self._is_names(at) and after.rstrip() != "--":
            return None
        return self._filled(at, int(match[1]))

    def _open(self) -> Hunk:
        """The hunk, to the next header or the end."""
        match = _HUNK.match(self.lines[self.at])
        start = int(match[1]) if match is not None and match[1] is not None else None
        at = self.at + 1
        while at < len(self.lines) and not self.lines[at].startswith(("@@", "diff --git ")):
            if self._is_names(at) and self.lines[at + 2 : at + 3] and self.lines[at + 2].startswith("@@"):
                break
            at += 1
        end = at
        while end > self.at + 1 and not self.lines[end - 1]:
            end -= 1
        hunk = self._filled(end, start)
        self.at = at
        return hunk

    def _filled(self, end: int, start: int | None) -> Hunk:
        hunk, kind = Hunk(self.at + 1, start), ""
        for number in range(self.at + 1, end):
            line = self.lines[number]
            if line.startswith("\\"):
                hunk.old_ends = hunk.old_ends and kind not in "- "
                hunk.new_ends = hunk.new_ends and kind not in "+ "
                continue
            kind = line[:1] or " "
            if kind not in " +-":
                raise PatchError(f"line {number + 1}: begin it with ' ', '+' or '-': {line[:100]}")
            # A carriage return ends a line with the newline only: without one it is text.
            is_last = self.lines[number + 1 : number + 2] and self.lines[number + 1].startswith("\\")
            text = (self.raw[number] if is_last else line)[1:]
            if kind in "- ":
                hunk.old.append(text)
            if kind in "+ ":
                hunk.new.append(text)
        self.at = end
        return hunk


def _name(text: str) -> str | None:
    """The path of a `---` or `+++` line; None: /dev/null."""
    if not text.startswith('"'):
        # Git puts a tab behind a path with blanks; others put the time there.
        text = text.partition("\t")[0] if "\t" in text else text.rstrip()
    path = _unquoted(text)
    return None if path == "/dev/null" else path


def _squashed(path: str) -> str:
    return re.sub("/+", "/", path)


def _pair(text: str) -> tuple[str, str]:
    """Two paths with a blank between them."""
    if text.startswith('"'):
        ends = [match.end() for match in re.finditer(r'(?<!\\)(?:\\\\)*"', text)]
        old, new = (text[: ends[1]], text[ends[1] + 1 :]) if len(ends) > 1 else (text, text)
    else:
        # The two are equal but for their prefixes, so a blank inside a path does not matter.
        half = len(text) // 2
        old, new = text[:half], text[half + 1 :]
        if text[half : half + 1] != " ":
            old, new = text.partition(" ")[0], text.rpartition(" ")[2]
    return _unquoted(old), _unquoted(new)


def _unquoted(text: str) -> str:
    """A path as git quotes it, plain."""
    match = re.match(r'^"((?:[^"\\]|\\.)*)"', text)
    if match is None:
        return text
    plain = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}

    def byte(found: re.Match[bytes]) -> bytes:
        code = found[1].decode("latin-1")
        return bytes([int(code, 8) % 256 if code[0] in "01234567" else plain.get(code, ord(code))])

    raw = re.sub(rb"\\([0-7]{3}|.)", byte, match[1].encode())
    return raw.decode(errors="surrogateescape")
