"""`ParallelModel`: a `Model` of which every rank runs a part, this process rank 0's."""

from __future__ import annotations

from ctypes import c_int32
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .....attention import AttentionPlan, Impl
from ...loading import loading, stop_check
from ..checkpoint import open_checkpoint
from ..config import ModelConfig
from ..loader import auto_dtype
from ..memory import free_memory
from ..model import Model
from ..pool import KVPool
from .messages import Forward, Start
from .ops import ShardedOps
from .sharding import Shard, rank_devices
from .workers import Workers


class ParallelModel(Model):
    """Views, plans and the store are the same on every rank; what is split are the heads of a `KVPool`, of which each
    rank has one like that which is given to `forward`."""

    def __init__(self, shard: Shard, ops: ShardedOps, workers: Workers, impl: Impl, threads: int):
        super().__init__(shard.local, ops, impl=impl, num_threads=threads)
        self.vocab_size = shard.config.vocab_size
        self.workers = workers
        self._num_ranks = shard.size
        self._pools: WeakKeyDictionary[KVPool, int] = WeakKeyDictionary()
        self._num_pools = 0

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        logit_rows: Tensor | None = None,
        interrupt: c_int32 | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Model.forward`; it is not interrupted, as all ranks would have to be. Raises `WorkerLost` if another
        rank's process has ended. `pool` is the latest one: the others have forgotten what was in one before."""
        if pool not in self._pools:
            self._num_pools += 1
            self._pools[pool] = self._num_pools
        about = (self._pools[pool], pool.num_blocks, pool.block_size)
        with self.workers.forward(Forward.of(tokens, positions, slots, plan, about, logit_rows)):
            return super().forward(tokens, positions, slots, plan, pool, logit_rows)

    def free_memory(self) -> int:
        if self.device.type == "cpu":
            return free_memory(self.device) // self._num_ranks
        return min(free_memory(self.device), *self.workers.free.values())

    def close(self) -> None:
        self.workers.close()


def load_parallel(
    path: str | Path,
    *,
    size: int,
    device: str = "cpu",
    dtype: torch.dtype | Literal["auto"] = "auto",
    impl: Impl = "auto",
    num_threads: int | None = 1,
    headless: bool = False,
    context_limit: int | None = None,
) -> ParallelModel:
    """As `loader.load_model`, split among `size` processes, this one included; `device` is the first one's. Close the
    model to end the others. On the CPU attention takes the compiled kernels if `impl` lets it, all else plain torch;
    `num_threads` are theirs (None: one).

    Raises what `load_model` raises, `InvalidInput` also for a model or devices that cannot be split so, and
    `WorkerLost`.
    """
    devices = rank_devices(device, size)
    checkpoint = open_checkpoint(path)
    config = ModelConfig.from_hf(checkpoint.config, headless=headless, context_limit=context_limit)
    shards = [Shard(config, rank, size) for rank in range(size)]
    chosen = auto_dtype(config, checkpoint.stored_dtype, devices[0]) if dtype == "auto" else dtype
    workers = Workers()
    threads = num_threads or 1
    try:
        workers.start(
            [
                Start(
                    path=checkpoint.path.absolute(),
                    shard=shard,
                    device=devices[shard.rank],
                    dtype=chosen,
                    impl=impl,
                    num_threads=threads,
                    torch_threads=torch.get_num_threads(),
                    port=workers.store.port,
                )
                for shard in shards[1:]
            ]
        )
        with loading(f"loading {checkpoint.path.name}", checkpoint.num_tensors) as step:
            weights = shards[0].weights(checkpoint, chosen, devices[0], step)
        ops = ShardedOps(shards[0], weights, workers.join(devices[0], stop_check()))
        return ParallelModel(shards[0], ops, workers, impl, threads)
    except BaseException:
        workers.close()
        raise
