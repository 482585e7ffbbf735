"""`KVPool`: the memory behind all segments, one pair of paged tensors per layer."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from ....attention import int8
from .config import ModelConfig


class KVPool:
    """Keys and values of `num_blocks` blocks of `block_size` tokens, for every layer.

    k[layer] is (P, K, D, B): transposed inside a block, so that scores of a block's tokens are contiguous; v[layer] is
    (P, K, B, D). P blocks, K key/value heads of all lanes, D head size, B block size; in int8 D + 4 for D, since each
    token has scales there (attention/int8.py). Which block belongs to whom is the store's business; slot
    `block * B + offset` names one token's place. The store knows nothing of the blocks `pinned` behind its own, in
    which the prefixes of lanes stay.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        key_ranges: Sequence[Tensor] | None = None,
    ) -> None:
        """`key_ranges`: `Model.key_ranges`, by which keys of int8 are evened out."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.key_ranges: list[Tensor] | None = None
        """(K, D) of each layer: keys are written divided by them, and queries multiplied (key_ranges.py)."""
        if dtype == torch.int8 and key_ranges is not None:
            self.key_ranges = [ranges.repeat(config.num_lanes, 1) for ranges in key_ranges]
        prefix = 0 if config.lanes is None else config.lanes.prefix
        self.pinned = range(num_blocks, num_blocks + -(-prefix // block_size))
        size = int8.stored_size(config.head_dim, dtype)
        keys = (self.pinned.stop, config.stored_heads, size, block_size)
        values = (self.pinned.stop, config.stored_heads, block_size, size)
        # Zeros, not empty: a masked-out NaN left in fresh memory would still poison a weighted sum.
        self.k = [zeros(keys, dtype, device) for _ in range(config.num_layers)]
        self.v = [zeros(values, dtype, device) for _ in range(config.num_layers)]

    @staticmethod
    def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes that one block takes over all layers, keys and values together."""
        size = int8.stored_size(config.head_dim, dtype)
        return 2 * config.num_layers * config.stored_heads * size * block_size * dtype.itemsize

    @staticmethod
    def clear(keys: Tensor, values: Tensor, used: int) -> None:
        """Forget what blocks of one layer hold behind their first `used` tokens."""
        if keys.dtype == torch.int8:
            int8.clear(keys, values, used)
        else:
            keys[..., used:] = 0
            values[..., used:, :] = 0


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """For large tensors that every step reads. On the CPU memory is taken only where it is written, and in huge pages
    where the system has them, which saves the misses of the address cache."""
    if torch.device(device).type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype, device=device)
    count = math.prod(shape)
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)
