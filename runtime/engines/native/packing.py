"""Weights in the packed form of the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .integers import GROUP, Bits, WeightType, fill, record_bytes
from .kernels import BFLOAT16, FLOAT32, FLOAT32_HALVED, QUANTISED, LayerArguments, LinearArguments
from .pool import zeros
from .weights import MLP, LayerWeights, Linear, Weights


class PackedWeights:
    """Panels of all linear layers, and the structures that point to them."""

    def __init__(
        self, weights: Weights, panel: int, *, is_live: bool = False, weight_type: WeightType | None = None
    ) -> None:
        """`panel`: outputs of a panel, `plait_panel()`. `is_live`: the weights will change (`refresh`). `weight_type`:
        to round them to; 8 bits are the fewest for the embedding and the head, which 4 would harm most."""
        self._panel = panel
        self._bits: Bits = 4 if weight_type == "int4" else 8
        if weight_type is not None:
            self.type = QUANTISED
        elif weights.embedding.dtype == torch.bfloat16:
            self.type = BFLOAT16
        else:
            # What was shipped in bfloat16 takes half the memory and gives the same numbers.
            is_halved = not is_live and all(map(_is_bfloat16, _matrices(weights)))
            self.type = FLOAT32_HALVED if is_halved else FLOAT32
        self._kept: list[Tensor] = []
        """What the structures point to."""
        self._refilled: Iterator[Tensor] | None = None
        """Those of them that are still to be filled anew; None: they are being made."""
        layers = self._layers(weights)
        self.layers = (LayerArguments * len(layers))(*layers)
        self.norm, self.embedding, self.head = self._rest(weights)

    def refresh(self, weights: Weights) -> None:
        """Pack weights of the same shapes in the memory of the old ones: what points there stays."""
        self._refilled = iter(self._kept)
        self._layers(weights)
        self._rest(weights)

    def _layers(self, weights: Weights) -> list[LayerArguments]:
        return [self._layer(layer) for layer in weights.layers]

    def _rest(self, weights: Weights) -> tuple[int, LinearArguments, LinearArguments]:
        """The last norm, the embedding and the head."""
        norm, embedding = self._vector(weights.norm), self._linear([Linear(weights.embedding)], bits=8)
        is_tied = weights.lm_head is weights.embedding
        return norm, embedding, embedding if is_tied else self._linear([Linear(weights.lm_head)], bits=8)

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
        dtype = torch.bfloat16 if self.type == FLOAT32_HALVED else parts[0].weight.dtype
        rows = torch.zeros(outputs, inputs + inputs % 2, dtype=dtype)
        bias = self._room(lambda: torch.zeros(outputs))
        for part, start in zip(parts, starts, strict=True):
            rows[start : start + len(part.weight), :inputs] = part.weight.detach()
            if part.bias is not None:
                bias[start : start + len(part.weight)] = part.bias.detach()
        bits = bits or self._bits
        panels = self._integers(rows[:, :inputs], bits) if self.type == QUANTISED else self._units(rows, inputs)
        has_bias = any(part.bias is not None for part in parts)
        return LinearArguments(
            panels=panels.data_ptr(),
            bias=bias.data_ptr() if has_bias else None,
            inputs=inputs,
            outputs=outputs,
            bits=bits,
        )

    def _units(self, rows: Tensor, inputs: int) -> Tensor:
        """Panels of float32, or of pairs of bfloat16: `rows` have room for whole pairs."""
        units = rows[:, :inputs] if rows.dtype == torch.float32 else rows
        units = units.contiguous().view(torch.int32)
        shape = (len(rows) // self._panel, units.shape[1], self._panel)
        panels = self._room(lambda: zeros(shape, torch.int32))
        return panels.copy_(units.view(len(rows) // self._panel, self._panel, -1).transpose(1, 2))

    def _integers(self, rows: Tensor, bits: Bits) -> Tensor:
        """Panels of 8 or 4 bits."""
        groups = -(-rows.shape[1] // GROUP)
        shape = (len(rows) // self._panel, groups, record_bytes(bits, self._panel) // 4)
        panels = self._room(lambda: zeros(shape, torch.int32))
        fill(panels.view(torch.uint8), rows, bits, self._panel)
        return panels

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


def _matrices(weights: Weights) -> Iterator[Tensor]:
    yield from (weights.embedding, weights.lm_head)
    for layer in weights.layers:
        mlp = layer.mlp
        assert isinstance(mlp, MLP)
        yield from (part.weight for part in (layer.q, layer.k, layer.v, layer.o, mlp.gate, mlp.up, mlp.down))


def _is_bfloat16(matrix: Tensor) -> bool:
    """Is every number of this float32 matrix one of bfloat16's?"""
    return torch.equal(matrix, matrix.bfloat16().float())
