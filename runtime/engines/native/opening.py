"""What an engine opens with, as its options, its model and what is free allow: KV memory, and room for drafts."""

from __future__ import annotations

import logging

import torch

from ...errors import InvalidInput
from .drafting import ROWS
from .memory import default_blocks, swap_blocks
from .model import Model
from .options import NativeOptions
from .pool import KVPool
from .stack import KernelStack
from .store import KVStore
from .swap import SwapSpace

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_BLOCK, _GPU_BLOCK = 16, 64
"""Tokens per KV block."""
_HEAVY = 64 * _MIB
"""Weights that no cache holds."""


def recomputes(model: Model) -> bool:
    """Are keys, values and logits of several tokens at once those of one token after the other, to the bit?"""
    return isinstance(model.stack, KernelStack)


def draft_rows(model: Model, asked: int | None) -> int:
    """Rows of a step that verifies drafts. Raises `InvalidInput` for a model whose results might change by them."""
    if not isinstance(model.stack, KernelStack):
        if asked:
            raise InvalidInput(
                "draft_rows: this model is not run by the compiled kernels of the CPU, which verify drafts"
            )
        return 0
    return (ROWS if model.stack.num_bytes >= _HEAVY else 0) if asked is None else asked


def open_store(model: Model, options: NativeOptions, context_limit: int) -> tuple[KVPool, KVStore]:
    """Memory for keys and values, and the store that gives it out. Raises `InvalidInput` for sizes that cannot be."""
    is_gpu = model.device.type == "cuda"
    block_size = options.block_size or (_GPU_BLOCK if is_gpu else _BLOCK)
    if is_gpu and _GPU_BLOCK % block_size:
        raise InvalidInput(f"on a GPU block_size must be 16, 32 or 64, not {block_size}")
    dtype = model.dtype
    if options.kv_dtype is not None:
        if model.device.type != "cpu":
            raise InvalidInput(f"kv_dtype={options.kv_dtype!r} is for the CPU, and the model is on {model.device}")
        dtype = torch.int8
    block_bytes = KVPool.bytes_per_block(model.config, block_size, dtype)
    if options.kv_tokens is None:
        free = model.free_memory()
        num_blocks = default_blocks(block_bytes, block_size, context_limit, free)
        logger.info("KV store: up to %.0f MiB of %.0f MiB free", num_blocks * block_bytes / _MIB, free / _MIB)
    else:
        num_blocks = -(-options.kv_tokens // block_size)
        if num_blocks < 1:
            raise InvalidInput(f"kv_tokens must be positive, not {options.kv_tokens}")
    try:
        pool = KVPool(model.config, num_blocks, block_size, dtype, model.device, model.key_ranges)
    except (RuntimeError, OSError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInput(
            f"no memory for {num_blocks} KV blocks of {block_bytes} bytes: lower kv_tokens ({reason})"
        ) from None
    swap = None
    if options.tensor_parallel == 1:
        swap = SwapSpace(pool, swap_blocks(options.swap_tokens, block_size, block_bytes))
    return pool, KVStore(num_blocks, block_size, swap)
