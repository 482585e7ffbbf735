"""`ModelFiles`: the files a model is loaded from, noted before they are read."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from .gguf_reader import model_parts


class ModelFiles:
    """All that a model's numbers depend on: the parts of a GGUF file, or a folder's config.json and safetensors."""

    def __init__(self, source: Path) -> None:
        """`source`: a folder or file. Raises `InvalidInput` for a split model that lacks a part; whatever else is
        missing is for who reads it to say."""
        self._source = source
        self._noted = self._stamps()

    def digest(self) -> bytes | None:
        """Of their contents, which are read whole; None if they are no longer the files that were noted."""
        with contextlib.suppress(OSError):
            digest = b"".join(map(_digest, self._noted))
            if self._stamps() == self._noted:  # what changed while they were read is seen as well
                return digest
        return None

    def _stamps(self) -> dict[Path, tuple[int, int, int] | None]:
        return {path: _stamp(path) for path in self._paths()}

    def _paths(self) -> list[Path]:
        if self._source.is_file():
            return model_parts(self._source)
        return sorted([self._source / "config.json", *self._source.glob("*.safetensors")])


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What another file, or other contents, would change."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
