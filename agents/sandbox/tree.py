"""The files of a commit as a tar archive, read from a repository that is left untouched.

The repository's own configuration, hooks, filters and attributes have no say: git reads its objects through a private
folder, so what comes out is what was committed, byte for byte.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import InvalidInput
from ..repository import Snapshot

KEPT_BYTES = 2**28
"""Archives that stay in memory together, besides the last: many commands run on few commits."""
PAGE, FILE_BYTES = 4096, 1024
"""What a file in memory takes: whole pages, and what the kernel needs to know of it, roughly."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar archive of a commit's files."""

    descriptor: int
    """Its file, at the start."""
    disk_bytes: int
    """What its files take when they are in memory."""

    def close(self) -> None:
        os.close(self.descriptor)


def open_archive(snapshot: Snapshot) -> Archive:
    """The files of the snapshot's commit, without its patch; the receiver closes it. Blocks. Raises `InvalidInput`."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", snapshot.commit):
        raise InvalidInput(f"{snapshot.commit!r} is no full hash of a commit")
    key = (_objects(snapshot.repository), snapshot.commit)
    with _lock:
        future = _archives.get(key)
        is_new = future is None
        if future is None:
            future = _archives[key] = Future()
        _archives.move_to_end(key)
    if is_new:
        try:
            future.set_result(_make(*key))
        except BaseException as error:
            with _lock:
                del _archives[key]
            future.set_exception(error)
    made = future.result()
    # By its path a file is opened anew, with a position of its own; held until then, it cannot be closed meanwhile.
    descriptor = os.open(f"/proc/self/fd/{made.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    with _lock:
        kept = 0
        for other, ready in reversed(list(_archives.items())):
            if ready.done():
                kept += ready.result().size
                if kept > KEPT_BYTES and other != key:
                    del _archives[other]
    return Archive(descriptor, made.disk_bytes)


class _Made:
    """An archive that is kept, in memory that nobody can change, whoever comes by a descriptor of it."""

    def __init__(self, disk_bytes: int) -> None:
        self.disk_bytes = disk_bytes
        self.size = 0
        self.descriptor = os.memfd_create("plait", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

    def seal(self) -> None:
        self.size = os.fstat(self.descriptor).st_size
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEALS)

    def __del__(self) -> None:
        os.close(self.descriptor)


SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_archives: OrderedDict[tuple[Path, str], Future[_Made]] = OrderedDict()
_lock = threading.Lock()


def _make(objects: Path, commit: str) -> _Made:
    with tempfile.TemporaryDirectory(prefix="plait-") as folder:
        git = Path(folder)
        (git / "refs").mkdir()
        (git / "info").mkdir()
        (git / "HEAD").write_text("ref: refs/heads/none\n")
        # These go before the attributes that the commit holds.
        (git / "info/attributes").write_text(
            "* -export-ignore -export-subst -text -ident -filter -working-tree-encoding\n"
        )
        if len(commit) == 64:
            (git / "config").write_text(
                "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256\n"
            )
        listed = _git(git, objects, "ls-tree", "-r", "-l", "-z", commit, stdout=subprocess.PIPE)
        made = _Made(sum(map(_bytes, listed.split(b"\0")[:-1])))
        _git(git, objects, "-c", "tar.umask=022", "archive", "--format=tar", commit, stdout=made.descriptor)
        made.seal()
        return made


def _bytes(entry: bytes) -> int:
    """Bytes in memory of the file in one line of `git ls-tree -l`; a submodule is empty."""
    size = entry.split(b"\t")[0].split()[3]
    return FILE_BYTES + (0 if size == b"-" else -(-int(size) // PAGE) * PAGE)


def _git(git: Path, objects: Path, *arguments: str, stdout: int) -> bytes:
    done = subprocess.run(
        ["git", "--git-dir", str(git), *arguments],
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(git),
            "LC_ALL": "C",
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_LAZY_FETCH": "1",
        },
        cwd=git,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise InvalidInput(f"git cannot read the commit from {objects}: {reason}")
    return done.stdout or b""


def _objects(repository: Path) -> Path:
    """The folder of a repository's objects: of a checkout, a linked worktree, a submodule, a bare one."""
    repository = repository.resolve()
    git = repository / ".git"
    if git.is_file():
        git = repository / git.read_text().removeprefix("gitdir:").strip()
    elif not git.is_dir():
        git = repository
    common = git / "commondir"
    if common.is_file():
        git = git / common.read_text().strip()
    objects = (git / "objects").resolve()
    if not objects.is_dir():
        raise InvalidInput(f"{repository} is no git repository")
    return objects
