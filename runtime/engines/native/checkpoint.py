"""Where weights come from: a `Checkpoint` gives tensors by their Hugging Face names, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import InvalidInput, UnknownModel, UnsupportedModel
from ...plain import read_object
from .gguf_file import SUFFIX, GGUFFile
from .integers import Bits
from .quantised import Quantisation

_STORED = ("F64", "F32", "BF16", "F16")
"""What safetensors calls the types that weights are stored in."""


class Sliceable(Protocol):
    """A tensor of which parts can be had."""

    @property
    def shape(self) -> Sequence[int]: ...
    def __getitem__(self, index: tuple[slice, ...], /) -> Tensor: ...


class Checkpoint(Protocol):
    """A model on disk. Making one reads headers only."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Mapping[str, Any]:
        """As in config.json, of the weights as `tensor` gives them."""
        ...

    @property
    def format(self) -> str:
        """How the weights are stored, in a word or two."""
        ...

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type that keeps what is stored."""
        ...

    @property
    def num_tensors(self) -> int:
        """About as many as there are to load."""
        ...

    def tensor(self, name: str, dtype: torch.dtype, rows: Sequence[int] | None = None) -> Tensor:
        """The tensor of this name, or some of its rows. Raises `KeyError` if there is none."""
        ...

    @property
    def is_quantised(self) -> bool:
        """Are there weights in 8 bits or less?"""
        ...

    def bits(self, name: str) -> Bits | None:
        """The fewest of `integers.Bits` that hold a weight nearly as it is stored; None: it is no integer."""
        ...

    def sliceable(self, name: str, dtype: torch.dtype) -> Sliceable:
        """As `tensor`, for parts of it, which alone are read where the format allows that."""
        ...


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A folder, or a GGUF file. Raises `UnknownModel`, `UnsupportedModel`, or `InvalidInput` for what is damaged or
    incomplete."""
    path = Path(path)
    is_file = path.is_file() or (path.suffix == SUFFIX and not path.is_dir())
    return GGUFFile(path) if is_file else Folder(path)


class Folder:
    """config.json and the tensors of one safetensors file, or of shards with an index. What AWQ or GPTQ packed is
    unpacked."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UnknownModel(f"no model folder {path}")
        self.path = path
        self.config = read_json(path, "config.json")
        quantisation = self.config.pop("quantization_config", None)
        if quantisation is not None and not isinstance(quantisation, dict):
            raise InvalidInput(f"{path / 'config.json'}: quantization_config must be an object, not {quantisation!r}")
        self._quantisation = Quantisation.from_hf(quantisation) if quantisation else None
        self._files: dict[str, Any] = {}
        """Tensor name -> open file; filled when a tensor is asked for first."""

    @property
    def format(self) -> str:
        return f"{self._quantisation.method} {self._quantisation.bits} bits" if self._quantisation else "safetensors"

    @property
    def stored_dtype(self) -> torch.dtype:
        if self._quantisation is not None:
            return torch.bfloat16  # of what was float16 before, but 4 bits of it are left
        try:
            kind = self._file("model.embed_tokens.weight").get_slice("model.embed_tokens.weight").get_dtype()
        except KeyError:
            return torch.float32  # who asks for the tensor will say that it is missing
        return {"BF16": torch.bfloat16, "F16": torch.float16}.get(kind, torch.float32)

    @property
    def num_tensors(self) -> int:
        self._open()
        return sum(name.endswith((".weight", ".bias", ".qweight")) for name in self._files)

    def tensor(self, name: str, dtype: torch.dtype, rows: Sequence[int] | None = None) -> Tensor:
        if (weight := self._unpacked(name, dtype)) is not None:
            return weight if rows is None else weight[list(rows)]
        self._check_stored(name)
        if rows is None:
            stored = self._stored(name)
            # A norm stays when the matrices are packed: as a part of the file it would keep all of it mapped.
            return stored.to(dtype, copy=stored.ndim == 1)
        picked: Tensor = self._file(name).get_slice(name)[list(rows)]
        return picked.to(dtype)

    @property
    def is_quantised(self) -> bool:
        return self._quantisation is not None

    def bits(self, name: str) -> Bits | None:
        base, _, suffix = name.rpartition(".")
        self._open()
        if self._quantisation is None or suffix != "weight" or f"{base}.qweight" not in self._files:
            return None
        return self._quantisation.nearest_bits

    def sliceable(self, name: str, dtype: torch.dtype) -> Sliceable:
        weight = self._unpacked(name, dtype)
        if weight is None:
            self._check_stored(name)
        return _Slices(self._file(name).get_slice(name), dtype) if weight is None else weight

    def _unpacked(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """A weight that was packed; None: it is stored as it is."""
        base, _, suffix = name.rpartition(".")
        self._open()
        if self._quantisation is None or suffix != "weight" or name in self._files:
            return None
        return self._quantisation.weight(base, self._stored, dtype)

    def _stored(self, name: str) -> Tensor:
        tensor: Tensor = self._file(name).get_tensor(name)
        return tensor

    def _check_stored(self, name: str) -> None:
        """Raise `UnsupportedModel` for numbers that are not the weights themselves, as integers and float8 are."""
        kind = self._file(name).get_slice(name).get_dtype()
        if kind not in _STORED:
            raise UnsupportedModel(
                f"{self.path}: {name} is stored as {kind}, which is not supported; supported: {', '.join(_STORED)}"
            )

    def _file(self, name: str) -> Any:
        self._open()
        return self._files[name]

    def _open(self) -> None:
        if self._files:
            return
        found: dict[str, Any] = {}
        for name in weight_files(self.path):
            try:
                file: Any = safe_open(self.path / name, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InvalidInput(f"{self.path / name} is not a complete safetensors file: {error}") from error
            for tensor in file.keys():
                if tensor in found:
                    raise InvalidInput(f"{self.path}: two weight files hold the tensor {tensor[:80]!r}")
                found[tensor] = file
        self._files = found


class _Slices:
    """Of a tensor in a safetensors file."""

    def __init__(self, stored: Any, dtype: torch.dtype) -> None:
        self.shape: Sequence[int] = stored.get_shape()
        self._stored = stored
        self._dtype = dtype

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        part: Tensor = self._stored[index]
        return part.to(self._dtype)


def weight_files(folder: Path) -> list[str]:
    """Names of a folder's weight files. Raises `InvalidInput` if there is none, or one is missing."""
    if (folder / "model.safetensors.index.json").is_file():
        index = read_json(folder, "model.safetensors.index.json").get("weight_map")
        if not isinstance(index, dict):
            raise InvalidInput(f"{folder}/model.safetensors.index.json has no weight_map")
        # A name and no path: an index must not reach out of its folder.
        strange = [name for name in index.values() if not isinstance(name, str) or Path(name).name != name]
        if strange:
            raise InvalidInput(f"{folder}/model.safetensors.index.json: {strange[0]!r} names no file in this folder")
        names = sorted(set(index.values()))
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        raise InvalidInput(f"{folder} holds no weights: neither model.safetensors nor model.safetensors.index.json")
    for name in names:
        if not (folder / name).is_file():
            raise InvalidInput(f"{folder} lacks the weight file {name} that its index names")
    return names


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object. Raises `InvalidInput`."""
    try:
        return read_object(folder / name)
    except FileNotFoundError:
        raise InvalidInput(f"{folder} holds no {name}; it is not a Hugging Face model folder") from None
