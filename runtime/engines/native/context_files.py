"""`ContextFiles`: encoded contexts on disk, one safetensors file each, shared by all processes that use the folder.

    FOLDER/FINGERPRINT/NAME.safetensors    keys and values as the pool holds them, and the tokens

The fingerprint stands for everything the numbers depend on but the text: weights, configuration, dtype, block size. The
name stands for the text and all that comes before it (`lineage.context_name`). A file is written under another name,
synced and renamed, so that whoever reads sees a whole file or none; two processes that write the same context write the
same. A file that cannot be read or does not hold what its place says is reported once and taken for missing: what is
encoded instead takes its place.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...disk import cache_folder, sync_path
from ...errors import InvalidInput

FORMAT = "2"
DEFAULT_BYTES = 8 << 30

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """`PLAIT_CONTEXTS`, else `plait/contexts` in the user's cache folder."""
    if named := os.environ.get("PLAIT_CONTEXTS"):
        return Path(named)
    return cache_folder("contexts")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredContext:
    """One file, as a listing shows it."""

    path: Path
    model: str
    tokens: int
    text: str
    """How it begins."""
    size: int
    """Bytes."""
    used: float
    """When it was last read or written, in seconds since the epoch."""

    @property
    def name(self) -> str:
        return self.path.stem


class ContextFiles:
    """The files of one folder; least recently used ones go when they exceed `max_bytes`."""

    def __init__(self, folder: str | Path, max_bytes: int = DEFAULT_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._unsound: set[Path] = set()
        """Files that were found to be of no use. They are not deleted: another process may have replaced them since."""

    def prepared(self) -> ContextFiles:
        """With its folder there. Raises `InvalidInput`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidInput(f"contexts: {str(self.folder)[:200]!r} cannot be a folder: {reason}") from None
        return self

    def path(self, fingerprint: str, name: bytes) -> Path:
        return self.folder / fingerprint / f"{name.hex()}.safetensors"

    def holds(self, fingerprint: str, name: bytes) -> bool:
        """Is there a file, not known to be of no use? Not as far as one can see where the folder cannot be read."""
        path = self.path(fingerprint, name)
        try:
            return path not in self._unsound and path.exists()
        except OSError:
            return False

    def read(self, fingerprint: str, name: bytes, tokens: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Keys (L, b, K, D, B) and values (L, b, K, B, D) of b blocks, memory-mapped; None if there is no sound file.

        `tokens` are those that it must hold.
        """
        path = self.path(fingerprint, name)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    logger.info("context file %s is ignored: it has another format", path)
                    self._unsound.add(path)
                    return None
                if about.get("fingerprint") != fingerprint:
                    raise ValueError("it belongs to another model")
                if file.get_tensor("tokens").tolist() != list(tokens):
                    raise ValueError("it holds another text")
                keys, values = file.get_tensor("k"), file.get_tensor("v")
            if json.loads(about["sums"]) != _sums(keys, values):
                raise ValueError("its contents are damaged")
            with contextlib.suppress(OSError):  # who may only read leaves it as old as it is
                os.utime(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            logger.warning("context file %s is ignored: %s", path, error)
            self._unsound.add(path)
            return None
        self._unsound.discard(path)
        return keys, values

    def write(
        self,
        fingerprint: str,
        name: bytes,
        tokens: Sequence[int],
        keys: Tensor,
        values: Tensor,
        *,
        model: str,
        text: str,
    ) -> bool:
        """Store a context; False, with a warning, if the disk does not take it. Nothing else is lost then."""
        path = self.path(fingerprint, name)
        part = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.part")
        about = {"format": FORMAT, "fingerprint": fingerprint, "model": model, "text": text}
        about["sums"] = json.dumps(_sums(keys, values))
        tensors = {"k": keys, "v": values, "tokens": torch.tensor(tokens, dtype=torch.int32)}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self.max_bytes:
            logger.warning("a context of %d bytes exceeds the store's %d: it is not kept", size, self.max_bytes)
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            self._make_room(size, keep=path)
            save_file(tensors, part, metadata=about)
            sync_path(part)
            part.replace(path)
            self._unsound.discard(path)
            sync_path(path.parent)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            logger.warning("context file %s could not be written: %s", path, error)
            return False
        return True

    def all(self) -> list[StoredContext]:
        """All sound headers, most recently used first."""
        found = []
        for path in self._files():
            try:
                status = path.stat()
                with safe_open(path, framework="pt") as file:
                    about, count = file.metadata() or {}, file.get_slice("tokens").get_shape()[0]
            except (OSError, SafetensorError) as error:
                logger.warning("context file %s is ignored: %s", path, error)
                continue
            found.append(
                StoredContext(
                    path=path,
                    model=about.get("model", "?"),
                    tokens=count,
                    text=about.get("text", ""),
                    size=status.st_size,
                    used=status.st_mtime,
                )
            )
        return sorted(found, key=lambda context: -context.used)

    def drop(self, beginning: str = "") -> int:
        """Delete the files whose names begin so; how many there were."""
        count = 0
        for path in self._files():
            if path.stem.startswith(beginning):
                path.unlink(missing_ok=True)
                count += 1
        return count

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*/*.safetensors"))

    def _make_room(self, size: int, keep: Path) -> None:
        found = []
        for path in self._files():
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = size + sum(size for _, size, path in found if path != keep)
        for _, freed, path in sorted(found):
            if total <= self.max_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= freed

    def _remove_leftovers(self) -> None:
        """Delete what writers that are no more have left."""
        for part in self.folder.glob("*/.*.part"):
            writer = part.name[1:].partition("-")[0]
            if writer.isdecimal() and not _is_running(int(writer)):
                part.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sums(*tensors: Tensor) -> list[int]:
    """A checksum of every layer."""
    # CRC-32 takes 3 GB/s and, unlike a sum of words, tells in which order they stand.
    return [zlib.crc32(layer.view(torch.uint8).numpy()) for tensor in tensors for layer in tensor]
