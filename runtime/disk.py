"""Files that are on disk as a whole or not at all, and where the user's caches are."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import InvalidInput

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
LOCK = ".lock"
"""In a folder that a process holds."""
_PARTS = f".*.[0-9]*-{'[0-9a-f]' * 8}.part"
"""What `replace_file` leaves where it is killed."""


def cache_folder(name: str) -> Path:
    """`plait/NAME` in the user's cache folder; it need not be there. Raises `InvalidInput` where nobody has a home."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given or Path.home() / ".cache") / "plait" / name
    except RuntimeError:
        raise InvalidInput("there is no home folder to keep files in: set XDG_CACHE_HOME") from None


def own_file(path: Path) -> Path:
    """`path`; or, where there is no such file, the one of that name in plait's own tree (`evals/configs/hogwild.toml`),
    as pages call it wherever plait is installed."""
    own = _PACKAGE / path
    return own if not path.exists() and ".." not in path.parts and own.is_file() else path


def check_apart(out: Path | None, *read: str | Path | None) -> None:
    """Raise `InvalidInput` where a file that is to be written is one that is read."""
    for name in read:
        if out is not None and name is not None and _is_same(out, name):
            raise InvalidInput(f"{out} is read, and would be overwritten: choose another name")


def _is_same(one: str | Path, other: str | Path) -> bool:
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):  # One of them is not there, or no name at all.
        return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises `InvalidInput` where the system does not let `path` be written: it is a file, a disk is full, ..."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror or error}") from None


def make_folder(path: Path) -> None:
    """With those above it; it may be there. Raises `InvalidInput` as `writing` does."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def lock(file: IO[Any], taken: str) -> None:
    """Hold an open file until it is closed, or the process and those forked from it end; on a file system without
    locks not at all. What a process that was killed wrote half beside it, and in folders there, goes. Raises
    `InvalidInput`, which says `taken`, where another one holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidInput(taken) from None
    except OSError as error:
        logger.warning("%s is not locked against another run: %s", file.name, error.strerror)
        return
    for part in Path(file.name).parent.rglob(_PARTS):
        with suppress(OSError):
            part.unlink()


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Meanwhile the folder, which is made if need be, is this process's alone. Raises `InvalidInput` where it is
    another's, or cannot be written."""
    make_folder(folder)
    path, taken = folder / LOCK, f"another run is working in {folder}"
    with writing(path):
        file = path.open("ab")
    with file:
        lock(file, taken)
        if not os.fstat(file.fileno()).st_nlink:  # Whoever held it has just removed it: the next one makes another.
            raise InvalidInput(taken)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def no_empty_folder(path: Path) -> Iterator[None]:
    """What makes the folder and then fails leaves no empty one, nor empty ones above it."""
    new = [one for one in (path, *path.parents) if not os.path.lexists(one)]
    try:
        yield
    except BaseException:
        for one in new:
            with suppress(OSError):  # It was not made, or holds something.
                one.rmdir()
        raise


def write_whole(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a file that is never seen half written; what was there stays until then. `sync`: as `replace_file`. Raises
    `InvalidInput`."""
    with writing(path):
        replace_file(path, text.encode(), sync=sync)


def replace_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """As `write_whole`, but raises `OSError`. `sync`: the file is on the disk, and in its folder, when this returns."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:  # Ctrl-C, too
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if sync:
        sync_path(path.parent)


def sync_path(path: Path) -> None:
    """A file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
