"""Which patches apply to a commit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from .git import GitError, git
from .repository import Repository
from .sandbox.script import patch_bytes

_CHECK = ("apply", "--cached", "--check", "--whitespace=nowarn", "--no-ignore-whitespace", "-")


def applicable(source: Repository, patches: Sequence[str]) -> list[bool]:
    """For each patch whether git puts it on the commit, as a sandbox does. A text that changes no file does not apply.
    Blocks."""
    if not patches:
        return []
    with tempfile.TemporaryDirectory(prefix="plait-") as name:
        # An index of the commit alone: of the repository only objects are read.
        extra = {"GIT_INDEX_FILE": str(Path(name) / "index")}
        git("read-tree", source.commit, folder=source.path, extra=extra)
        return [_applies(source, patch, extra) for patch in patches]


def _applies(source: Repository, patch: str, extra: dict[str, str]) -> bool:
    try:
        git(*_CHECK, folder=source.path, stdin=patch_bytes(source.snapshot(patch)), extra=extra)
    except GitError:
        return False
    return True
