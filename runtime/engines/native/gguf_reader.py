"""The headers of GGUF files, and which files make a model."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType
from numpy.typing import NDArray

from ...errors import InvalidInput, UnknownModel, UnsupportedModel

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
DAMAGE = (ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError, struct.error)
"""What the reader raises on bytes that are not what they should be."""


class _Reader(GGUFReader):
    """The package's reader, in 1/40 of its time: it makes an array, and a `numpy.memmap` of all things, of every piece
    of every token."""

    @property  # type: ignore[override]
    def data(self) -> NDArray[Any]:
        return self._data

    @data.setter
    def data(self, data: NDArray[Any]) -> None:
        self._data = np.asarray(data)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[NDArray[Any]], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        types = [GGUFValueType.ARRAY, kind]
        begin = orig_offs + 12
        if number := self.gguf_scalar_to_np.get(kind):
            part = self._get(begin, number, count)
            return 12 + part.nbytes, [part], [0], types
        if kind != GGUFValueType.STRING:
            return super()._get_field_parts(orig_offs, raw_type)
        length, view = struct.Struct("<Q"), self._data.data
        texts, at = [], begin
        for _ in range(count):
            end = at + 8 + length.unpack_from(view, at)[0]
            texts.append(self._data[at + 8 : end])
            at = end
        return at - orig_offs, texts, list(range(count)), types


def model_parts(path: Path) -> list[Path]:
    """All files of a model, whichever part of a split one is named. Raises `UnknownModel` or `InvalidInput`."""
    if not path.is_file():
        raise UnknownModel(f"no file {path}")
    found = _SHARD.search(path.name)
    if found is None:
        return [path]
    count = int(found[2])
    parts = [path.with_name(f"{path.name[: found.start()]}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise InvalidInput(f"{path} is part of a split model that lacks {part.name}")
    return parts


def read(path: Path) -> GGUFReader:
    """The header of a file. Raises `UnsupportedModel`, or `InvalidInput` for a damaged one."""
    try:
        reader = _Reader(path)
    except DAMAGE as error:
        raise InvalidInput(f"{path} is not a complete GGUF file: {error}") from error
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    if reader.byte_order != "I":
        raise UnsupportedModel(f"{path} is for machines of the other byte order")
    for tensor in reader.tensors:
        if not tensor.n_elements:
            raise InvalidInput(f"{path} is damaged: its tensor {tensor.name} holds nothing")
    return reader


def positive(path: Path, key: str, value: Any) -> Any:
    """A number of the metadata. Raises `InvalidInput` if it is none above 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise InvalidInput(f"{path}: {key} must be a positive number, not {str(value)[:40]!r}")
    return value
