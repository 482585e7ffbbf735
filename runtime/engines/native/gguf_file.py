"""`GGUFFile`: weights and metadata of a GGUF file (the format of llama.cpp), under their Hugging Face names.

Layout, keys and tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Blocks of every type are
turned into ordinary numbers by the `gguf` package, a piece at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, ReaderTensor, get_tensor_name_map, quants
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InvalidInput, UnsupportedModel
from .families import FAMILIES
from .gguf_keys import check_keys
from .gguf_reader import DAMAGE, model_parts, positive, read
from .gguf_rope import rope_parameters
from .gguf_tensors import ATTENTION, MLP, biased, check_all_read, joined
from .integers import Bits

SUFFIX = ".gguf"
_PIECE = 1 << 15
"""Numbers that are dequantised at a time. They stay in the cache, and torch does not share out copies of this size
among threads, which wait for each other on a busy machine (eight times slower there)."""
_UNQUANTISED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_IN_4_BITS = ("Q4_0", "Q4_1", "Q4_K")
"""Whose groups of 32 lie on grids of 16 values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """How a GGUF architecture differs from its Hugging Face counterpart."""

    model_type: str
    pairs_rotated_rows: bool = False
    """Rows of the query and key projections lie as llama.cpp rotates them: neighbours belong together, instead of the
    two halves of a head."""


_ARCHITECTURES = {
    "llama": _Architecture(model_type="llama", pairs_rotated_rows=True),
    "qwen2": _Architecture(model_type="qwen2"),
    "qwen3": _Architecture(model_type="qwen3"),
}
"""Mistral's models are of the architecture `llama` there."""

_CONFIG = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


class GGUFFile:
    """One file, or all parts of one that was split; memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Reads the header. Raises `UnknownModel`, `UnsupportedModel` for an unknown architecture or a tensor that its
        models have not, or `InvalidInput` for a damaged or incomplete file."""
        self.path = path
        readers = [read(part) for part in model_parts(path)]
        self._fields = readers[0].fields
        self._tensors = joined(readers, path)
        self._biased = biased(self._tensors)
        self._check_whole_model(len(readers))
        self.architecture = str(self.value("general.architecture", ""))
        if self.architecture not in _ARCHITECTURES:
            raise UnsupportedModel(
                f"{path}: GGUF architecture {self.architecture!r} is not supported; "
                f"supported: {', '.join(_ARCHITECTURES)}"
            )
        self._architecture = _ARCHITECTURES[self.architecture]
        self.config = self._config()
        number = next(k for k, name in MODEL_ARCH_NAMES.items() if name == self.architecture)
        layers = self.config["num_hidden_layers"]
        self._names = get_tensor_name_map(number, layers)
        check_all_read(self._tensors, FAMILIES[self._architecture.model_type], layers, path)

    def _check_whole_model(self, num_parts: int) -> None:
        if (kind := self.value("general.type", "model")) != "model":
            raise UnsupportedModel(f"{self.path} is no model: general.type = {str(kind)[:40]}")
        # Files that were put together again say 0.
        if (count := self.value("split.count", 0)) not in (0, 1, num_parts):
            raise InvalidInput(
                f"{self.path} is one of {str(count)[:40]} parts of a model (split.count), whose names end in "
                "-00001-of-..., -00002-of-... and so on"
            )

    def value(self, key: str, default: Any = None) -> Any:
        """Metadata: a number, text or list. Raises `InvalidInput` if it cannot be read."""
        field = self._fields.get(key)
        if field is None:
            return default
        try:
            return field.contents()
        except DAMAGE as error:
            raise InvalidInput(f"{self.path}: the metadata {key} cannot be read: {error}") from error

    @property
    def stored_dtype(self) -> torch.dtype:
        """What the weights are worth: the embedding's type; bfloat16 where it is quantised."""
        embedding = self._tensors.get("token_embd.weight")
        return torch.bfloat16 if embedding is None else _UNQUANTISED.get(embedding.tensor_type.name, torch.bfloat16)

    @property
    def num_tensors(self) -> int:
        return len(self._tensors)

    @property
    def is_quantised(self) -> bool:
        return any(tensor.tensor_type.name not in _UNQUANTISED for tensor in self._tensors.values())

    def bits(self, name: str) -> Bits | None:
        kind = self._stored(name).tensor_type.name
        return None if kind in _UNQUANTISED else 4 if kind in _IN_4_BITS else 8

    @property
    def format(self) -> str:
        """With the block type that holds most numbers."""
        counts: Counter[str] = Counter()
        for tensor in self._tensors.values():
            counts[tensor.tensor_type.name] += tensor.n_elements
        return " ".join(["GGUF", *(kind for kind, _ in counts.most_common(1))])

    def tensor(self, name: str, dtype: torch.dtype, rows: Sequence[int] | None = None) -> Tensor:
        """The tensor of a Hugging Face name, or some of its rows. Raises `KeyError` if there is none."""
        base = name.rpartition(".")[0]
        if self._is_left_out(name):
            outputs = int(self._stored(f"{base}.weight").shape[-1])
            return torch.zeros(outputs if rows is None else len(rows), dtype=dtype)
        stored = self._stored(name)
        shape = [int(n) for n in reversed(stored.shape)]
        is_rotated = base.endswith(("q_proj", "k_proj")) and self._architecture.pairs_rotated_rows
        if rows is not None and not is_rotated:
            data, shape[0] = stored.data[list(rows)], len(rows)
        else:
            data = stored.data
        found = self._dequantise(data, stored, dtype, self._scale(name)).view(shape)
        if not is_rotated:
            return found
        heads = self.config["num_attention_heads" if base.endswith("q_proj") else "num_key_value_heads"]
        if shape[0] % (2 * heads):
            raise InvalidInput(f"{self.path}: {name} has {shape[0]} rows, which {heads} heads cannot share")
        found = found.view(heads, shape[0] // heads // 2, 2, -1).transpose(1, 2).reshape(shape)
        return found if rows is None else found[list(rows)]

    def sliceable(self, name: str, dtype: torch.dtype) -> Tensor:
        return self.tensor(name, dtype)

    def _stored(self, name: str) -> ReaderTensor:
        base, _, suffix = name.rpartition(".")
        return self._tensors[f"{self._names.get_name(base)}.{suffix}"]

    def _is_left_out(self, name: str) -> bool:
        """Is it a bias that no layer has, though others have that config.json's switch stands for as well?"""
        base, _, suffix = name.rpartition(".")
        place = str(self._names.get_name(base)).rpartition(".")[2]
        if suffix != "bias" or place in self._biased:
            return False
        return any(place in group and not self._biased.isdisjoint(group) for group in (ATTENTION, MLP))

    def _scale(self, name: str) -> float | None:
        """By what a weight is to be multiplied, which its blocks do not hold: NVFP4 has a scale of the whole."""
        base, _, suffix = name.rpartition(".")
        stored = self._tensors.get(f"{self._names.get_name(base)}.scale") if suffix == "weight" else None
        if stored is None:
            return None
        found = self._dequantise(stored.data, stored, torch.float32)
        if found.numel() != 1:
            raise UnsupportedModel(
                f"{self.path}: {stored.name} holds {found.numel()} numbers; one for all is supported"
            )
        return float(found)

    def _dequantise(
        self, data: NDArray[Any], stored: ReaderTensor, dtype: torch.dtype, scale: float | None = None
    ) -> Tensor:
        """All numbers, in one dimension, times `scale`; piece by piece, so that no more than one piece is ever in
        float32."""
        kind = stored.tensor_type
        block, size = GGML_QUANT_SIZES[kind]
        flat = data.reshape(-1)
        step = _PIECE // block * (size if flat.dtype == np.uint8 else 1)
        out = torch.empty(flat.size // (size if flat.dtype == np.uint8 else 1) * block, dtype=dtype)
        begin = 0
        for at in range(0, flat.size, step):
            try:
                with np.errstate(all="ignore"):  # numbers that are none are met, and told, where the model runs
                    piece = quants.dequantize(flat[at : at + step].reshape(1, -1), kind).reshape(-1)
            except NotImplementedError:
                raise UnsupportedModel(
                    f"{self.path}: {stored.name} is of the block type {kind.name}, which cannot be dequantised"
                ) from None
            # Where nothing was computed it is a view of the read-only file.
            piece = piece if piece.flags.writeable else piece.copy()
            numbers = torch.from_numpy(piece)
            out[begin : begin + piece.size] = numbers if scale is None else numbers * scale
            begin += piece.size
        return out

    def _config(self) -> dict[str, Any]:
        """The contents of the config.json that this file was made from, as far as they matter."""
        at = self.architecture
        if self.value(f"{at}.expert_count", 0):
            raise UnsupportedModel(f"{self.path}: GGUF architecture {at!r} with experts is not supported")
        config: dict[str, Any] = {"model_type": self._architecture.model_type}
        for key, name in _CONFIG.items():
            value = self.value(f"{at}.{key}")
            if isinstance(value, list):
                if len(set(value)) != 1:
                    raise UnsupportedModel(f"{self.path}: layers that differ in {key} are not supported")
                value = value[0]
            if value is not None:
                config[name] = positive(self.path, f"{at}.{key}", value)
        missing = [key for key, name in _CONFIG.items() if name not in config and key in _NEEDED]
        if missing or "token_embd.weight" not in self._tensors:
            raise InvalidInput(f"{self.path} lacks {', '.join(f'{at}.{m}' for m in missing) or 'token_embd.weight'}")
        config.setdefault("num_key_value_heads", config["num_attention_heads"])
        head_dim = config.setdefault("head_dim", max(config["hidden_size"] // config["num_attention_heads"], 1))
        if config["num_hidden_layers"] > self.num_tensors:
            raise InvalidInput(
                f"{self.path}: {at}.block_count says {config['num_hidden_layers']} layers, there are fewer"
            )
        rotated = positive(self.path, f"{at}.rope.dimension_count", self.value(f"{at}.rope.dimension_count", head_dim))
        if rotated != head_dim:
            raise UnsupportedModel(f"{self.path}: partial rotary embeddings ({rotated} of {head_dim}) of GGUF files")
        check_keys(self._keys(f"{at}."), _CONFIG, head_dim, config["max_position_embeddings"], self.path)
        config["vocab_size"] = int(self._tensors["token_embd.weight"].shape[-1])
        config["tie_word_embeddings"] = "output.weight" not in self._tensors
        config["attention_bias"] = not self._biased.isdisjoint(ATTENTION)
        config["mlp_bias"] = not self._biased.isdisjoint(MLP)
        config["rope_parameters"] = self._rope(head_dim)
        return config

    def _rope(self, head_dim: int) -> dict[str, Any]:
        keys = self._keys(f"{self.architecture}.rope.")
        stored = self._tensors.get("rope_freqs.weight")
        divisors = None if stored is None else self._dequantise(stored.data, stored, torch.float32)
        return rope_parameters(keys, divisors, head_dim, self.path)

    def _keys(self, begin: str) -> dict[str, Any]:
        """The metadata whose keys begin so, without their beginning."""
        return {key.removeprefix(begin): self.value(key) for key in self._fields if key.startswith(begin)}


_NEEDED = {key for key in _CONFIG if key not in ("attention.head_count_kv", "attention.key_length")}
