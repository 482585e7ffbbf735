"""Which patches apply to a commit."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..runtime.errors import InvalidInput
from .git import GitError, git
from .repository import Repository
from .sandbox.script import patch_bytes
from .unified import PatchError, read_patch

_CHECK = ("apply", "--cached", "--check", "--whitespace=nowarn", "--no-ignore-whitespace", "-")
_MODE = re.compile(r"(?m)^ (?:create mode|mode change \d+ =>) (\d+)")
"""Of files that a patch makes, in git's summary of it."""
_NUMSTAT = ("apply", "--whitespace=nowarn", "--numstat")


def applicable(source: Repository, patches: Sequence[str]) -> list[bool]:
    """For each patch whether git puts it on the commit, as a sandbox does. A text that changes no file does not apply,
    nor does what `checked_paths` refuses. Blocks."""
    if not patches:
        return []
    with tempfile.TemporaryDirectory(prefix="plait-") as name:
        # An index of the commit alone: of the repository only objects are read.
        extra = {"GIT_INDEX_FILE": str(Path(name) / "index")}
        git("read-tree", source.commit, folder=source.path, extra=extra)
        return [_applies(source, patch, extra) for patch in patches]


def _applies(source: Repository, patch: str, extra: Mapping[str, str]) -> bool:
    data = patch_bytes(source.snapshot(patch))
    all_paths = source.paths()

    def below(path: PurePosixPath) -> Iterable[PurePosixPath]:
        return (PurePosixPath(one) for one in all_paths if one.startswith(f"{path}/"))

    try:
        git(*_CHECK, folder=source.path, stdin=data, extra=extra)
        checked_paths(
            data,
            is_link=lambda path: str(path) in source.links,
            is_file=lambda path: str(path) in source.sizes,
            below=below,
            folder=source.path,
            extra=extra,
        )
    except (GitError, InvalidInput):
        return False
    return True


def checked_paths(
    patch: bytes,
    *,
    is_link: Callable[[PurePosixPath], bool],
    is_file: Callable[[PurePosixPath], bool],
    below: Callable[[PurePosixPath], Iterable[PurePosixPath]],
    folder: Path,
    extra: Mapping[str, str],
) -> list[PurePosixPath]:
    """The paths that a patch has to do with, old and new. Raises `InvalidInput` for a patch that makes what is no plain
    file, has to do with one that is none now, or makes a file where a folder has to be or the other way round. What it
    says is read by git itself, which takes more for a mode than it ever writes. Raises `GitError` for what is no patch.
    Blocks.

    `is_link`, `is_file`, `below`: of what is there; symbolic links and submodules, plain files, the files below a
    folder.
    """
    *new, summary = git(*_NUMSTAT, "--summary", "-z", "-", folder=folder, stdin=patch, extra=extra).split(b"\0")
    for mode in _MODE.findall(summary.decode(errors="replace")):
        if int(mode, 8) & ~0o777 != stat.S_IFREG:
            raise InvalidInput(
                f"the patch makes a file of mode {mode}: no symbolic links or submodules are made, only plain files, "
                "such as those of mode 100644 or 100755"
            )
    old = git(*_NUMSTAT, "-R", "-z", "-", folder=folder, stdin=patch, extra=extra).split(b"\0")[:-1]
    paths = list(dict.fromkeys(PurePosixPath(os.fsdecode(entry.split(b"\t", 2)[2])) for entry in (*new, *old)))
    for path in paths:
        if any(map(is_link, (path, *path.parents))):
            raise InvalidInput(f"the patch has to do with {path}, and there is a symbolic link or a submodule")
    # Git's own check passes over these, and it stops halfway.
    removed = _removed(patch)
    kept = [path for path in paths if path not in removed]
    for path in kept:
        for parent in path.parents:
            if parent in kept or (is_file(parent) and parent not in removed):
                raise InvalidInput(f"the patch makes {path}, and {parent} is no folder")
        if not removed.issuperset(below(path)):
            raise InvalidInput(f"the patch makes {path}, and there is a folder")
    return paths


def _removed(patch: bytes) -> set[PurePosixPath]:
    """Paths at which a patch leaves nothing."""
    try:
        files = read_patch(patch.decode(errors="surrogateescape"))
    except PatchError:
        return set()
    gone = {file.old for file in files if file.old is not None and file.old != file.new and not file.is_copy}
    return {PurePosixPath(path) for path in gone - {file.new for file in files}}
