"""`Arena`: where a CUDA graph reads what changes from replay to replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Arena:
    """Tensors of fixed addresses in one block of device memory, and what they are filled from in pinned memory."""

    def __init__(self, device: torch.device, **parts: tuple[torch.dtype, tuple[int, ...]]) -> None:
        offsets, size = {}, 0
        for name, (dtype, shape) in parts.items():
            offsets[name] = size
            size += -(-int(np.prod(shape)) * dtype.itemsize // 16) * 16
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._views: dict[str, NDArray[Any]] = {}
        self.tensors: dict[str, Tensor] = {}
        for name, (dtype, shape) in parts.items():
            end = offsets[name] + int(np.prod(shape)) * dtype.itemsize
            self._views[name] = self._host[offsets[name] : end].view(dtype).view(shape).numpy()
            self.tensors[name] = self._device[offsets[name] : end].view(dtype).view(shape)

    def fill(self, name: str, array: NDArray[Any], rest: int | float | None = None) -> None:
        """The first elements along the first axis; what follows them is set to `rest`, or stays."""
        view = self._views[name]
        view[: len(array)] = array
        if rest is not None:
            view[len(array) :] = rest

    def send(self) -> None:
        self._device.copy_(self._host, non_blocking=True)
