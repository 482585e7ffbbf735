"""A process of rank 1 or up: it runs the forward passes that rank 0 runs, on its own part; run by `workers.Workers`."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from queue import SimpleQueue
from typing import IO, Any

import torch

from ..checkpoint import open_checkpoint
from ..memory import free_memory
from ..model import Model
from ..pool import KVPool
from .collectives import Collectives, join_store
from .messages import READY, Forward, Start
from .ops import ShardedOps


def serve(start: Start, orders: SimpleQueue[Any], channel: IO[str]) -> None:
    """Load, say that it is done, and run what comes."""
    shard, device = start.shard, start.device
    torch.set_num_threads(start.torch_threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    weights = shard.weights(open_checkpoint(start.path), start.dtype, device)
    print(f"{READY}{free_memory(device)}", file=channel, flush=True)
    collectives = Collectives(join_store(start.port), shard.rank, shard.size, device)
    ops = ShardedOps(shard, weights, collectives)
    model = Model(shard.local, ops, impl=start.impl, num_threads=start.num_threads)
    pool, number = None, 0
    while True:
        order: Forward = orders.get()
        if pool is None or order.pool[0] != number:
            pool = None  # before there is another one
            number, num_blocks, block_size = order.pool
            pool = KVPool(model.config, num_blocks, block_size, model.dtype, device)
        tokens, positions, slots, logit_rows = (
            None if array is None else torch.from_numpy(array).to(device) for array in order.arrays
        )
        assert tokens is not None and positions is not None and slots is not None
        model.forward(tokens, positions, slots, order.plan, pool, logit_rows)


def _read(orders: SimpleQueue[Any]) -> None:
    """Orders go on being read during a forward pass: their end is that of rank 0's process, for whom this one may just
    be waiting."""
    while True:
        try:
            orders.put(pickle.load(sys.stdin.buffer))
        except Exception:  # the end, perhaps in the middle of an order
            os._exit(0)


def main() -> None:
    # The channel is the true standard output; whatever a library prints goes to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)
        orders: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=_read, args=(orders,), daemon=True).start()
        try:
            serve(orders.get(), orders, channel)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=channel, flush=True)
            os._exit(1)


if __name__ == "__main__":
    main()
