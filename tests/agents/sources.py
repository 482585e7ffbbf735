"""Repositories that tests build, and texts with all that makes lines difficult."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(folder, *arguments, stdin=None):
    """Git as a user runs it."""
    done = subprocess.run(["git", *arguments], cwd=folder, env=ENVIRONMENT, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(errors="surrogateescape")


def write(folder: Path, files: Mapping[str, str | bytes]):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def repository(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A checkout with one commit of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    write(folder, files)
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "--allow-empty", "-m", "all")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder but git's, with their bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


# Few different lines, so that they repeat; markers of the forms, and characters that `str.splitlines` splits at.
LINE = st.sampled_from(
    [
        "",
        "a",
        "b",
        "    a",
        "\ta",
        " a",
        "x = 1",
        "é\u2028b",
        "\x0cform",
        "v\x0bt",
        "-- a",
        "++ b",
        "- a",
        "+b",
        "\\ x",
        "<",
        "---",
    ]
)


@st.composite
def texts(draw, max_size=12, line=LINE, ends=("\n", "\r\n")):
    """A file: lines, one kind of end, with or without one at the end."""
    lines = draw(st.lists(line, max_size=max_size))
    end = draw(st.sampled_from(ends))
    text = "".join(one + end for one in lines)
    return text if draw(st.booleans()) or not lines or not lines[-1] else text.removesuffix(end)


@st.composite
def changed(draw, text, line=LINE):
    """The text with some lines removed and others put in, its end perhaps too."""
    pieces = text.split("\n")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(pieces)))
        stop = draw(st.integers(at, min(len(pieces), at + 2)))
        pieces[at:stop] = draw(st.lists(line, max_size=2))
    return "\n".join(pieces)
