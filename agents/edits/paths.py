"""Paths that a model writes: made regular, and refused where an edit must not go."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from pathlib import PurePosixPath

from .base import EditError, Source


def regular(name: str, where: str) -> str:
    """The path in its shortest form. Raises `EditError` unless it is relative, inside the repository and outside
    `.git`. `where`: what the message calls the part of the edit."""
    path = name.strip().strip("`'\"*").strip()
    parts = path.split("/")
    if not path or not all(character.isprintable() for character in path):
        raise EditError(f"{where}: {name.strip()[:100]!r} is no path")
    if path.startswith(("/", "~")) or "\\" in path or (len(path) > 1 and path[1] == ":"):
        raise EditError(f"{where}: write the path relative to the repository, with /, and not {path[:100]!r}")
    if ".." in parts:
        raise EditError(f"{where}: the path {path[:100]!r} leaves the repository: write it without '..'")
    # Names that some file systems take for `.git`, too.
    if any(part.casefold().rstrip(" .") in (".git", "git~1") for part in parts):
        raise EditError(f"{where}: {path[:100]!r} is git's own: it cannot be edited")
    if any(len(part.encode()) > 255 for part in parts) or len(path.encode()) > 1000:
        raise EditError(f"{where}: the path is too long")
    path = posixpath.normpath(path)
    if path == "." or name.strip().endswith("/"):
        raise EditError(f"{where}: {name.strip()[:100]!r} is a folder: name a file")
    return path


def existing(name: str, source: Source, where: str) -> str:
    """The path of a text file of the snapshot, which may be the end of the only one shown that ends so: small models
    leave folders out. Raises `EditError` that names those shown, and the nearest one."""
    path = regular(name, where)
    if path in source.files:
        return path
    ends = [one for one in source.shown if one.endswith(f"/{path}")]
    if len(ends) == 1 and path not in source.paths:
        return ends[0]
    if path in source.paths:
        raise EditError(f"{where}: {path} is no text file: it cannot be edited")
    shown = source.shown
    near = nearest(path, shown) or nearest(path, source.paths or source.files)
    hint = f"; did you mean {near}?" if near else ""
    listed = ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "")
    raise EditError(f"{where}: there is no file {path}{hint}" + (f" You were shown: {listed}" if shown else ""))


def fresh(name: str, source: Source, where: str) -> str:
    """The path of a new file. Raises `EditError` if something is there, or on the way there."""
    path = regular(name, where)
    paths: Collection[str] = source.paths or source.files
    if path in paths:
        raise EditError(f"{where}: {path} is there already")
    for parent in map(str, PurePosixPath(path).parents):
        if parent in paths:
            raise EditError(f"{where}: {parent} is no folder: nothing can be written below it")
    if any(other.startswith(path + "/") for other in paths):
        raise EditError(f"{where}: {path} is a folder: name a file")
    return path


def nearest(path: str, paths: Iterable[str]) -> str | None:
    """The most similar path: the same file name first, then by spelling; None: none is like it."""
    name = posixpath.basename(path)
    best, best_score = None, 0.0
    for other in paths:
        matcher = SequenceMatcher(None, path, other, autojunk=False)
        score = 1.0 if posixpath.basename(other) == name else 0.0
        if score + matcher.real_quick_ratio() > best_score and score + matcher.quick_ratio() > best_score:
            score += matcher.ratio()
            if score > best_score:
                best, best_score = other, score
    return best if best_score >= 0.7 else None
