"""`Snapshot`: a repository as it stands at one commit, with a patch on it; `Repository`: what such a commit holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..runtime.errors import InvalidInput
from .git import GitError, git


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a command runs on. Equal snapshots are equal files."""

    repository: Path
    """A git repository: a checkout, a bare one or a mirror. It is only read."""
    commit: str
    """Full hash."""
    patch: str = ""
    """Unified diff against the commit; empty: the commit itself."""


class Repository:
    """One commit of a git repository; only reads it. Its methods may block."""

    def __init__(self, path: Path | str, commit: str = "HEAD", *, max_bytes: int = 1_000_000) -> None:
        """`path`: a checkout or a folder in one, a bare repository or a mirror. `max_bytes`: larger files are not read.
        Raises `InvalidInput`."""
        self.path = _top(Path(path))
        self.max_bytes = max_bytes
        if commit.startswith("-") or not commit.isprintable():
            raise InvalidInput(f"{commit!r} is no commit")
        try:
            found = git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", folder=self.path)
        except GitError:
            if commit == "HEAD":
                raise InvalidInput(f"{self.path}: the repository has no commit yet: commit its files first") from None
            raise InvalidInput(f"{self.path} has no commit {commit!r}: fetch it first") from None
        self.commit = found.decode().strip()
        """Full hash."""

    def snapshot(self, patch: str = "") -> Snapshot:
        return Snapshot(repository=self.path, commit=self.commit, patch=patch)

    @cached_property
    def _entries(self) -> dict[str, tuple[str, str, int]]:
        """Path -> mode, object, bytes."""
        listed = git("ls-tree", "-r", "-z", "-l", "--full-tree", self.commit, folder=self.path)
        entries = {}
        for line in listed.split(b"\0")[:-1]:
            about, _, name = line.partition(b"\t")
            mode, _, blob, size = about.decode().split()
            path = name.decode(errors="surrogateescape")
            entries[path] = (mode, blob, 0 if size == "-" else int(size))
        return entries

    def paths(self) -> list[str]:
        """Every path of the commit, those of binary files, symbolic links and submodules too."""
        return list(self._entries)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Path -> bytes of plain files, binary ones too."""
        return {path: size for path, (mode, _, size) in self._entries.items() if mode.startswith("100")}

    @cached_property
    def executable(self) -> frozenset[str]:
        """Paths of mode 100755."""
        return frozenset(path for path, (mode, _, _) in self._entries.items() if mode == "100755")

    @cached_property
    def links(self) -> frozenset[str]:
        """Paths of symbolic links and submodules."""
        return frozenset(path for path, (mode, _, _) in self._entries.items() if not mode.startswith("100"))

    def files(self) -> Mapping[str, str]:
        """Text files by path, read when they are asked for; not those that are no UTF-8, hold NUL or are too large."""
        return self._files

    @cached_property
    def _files(self) -> _Files:
        blobs = {
            path: blob
            for path, (mode, blob, size) in self._entries.items()
            if mode.startswith("100") and size <= self.max_bytes and path.isprintable()
        }
        return _Files(self.path, blobs)


class _Files(Mapping[str, str]):
    """One is read alone; all are read together, once, when they are counted or gone through."""

    def __init__(self, repository: Path, blobs: Mapping[str, str]) -> None:
        self._repository = repository
        self._blobs = blobs
        self._texts: dict[str, str | None] = {}

    def __getitem__(self, path: str) -> str:
        if path not in self._blobs:
            raise KeyError(path)
        if path not in self._texts:
            self._texts[path] = _text(git("cat-file", "blob", self._blobs[path], folder=self._repository))
        text = self._texts[path]
        if text is None:
            raise KeyError(path)
        return text

    def __iter__(self) -> Iterator[str]:
        self._read_all()
        return (path for path in self._blobs if self._texts[path] is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _read_all(self) -> None:
        missing = [path for path in self._blobs if path not in self._texts]
        if not missing:
            return
        wanted = "".join(self._blobs[path] + "\n" for path in missing).encode()
        output, at = git("cat-file", "--batch", folder=self._repository, stdin=wanted), 0
        for path in missing:
            end = output.index(b"\n", at)
            size = output[at:end].rpartition(b" ")[2]
            if size == b"missing":
                raise InvalidInput(f"{self._repository} lacks {path}: it is a partial clone; fetch it whole")
            start = end + 1
            self._texts[path] = _text(output[start : start + int(size)])
            at = start + int(size) + 1


def _text(data: bytes) -> str | None:
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _top(path: Path) -> Path:
    """The top of the checkout that a folder is in, or the bare repository. Raises `InvalidInput`."""
    if not path.is_dir():
        raise InvalidInput(f"{path} is no folder")
    try:
        is_bare, inside = git("rev-parse", "--is-bare-repository", "--is-inside-work-tree", folder=path).split()
        what = "--show-toplevel" if inside == b"true" else "--absolute-git-dir"
        return Path(git("rev-parse", what, folder=path).decode().removesuffix("\n"))
    except GitError:
        raise InvalidInput(f"{path} is no git repository: make it one with 'git init' and a commit") from None


def is_test(path: str) -> bool:
    """Whether a file is in a folder `test` or `tests` at the top (arXiv 2501.14723: these files are no context)."""
    return PurePosixPath(path).parts[0] in ("test", "tests")


def is_test_file(path: str) -> bool:
    """The same, and files in folders `tests` at any depth, and `test_*.py`, `*_test.py`, `conftest.py` anywhere; a
    folder `test` further down may be a package's own code (`django/test`)."""
    *folders, name = PurePosixPath(path).parts
    if is_test(path) or "tests" in folders:
        return True
    return name == "conftest.py" or (name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py")))
