"""`GpuStack`: forward passes on a GPU, those of decoding as CUDA graphs (graph.py)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from ctypes import c_int32
from dataclasses import replace

import numpy as np
import torch
import triton
from torch import Tensor

from .....attention import AttentionPlan
from .....attention.gpu import attend
from .....attention.gpu import store as gpu_store
from .....attention.gpu.limits import block_ms
from .....attention.gpu.schedule import Schedule
from .....attention.plan import CAUSAL, END, ROW, RUN, Int64
from ..config import ModelConfig
from ..model import LayerOps
from ..pool import KVPool
from ..sampling import Decoded, Draws
from . import kernels
from .graph import STEPS, Graph, Sizes, room
from .ops import SLICE, GpuOps

logger = logging.getLogger(__name__)

_LOOK = 8
"""Steps after which the host looks whether a burst is to end."""
_GRAPHS = 24
"""Kept at most; the one used least recently goes."""


class GpuStack:
    """See `model.Stack`."""

    scores = False
    singles = True

    def __init__(self, ops: GpuOps) -> None:
        self.ops = ops
        self.config: ModelConfig = ops.config
        self.device = device = ops.weights.embedding.device
        self._memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._weights = ops.weights
        rope = self.config.layers[0].rope
        assert rope is not None
        self._inv_freq = rope.inv_freq(self.config.head_dim).to(device)
        self._factor = rope.attention_factor
        self._graphs: OrderedDict[Sizes, Graph] = OrderedDict()
        self._pool: KVPool | None = None

    @staticmethod
    def fitting(ops: LayerOps) -> GpuStack | None:
        """Of these `ops`, if it can serve the model: all layers attend alike, and the kernels know how."""
        if not isinstance(ops, GpuOps):
            return None
        config = ops.config
        ropes = {layer.rope for layer in config.layers}
        widest = block_ms(ops.weights.embedding.dtype, is_invariant=True)[-1]
        fits = 16 <= config.head_dim <= 256 and config.num_heads // config.num_kv_heads <= widest
        fits = fits and config.attention_cap is None
        return GpuStack(ops) if fits and len(ropes) == 1 and None not in ropes else None

    def layers(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, on_device: attend.OnDevice, pool: KVPool
    ) -> Tensor:
        """All layers over rows (N,) of device tensors; (N, C)."""
        config, ops, rows = self.config, self.ops, len(tokens)
        cos, sin = self._angles(positions, self._inv_freq, self._factor)
        x = ops.embed(tokens)
        out = torch.empty(rows, config.num_heads, config.head_dim, dtype=x.dtype, device=self.device)
        lse = torch.empty(rows, config.num_heads, device=self.device)
        for layer, weights in enumerate(self._weights.layers):
            q, k, v = ops.qkv(layer, x)
            gpu_store.rope_and_store(
                q, k, v, cos, sin, slots, pool.k[layer], pool.v[layer],
                q_norm=weights.q_norm, k_norm=weights.k_norm, eps=config.rms_norm_eps,
            )  # fmt: skip
            attend.attend(
                q, pool.k[layer], pool.v[layer], on_device, out, lse,
                scale=config.attention_scale, cap=None, inv_freq=self._inv_freq,
            )  # fmt: skip
            x = ops.finish(layer, x, out)
        return x

    def angles(self, positions: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
        """See `Stack`."""
        return self._angles(positions.float(), inv_freq, 1.0)

    def _angles(self, positions: Tensor, inv_freq: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Cosines and sines times `factor`."""
        rows, rotary = len(positions), len(inv_freq)
        cos, sin = (torch.empty(rows, rotary, device=self.device) for _ in range(2))
        kernels.angles[(rows,)](
            positions, inv_freq, cos, sin, factor,
            ROTARY=rotary, PADDED=triton.next_power_of_2(rotary), num_warps=1,
        )  # fmt: skip
        return cos, sin

    def forward(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan, pool: KVPool,
        logit_rows: Tensor | None, interrupt: c_int32 | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `Model.forward`; it is not interrupted."""
        config = self.config
        plan.check(pool.block_size, pool.num_blocks)
        is_prefill = plan.is_prefill
        if is_prefill is not None and is_prefill.any():
            # Rows that decode first: the two are cut into different slices.
            order = np.argsort(is_prefill, kind="stable")
            place = np.argsort(order)
            entries = plan.entries.copy()
            entries[:, ROW] = place[entries[:, ROW]]
            plan = replace(plan, entries=entries, is_prefill=is_prefill[order])
            tokens, positions, slots = (numbers[order] for numbers in (tokens, positions, slots))
            wanted = np.arange(len(order)) if logit_rows is None else logit_rows.cpu().numpy()
            logit_rows = torch.from_numpy(place[wanted])
        schedule = self._schedule(plan, pool, 0)
        on_device = attend.move(
            plan, schedule, self.device, config.num_heads, config.head_dim, is_invariant=self.ops.is_invariant
        )
        rows = [numbers.to(self.device, non_blocking=True) for numbers in (tokens, positions.float(), slots)]
        self.ops.num_decoding = None if is_prefill is None else int((~is_prefill).sum())
        try:
            x = self.layers(rows[0], rows[1], rows[2], on_device, pool)
        finally:
            self.ops.num_decoding = None
        return self.ops.head(x if logit_rows is None else x[logit_rows.to(self.device)])

    def decode(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan, pool: KVPool,
        steps: int, stop_start: Tensor, stop_ids: Tensor, interrupt: c_int32, draws: Draws | None,
    ) -> Decoded:  # fmt: skip
        """See `Model.decode`, but steps that are enqueued when a row stops are run, and returned."""
        rows, steps = len(tokens), min(steps, STEPS)
        table = _slot_table(plan, pool.block_size, steps)
        schedule = self._schedule(plan, pool, steps - 1)
        graph = self._graph(plan, schedule, rows, pool, is_greedy=draws is None)
        graph.fill(tokens, positions, plan, schedule, table, draws)
        # Of a burst that is run in one go, nothing is left to leave out.
        stops = _Stops(stop_start, stop_ids) if steps > _LOOK else None
        sampled, done = graph.sampled, 0
        while done < steps:
            ahead = min(_LOOK, steps - done)
            for step in range(done, done + ahead):
                graph.replay(step)
            done += ahead
            sampled = graph.sampled[:done, :rows].cpu()  # waits
            if interrupt.value or (stops is not None and stops.are_met(sampled[-ahead:])):
                break
        if done > 1:
            tokens.copy_(sampled[-2])
        positions += done - 1
        slots.copy_(torch.from_numpy(table[done - 1]))
        plan.entries[:, END] += (done - 1) * plan.entries[:, CAUSAL]
        return Decoded(sampled)

    def _schedule(self, plan: AttentionPlan, pool: KVPool, ahead: int) -> Schedule:
        config = self.config
        probe = torch.empty(1, config.num_heads, config.head_dim, dtype=pool.dtype, device=self.device)
        return attend.schedule_for(
            plan, probe, config.num_kv_heads, pool.block_size, is_invariant=self.ops.is_invariant, ahead=ahead
        )

    def _graph(self, plan: AttentionPlan, schedule: Schedule, rows: int, pool: KVPool, *, is_greedy: bool) -> Graph:
        if self._pool is not pool:
            self._graphs.clear()
            self._pool = pool
        dtype = pool.dtype
        padded = -(-rows // SLICE) * SLICE if self.ops.is_invariant else room(rows, 1)
        tiles = block_ms(dtype, is_invariant=self.ops.is_invariant)
        sizes = Sizes.of(plan, schedule, tiles, padded, is_greedy=is_greedy)
        graph = self._graphs.get(sizes)
        if graph is None:
            if len(self._graphs) >= _GRAPHS:
                self._graphs.popitem(last=False)
            logger.info("capturing a step of %d rows", padded)

            def forward(tokens: Tensor, positions: Tensor, slots: Tensor, at: attend.OnDevice) -> tuple[Tensor, Tensor]:
                return self.ops.head(self.layers(tokens, positions, slots, at, pool))

            graph = self._graphs[sizes] = Graph(
                sizes, self.config, self.device, forward, self._memory, is_invariant=self.ops.is_invariant
            )
        self._graphs.move_to_end(sizes)
        return graph


class _Stops:
    """Which rows end with which tokens."""

    def __init__(self, start: Tensor, ids: Tensor) -> None:
        rows = len(start) - 1
        self._pairs = {(row, token) for row in range(rows) for token in ids[start[row] : start[row + 1]].tolist()}
        self._ids = ids.unique()  # type: ignore[no-untyped-call]

    def are_met(self, sampled: Tensor) -> bool:
        """Does a row end, or have no token, in one of the steps (S, N)?"""
        candidates = (torch.isin(sampled, self._ids) | (sampled < 0)).nonzero().tolist()
        return any(sampled[step, row] < 0 or (row, int(sampled[step, row])) in self._pairs for step, row in candidates)


def _slot_table(plan: AttentionPlan, block_size: int, steps: int) -> Int64:
    """(steps, N): where each row's next tokens go."""
    own = plan.entries[plan.entries[:, CAUSAL] != 0].astype(np.int64)
    own = own[np.argsort(own[:, ROW], kind="stable")]
    token = own[:, END][None] - 1 + np.arange(steps)[:, None]
    block = plan.run_blocks[plan.run_start[own[:, RUN]].astype(np.int64)[None] + token // block_size]
    slots: Int64 = block * np.int64(block_size) + token % block_size
    return slots
