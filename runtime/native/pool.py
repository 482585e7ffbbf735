"""`KVPool`: the memory behind all segments, one pair of paged tensors per layer."""

from __future__ import annotations

import torch

from .config import ModelConfig


class KVPool:
    """Keys and values of `num_blocks` blocks of `block_size` tokens, for every layer.

    k[layer] is (P, K, D, B): transposed inside a block, so that scores of a block's tokens are contiguous; v[layer] is
    (P, K, B, D). P blocks, K key/value heads, D head size, B block size. Which block belongs to whom is the store's
    business; slot `block * B + offset` names one token's place.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        heads, size = config.num_kv_heads, config.head_dim
        # Zeros, not empty: a masked-out NaN left in fresh memory would still poison a weighted sum.
        self.k = [
            torch.zeros(num_blocks, heads, size, block_size, dtype=dtype, device=device)
            for _ in range(config.num_layers)
        ]
        self.v = [
            torch.zeros(num_blocks, heads, block_size, size, dtype=dtype, device=device)
            for _ in range(config.num_layers)
        ]

    @staticmethod
    def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes that one block takes over all layers, keys and values together."""
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * block_size * dtype.itemsize
