"""Weights in the packed form of the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .integers import GROUP, Bits, Blocks, WeightType, check_losses, record_bytes
from .kernels import BFLOAT16, FLOAT32, FLOAT32_HALVED, QUANTISED, LayerArguments, LinearArguments
from .pool import zeros
from .weights import MLP, LayerWeights, Linear, Weights

_CHUNK = 1 << 9
"""Outputs that are packed at a time, whole panels of any processor, so that no second copy of a matrix is ever made."""
_INTEGERS = {2: torch.int16, 4: torch.int32}


class _NotBfloat16(Exception):
    """A matrix that was to be halved holds other numbers."""


class PackedWeights:
    """Panels of all linear layers, and the structures that point to them."""

    def __init__(
        self, weights: Weights, panel: int, *, is_live: bool = False, weight_type: WeightType | None = None
    ) -> None:
        """`panel`: outputs of a panel, `plait_panel()`. `is_live`: the weights will change (`refresh`). `weight_type`:
        to round them to, "stored" being that of each matrix; 8 bits are the fewest for the embedding and the head,
        which 4 would harm most."""
        self._panel = panel
        self._bits: Bits | None = None if weight_type == "stored" else 4 if weight_type == "int4" else 8
        """None: each matrix in its own."""
        self._kept: list[Tensor] = []
        """What the structures point to."""
        self._refilled: Iterator[Tensor] | None = None
        """Those of them that are still to be filled anew; None: they are being made."""
        if weight_type is not None:
            self.type = QUANTISED
        elif weights.embedding.dtype == torch.bfloat16:
            self.type = BFLOAT16
        else:
            # What was shipped in bfloat16 takes half the memory and gives the same numbers.
            self.type = FLOAT32 if is_live else FLOAT32_HALVED
        try:
            self._pack(weights)
        except _NotBfloat16:
            self.type = FLOAT32
            self._kept.clear()
            self._pack(weights)

    def _pack(self, weights: Weights) -> None:
        # One at a time: they may come from the disk and go again.
        layers, left = zip(*((self._layer(layer), layer.emptied()) for layer in weights.layers), strict=True)
        self.layers = (LayerArguments * len(layers))(*layers)
        self.norm, self.embedding, self.head = self._rest(weights)
        self.left = weights.emptied(left)
        """Norms alone."""

    def refresh(self, weights: Weights) -> None:
        """Pack weights of the same shapes in the memory of the old ones: what points there stays."""
        self._refilled = iter(self._kept)
        for layer in weights.layers:
            self._layer(layer)
        self._rest(weights)

    def _rest(self, weights: Weights) -> tuple[int, LinearArguments, LinearArguments]:
        """The last norm, the embedding and the head."""
        norm, head = self._vector(weights.norm), self._linear([Linear(weights.lm_head)], bits=8)
        is_tied = weights.lm_head is weights.embedding or (
            # GGUF files of tied models may have the matrix twice, rounded differently. Where all is rounded, once does.
            self.type == QUANTISED and self._bits is not None and _are_one(weights.embedding, weights.lm_head)
        )
        return norm, head if is_tied else self._linear([Linear(weights.embedding)], bits=8), head

    @property
    def num_bytes(self) -> int:
        """Of all that is packed."""
        return sum(kept.nbytes for kept in self._kept)

    def padded(self, n: int) -> int:
        """Up to whole panels."""
        return -(-n // self._panel) * self._panel

    def _layer(self, weights: LayerWeights) -> LayerArguments:
        mlp = weights.mlp
        assert isinstance(mlp, MLP) and weights.attention_norm is not None and weights.mlp_norm is not None
        return LayerArguments(
            qkv=self._linear([weights.q, weights.k, weights.v]),
            output=self._linear([weights.o]),
            gate_up=self._linear([mlp.gate, mlp.up], pad_each=True),
            down=self._linear([mlp.down]),
            attention_norm=self._vector(weights.attention_norm),
            mlp_norm=self._vector(weights.mlp_norm),
        )

    def _linear(self, parts: Sequence[Linear], *, pad_each: bool = False, bits: Bits | None = None) -> LinearArguments:
        """One packed matrix of all parts' outputs, each padded to whole panels or only the last one. `bits` of a
        weight, where they are quantised; None: as the others."""
        starts, end = [], 0
        for part in parts:
            starts.append(end)
            end += self.padded(len(part.weight)) if pad_each else len(part.weight)
        outputs, inputs = self.padded(end), parts[0].weight.shape[1]
        bias = self._room(lambda: torch.zeros(outputs))
        for part, start in zip(parts, starts, strict=True):
            if part.bias is not None:
                bias[start : start + len(part.bias)] = part.bias.detach()
        bits = bits or self._bits or max(part.bits or 8 for part in parts)
        shape = (outputs // self._panel, *self._shape(inputs, bits))
        panels = self._room(lambda: zeros(shape, torch.int32))
        losses = torch.zeros(outputs, 2, dtype=torch.float64)
        for begin in range(0, outputs, _CHUNK):
            rows = self._rows(parts, starts, range(begin, min(begin + _CHUNK, outputs)))
            some = panels[begin // self._panel : (begin + len(rows)) // self._panel]
            if self.type == QUANTISED:
                blocks = Blocks.of(rows[:, :inputs], bits)
                some.view(torch.uint8).copy_(blocks.packed(self._panel))
                losses[begin : begin + len(rows)] = blocks.losses
            else:
                # Float32, or pairs of bfloat16.
                units = np.ascontiguousarray(_bits(rows[:, :inputs] if self.type == FLOAT32 else rows)).view(np.int32)
                np.copyto(some.numpy(), units.reshape(len(some), self._panel, -1).swapaxes(1, 2))
        for part, start in zip(parts, starts, strict=True):
            check_losses(losses[start : start + len(part.weight)], bits)
        has_bias = any(part.bias is not None for part in parts)
        return LinearArguments(
            panels=panels.data_ptr(),
            bias=bias.data_ptr() if has_bias else None,
            inputs=inputs,
            outputs=outputs,
            bits=bits,
        )

    def _shape(self, inputs: int, bits: Bits) -> tuple[int, int]:
        """Shape of a panel in units of 4 bytes."""
        if self.type == QUANTISED:
            return -(-inputs // GROUP), record_bytes(bits, self._panel) // 4
        return inputs if self.type == FLOAT32 else -(-inputs // 2), self._panel

    def _rows(self, parts: Sequence[Linear], starts: Sequence[int], where: range) -> Tensor:
        """Those of all parts' outputs, zeros where there is none; with room for whole pairs of inputs."""
        weight = parts[0].weight
        dtype = torch.bfloat16 if self.type == FLOAT32_HALVED else weight.dtype
        rows = np.zeros((len(where), weight.shape[1] + weight.shape[1] % 2), f"i{dtype.itemsize}")
        for part, start in zip(parts, starts, strict=True):
            begin, end = max(start, where.start), min(start + len(part.weight), where.stop)
            if begin < end:
                given = _bits(part.weight[begin - start : end - start].to(weight.dtype))
                if self.type == FLOAT32_HALVED:
                    given = _halved(given)
                rows[begin - where.start : end - where.start, : given.shape[1]] = given
        return torch.from_numpy(rows).view(dtype)

    def _vector(self, weight: Tensor) -> int:
        """Address of a norm's weights, float32 and padded."""
        padded = self._room(lambda: torch.zeros(self.padded(len(weight))))
        padded[: len(weight)] = weight.detach()
        return padded.data_ptr()

    def _room(self, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives: zeros; the next time, what was packed here the time before."""
        if self._refilled is not None:
            return next(self._refilled)
        self._kept.append(make())
        return self._kept[-1]


def _are_one(a: Tensor, b: Tensor) -> bool:
    """Are these roundings of one matrix? Then they are about as close everywhere as the steps of the coarser one."""
    if a.shape[1] < GROUP:
        return False
    steps = min(_steps(_groups(m[:: 1 + len(m) // _CHUNK])) for m in (a, b))
    for begin in range(0, len(a), _CHUNK):
        one, other = (_groups(m[begin : begin + _CHUNK]) for m in (a, b))
        step = (one.amax(1) - one.amin(1)) / steps
        if ((one - other).abs() > 1.5 * step[:, None]).any():
            return False
    return True


def _groups(rows: Tensor) -> Tensor:
    """(n, GROUP), float32: the whole groups of rows."""
    return rows[:, : rows.shape[1] // GROUP * GROUP].float().reshape(-1, GROUP)


def _steps(groups: Tensor) -> float:
    """How many lie between the least and the largest number of a group, in the median, a step being between the two
    that lie closest: up to 15 where they were rounded to 4 bits, hundreds where they were not."""
    ordered = groups.sort(1).values
    gaps = ordered.diff(dim=1)
    step = torch.where(gaps > 0, gaps, torch.inf).amin(1)
    counts = (ordered[:, -1] - ordered[:, 0]) / step
    return float(counts[step.isfinite()].median().nan_to_num(nan=torch.inf))


def _bits(matrix: Tensor) -> NDArray[np.signedinteger]:
    """Its own memory, for copies by numpy: at each by torch, threads wait for each other, and on a machine where others
    work, too, they do that for longer than a copy takes."""
    bits: NDArray[np.signedinteger] = matrix.detach().view(_INTEGERS[matrix.itemsize]).numpy()
    return bits


def _halved(bits: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Those of bfloat16 for these of float32. Raises `_NotBfloat16`."""
    if (bits & 0xFFFF).any():
        raise _NotBfloat16
    return (bits >> 16).astype(np.int16)
