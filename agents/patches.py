"""Patches: made of an edit as git makes them, and what they touch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from .edits.base import EditWithModes
from .unified import PatchError, read_patch

CONTEXT = 3
"""Lines of context around a change."""


def make_patch(old: Mapping[str, str], edit: Mapping[str, str | None], *, executable: Collection[str] = ()) -> str:
    """The unified diff of an edit (path -> new text; None: removed), as `git diff` writes it, by path; without `index`
    lines. `old`: the files before; `executable`: those of mode 100755, which a removal names."""
    if isinstance(edit, EditWithModes):
        executable = edit.executable(executable)
    parts = []
    for path in sorted(edit, key=lambda path: path.encode(errors="surrogateescape")):
        before, after = old.get(path), edit[path]
        if before != after:
            parts.append(_file(path, before, after, "100755" if path in executable else "100644"))
    return "".join(parts)


def touched(patch: str) -> list[str]:
    """Paths that a patch changes, creates, removes or renames, old and new, each once; never raises."""
    try:
        files = read_patch(patch)
    except PatchError:
        names = re.findall(r'(?m)^(?:---|\+\+\+) (?:[^/\t\n"]+/)?([^\t\n"]+)', patch)
        return [name for name in dict.fromkeys(names) if name != "/dev/null"]
    return list(dict.fromkeys(path for file in files for path in (file.old, file.new) if path is not None))


def is_empty(patch: str) -> bool:
    """Whether a patch changes no file."""
    return not touched(patch)


def _file(path: str, old: str | None, new: str | None, mode: str) -> str:
    names = quoted(f"a/{path}"), quoted(f"b/{path}")
    header = f"diff --git {names[0]} {names[1]}\n"
    if old is None:
        header += f"new file mode {mode}\n"
    if new is None:
        header += f"deleted file mode {mode}\n"
    body = "".join(_hunks(_split(old or ""), _split(new or "")))
    if body:
        tab = "\t" if " " in path else ""
        header += "--- " + ("/dev/null" if old is None else names[0] + tab) + "\n"
        header += "+++ " + ("/dev/null" if new is None else names[1] + tab) + "\n"
    return header + body


def _split(text: str) -> list[str]:
    # Form feeds, U+2028 and the like, where `str.splitlines` splits, are text for git.
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    for group in _groups(_changes(old, new), len(old), len(new)):
        first, last = group[0], group[-1]
        lines = [f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n"]
        for tag, a, b, c, d in group:
            if tag == "equal":
                lines += [" " + line for line in old[a:b]]
            else:
                lines += ["-" + line for line in old[a:b]]
                lines += ["+" + line for line in new[c:d]]
        for line in lines:
            yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


_Part = tuple[str, int, int, int, int]


def _changes(old: Sequence[str], new: Sequence[str]) -> list[_Part]:
    """What is equal and what is not, without the equal lines at both ends, which cost `SequenceMatcher` most."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    inner_old, inner_new = old[head : len(old) - tail], new[head : len(new) - tail]
    # Its shortcut for lines that occur often makes worse diffs, but without it long ones take minutes.
    matcher = SequenceMatcher(None, inner_old, inner_new, autojunk=len(inner_old) + len(inner_new) > 4000)
    parts: list[_Part] = [("equal", 0, head, 0, head)] if head else []
    parts += [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in matcher.get_opcodes()]
    if tail:
        parts.append(("equal", len(old) - tail, len(old), len(new) - tail, len(new)))
    return parts


def _groups(parts: Sequence[_Part], old: int, new: int) -> Iterator[list[_Part]]:
    """Changes with their context; those that lie close together share a hunk."""
    group: list[_Part] = []
    for number, (tag, a, b, c, d) in enumerate(parts):
        if tag != "equal":
            group.append((tag, a, b, c, d))
            continue
        is_first, is_last = number == 0, number == len(parts) - 1
        if not is_first and not is_last and b - a <= 2 * CONTEXT:
            group.append((tag, a, b, c, d))
            continue
        if group and a < b:
            group.append((tag, a, min(b, a + CONTEXT), c, min(d, c + CONTEXT)))
        if group:
            yield group
        group = [] if is_last else [(tag, max(a, b - CONTEXT), b, max(c, d - CONTEXT), d)]
    if group:
        yield group


def _range(first: int, last: int) -> str:
    """Of a hunk header: line and count; a count of one is left out, and an empty range names the line before it."""
    count = last - first
    return f"{first + 1 if count else first}" + ("" if count == 1 else f",{count}")


_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}


def quoted(path: str) -> str:
    """A path as git prints it."""
    raw = path.encode(errors="surrogateescape")
    if all(32 <= byte < 127 and byte not in _ESCAPES for byte in raw):
        return path
    return '"' + "".join(_byte(byte) for byte in raw) + '"'


def _byte(byte: int) -> str:
    if byte in _ESCAPES:
        return "\\" + _ESCAPES[byte]
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
