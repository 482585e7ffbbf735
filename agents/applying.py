"""Which patches apply to a commit."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..runtime.errors import InvalidInput
from .git import GitError, git
from .repository import Repository
from .sandbox.script import patch_bytes

_CHECK = ("apply", "--cached", "--check", "--whitespace=nowarn", "--no-ignore-whitespace", "-")
_MODE = re.compile(r"(?m)^ (?:create mode|mode change \d+ =>) (\d+)")
"""Of files that a patch makes, in git's summary of it."""
_NUMSTAT = ("apply", "--whitespace=nowarn", "--numstat")


def applicable(source: Repository, patches: Sequence[str]) -> list[bool]:
    """For each patch whether git puts it on the commit, as a sandbox does. A text that changes no file does not apply,
    nor does what `refuse_links` refuses. Blocks."""
    if not patches:
        return []
    with tempfile.TemporaryDirectory(prefix="plait-") as name:
        # An index of the commit alone: of the repository only objects are read.
        extra = {"GIT_INDEX_FILE": str(Path(name) / "index")}
        git("read-tree", source.commit, folder=source.path, extra=extra)
        return [_applies(source, patch, extra) for patch in patches]


def _applies(source: Repository, patch: str, extra: Mapping[str, str]) -> bool:
    data = patch_bytes(source.snapshot(patch))
    try:
        git(*_CHECK, folder=source.path, stdin=data, extra=extra)
        refuse_links(data, lambda path: str(path) in source.links, folder=source.path, extra=extra)
    except (GitError, InvalidInput):
        return False
    return True


def refuse_links(
    patch: bytes, is_link: Callable[[PurePosixPath], bool], *, folder: Path, extra: Mapping[str, str]
) -> None:
    """Raise `InvalidInput` for a patch that makes what is no plain file, or has to do with one that is none now. What
    it says is read by git itself, which takes more for a mode than it ever writes. Raises `GitError` for what is no
    patch. Blocks."""
    *new, summary = git(*_NUMSTAT, "--summary", "-z", "-", folder=folder, stdin=patch, extra=extra).split(b"\0")
    for mode in _MODE.findall(summary.decode(errors="replace")):
        if int(mode, 8) & ~0o777 != stat.S_IFREG:
            raise InvalidInput(
                f"the patch makes a file of mode {mode}: no symbolic links or submodules are made, only plain files, "
                "such as those of mode 100644 or 100755"
            )
    old = git(*_NUMSTAT, "-R", "-z", "-", folder=folder, stdin=patch, extra=extra).split(b"\0")[:-1]
    for entry in (*new, *old):
        path = PurePosixPath(os.fsdecode(entry.split(b"\t", 2)[2]))
        if any(map(is_link, (path, *path.parents))):
            raise InvalidInput(f"the patch has to do with {path}, and there is a symbolic link or a submodule")
