"""`GpuStack`: forward passes on a GPU, those of decoding as CUDA graphs.

A graph is one step of some rows: embedding, layers, logits, the likeliest token, and the way from there to the next
step (`kernels.advance`). It is made for sizes (`_Sizes`) that the step's arrays must fit in, rounded up, so that a few
graphs serve all steps; what is read at each replay lies at fixed addresses (`_Arena`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from ctypes import c_int32
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from .....attention import AttentionPlan
from .....attention.gpu import attend
from .....attention.gpu import store as gpu_store
from .....attention.gpu.schedule import Schedule
from .....attention.plan import CAUSAL, END, ROW, RUN
from ..config import ModelConfig
from ..model import LayerOps
from ..pool import KVPool
from ..sampling import Draws
from . import kernels
from .draw import draw, likeliest
from .ops import SLICE, GpuOps

logger = logging.getLogger(__name__)

_STEPS = 64
"""Steps of a burst at most."""
_LOOK = 8
"""Steps after which the host looks whether a burst is to end."""
_GRAPHS = 24
"""Kept at most; the one used least recently goes."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a graph has room for."""

    rows: int
    items: tuple[tuple[int, int], ...]
    """(block_m, items) of each kind of tiles."""
    lines: int
    blocks: int
    slots: int
    groups: int
    is_plain: bool
    is_shifted: bool
    is_greedy: bool

    @staticmethod
    def of(plan: AttentionPlan, schedule: Schedule, block_ms: tuple[int, ...], rows: int, *, is_greedy: bool) -> _Sizes:
        counts = {tiles.block_m: len(tiles.items) for tiles in schedule.tiles}
        return _Sizes(
            rows=rows,
            items=tuple((m, _room(counts.get(m, 0), 16)) for m in reversed(block_ms)),
            lines=_room(len(schedule.lines), 64),
            blocks=_room(len(schedule.blocks), 1024),
            slots=_room(schedule.num_slots, 256),
            groups=len(plan.groups),
            is_plain=attend.is_plain(plan.groups),
            is_shifted=schedule.is_shifted,
            is_greedy=is_greedy,
        )


def _room(count: int, least: int) -> int:
    """Room for so many: powers of two and what is half way between them."""
    room = triton.next_power_of_2(max(count, least))
    return room * 3 // 4 if count <= room * 3 // 4 and room > least else room


class _Arena:
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


class _Graph:
    """One step for `sizes`, captured."""

    def __init__(self, stack: GpuStack, sizes: _Sizes, pool: KVPool) -> None:
        config, device, rows = stack.config, stack.device, sizes.rows
        i32, i64, f32, f64 = torch.int32, torch.int64, torch.float32, torch.float64
        steps = 0 if sizes.is_greedy else _STEPS
        self.sizes = sizes
        self.arena = _Arena(
            device,
            tokens=(i64, (rows,)),
            slots=(i64, (rows,)),
            slot_table=(i64, (_STEPS + 1, rows)),
            step=(i64, (1,)),
            uniform=(f64, (steps, rows)),
            temperature=(f64, (rows,)),
            top_k=(i64, (rows,)),
            top_p=(f64, (rows,)),
            min_p=(f64, (rows,)),
            positions=(f32, (rows,)),
            inverse_temperature=(f32, (sizes.lines,)),
            factor=(f32, (sizes.groups,)),
            bias=(f32, (sizes.groups,)),
            **{f"items{m}": (i32, (count, 8)) for m, count in sizes.items},
            lines=(i32, (sizes.lines, 8)),
            blocks=(i32, (sizes.blocks,)),
            bounds=(i32, (sizes.blocks,)),
            slot_start=(i32, (rows + 1,)),
            slot_group=(i32, (sizes.slots,)),
        )
        t = self.arena.tensors
        self.sampled = torch.zeros(_STEPS, rows, dtype=i64, device=device)
        self._on_device = attend.OnDevice(
            tiles=[(m, t[f"items{m}"]) for m, _ in sizes.items],
            lines=t["lines"], inverse_temperature=t["inverse_temperature"], blocks=t["blocks"], bounds=t["bounds"],
            slot_start=t["slot_start"], slot_group=t["slot_group"], factor=t["factor"], bias=t["bias"],
            part=torch.empty(sizes.slots, config.num_heads, config.head_dim, dtype=f32, device=device),
            part_lse=torch.empty(sizes.slots, config.num_heads, dtype=f32, device=device),
            is_plain=sizes.is_plain, is_shifted=sizes.is_shifted, is_invariant=stack.ops.is_invariant,
        )  # fmt: skip
        self.arena.send()  # no items and no slots: what is run to warm up writes nothing
        t["slots"].fill_(-1)
        t["slot_table"].fill_(-1)
        self.logits: Tensor | None = None
        self.hidden: Tensor | None = None
        if device.type != "cuda":
            self._step = lambda: self._run(stack, pool)
            return
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._run(stack, pool)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=stack.memory):
            self._run(stack, pool)
        self._step = graph.replay

    def replay(self, step: int) -> None:
        """The burst's next step, which is number `step`."""
        self._step()
        if not self.sizes.is_greedy:
            assert self.logits is not None
            t = self.arena.tensors
            self._advance(draw(self.logits, t["temperature"], t["top_k"], t["top_p"], t["min_p"], t["uniform"][step]))

    def _run(self, stack: GpuStack, pool: KVPool) -> None:
        t, rows = self.arena.tensors, self.sizes.rows
        x = stack.layers(t["tokens"], t["positions"], t["slots"], self._on_device, pool)
        self.logits, self.hidden = stack.ops.head(x)
        if self.sizes.is_greedy:
            self._advance(likeliest(self.logits))

    def _advance(self, drawn: Tensor) -> None:
        t, rows = self.arena.tensors, self.sizes.rows
        kernels.advance[(1,)](
            drawn, t["step"], self.sampled, t["tokens"], t["positions"], t["slots"], t["slot_table"],
            t["lines"], self.sizes.lines,
            ROWS=rows, ROWS_PADDED=triton.next_power_of_2(rows), LINES=1024, num_warps=4,
        )  # fmt: skip

    def fill(
        self, tokens: Tensor, positions: Tensor, plan: AttentionPlan, schedule: Schedule, table: Int64,
        draws: Draws | None,
    ) -> None:  # fmt: skip
        """table: (steps, N) slots of each step."""
        arena = self.arena
        if draws is not None:
            uniform = np.zeros((len(draws.uniform), self.sizes.rows))
            uniform[:, : table.shape[1]] = draws.uniform
            arena.fill("uniform", uniform)
            arena.fill("temperature", draws.temperature, 0)
            arena.fill("top_k", draws.top_k, 0)
            arena.fill("top_p", draws.top_p, 1)
            arena.fill("min_p", draws.min_p, 0)
        arena.fill("tokens", tokens.numpy(), 0)
        arena.fill("positions", positions.numpy(), 0)
        slots = np.full((_STEPS + 1, self.sizes.rows), -1, dtype=np.int64)
        slots[: len(table), : table.shape[1]] = table
        arena.fill("slots", slots[0])
        arena.fill("slot_table", slots)
        arena.fill("step", np.zeros(1, dtype=np.int64))
        numbers = np.array([[group.factor, group.bias] for group in plan.groups], dtype=np.float32)
        arena.fill("factor", numbers[:, 0])
        arena.fill("bias", numbers[:, 1])
        items = {tiles.block_m: tiles.items for tiles in schedule.tiles}
        for m, _ in self.sizes.items:
            arena.fill(f"items{m}", items.get(m, np.zeros((0, 8), dtype=np.int32)), 0)
        arena.fill("lines", schedule.lines, 0)
        arena.fill("inverse_temperature", schedule.inverse_temperature)
        arena.fill("blocks", schedule.blocks)
        arena.fill("bounds", schedule.bounds)
        arena.fill("slot_start", schedule.slot_start, schedule.num_slots)
        arena.fill("slot_group", schedule.slot_group)
        arena.send()


Int64 = NDArray[np.int64]


class GpuStack:
    """See `model.Stack`."""

    def __init__(self, ops: GpuOps) -> None:
        self.ops = ops
        self.config: ModelConfig = ops.config
        self.device = device = ops.weights.embedding.device
        self.memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._weights = ops.weights
        rope = self.config.layers[0].rope
        assert rope is not None
        self._inv_freq = rope.inv_freq(self.config.head_dim).to(device)
        self._factor = rope.attention_factor
        self._graphs: OrderedDict[_Sizes, _Graph] = OrderedDict()
        self._pool: KVPool | None = None

    @staticmethod
    def fitting(ops: LayerOps) -> GpuStack | None:
        """Of these `ops`, if it can serve the model: all layers attend alike, and the kernels know how."""
        if not isinstance(ops, GpuOps):
            return None
        config = ops.config
        ropes = {layer.rope for layer in config.layers}
        fits = 16 <= config.head_dim <= 256 and config.attention_cap is None
        return GpuStack(ops) if fits and len(ropes) == 1 and None not in ropes else None

    def layers(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, on_device: attend.OnDevice, pool: KVPool
    ) -> Tensor:
        """All layers over rows (N,) of device tensors; (N, C)."""
        config, ops, rotary, rows = self.config, self.ops, len(self._inv_freq), len(tokens)
        cos = torch.empty(rows, rotary, device=self.device)
        sin = torch.empty(rows, rotary, device=self.device)
        kernels.angles[(rows,)](
            positions, self._inv_freq, cos, sin, self._factor,
            ROTARY=rotary, PADDED=triton.next_power_of_2(rotary), num_warps=1,
        )  # fmt: skip
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

    def forward(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan, pool: KVPool,
        logit_rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `Model.forward`."""
        config = self.config
        plan.check(pool.block_size, pool.num_blocks)
        is_prefill = plan.is_prefill
        if is_prefill is not None and is_prefill.any():
            order = np.argsort(is_prefill, kind="stable")
            place = np.argsort(order)
            entries = plan.entries.copy()
            entries[:, ROW] = place[entries[:, ROW]]
            plan = replace(plan, entries=entries, is_prefill=is_prefill[order])
            tokens, positions, slots = (numbers[order] for numbers in (tokens, positions, slots))
            wanted = np.arange(len(order)) if logit_rows is None else logit_rows.cpu().numpy()
            logit_rows = torch.from_numpy(place[wanted])
            self.ops.num_decoding = int((~is_prefill).sum())
        schedule = self._schedule(plan, pool, 0)
        on_device = attend.move(
            plan, schedule, self.device, config.num_heads, config.head_dim, is_invariant=self.ops.is_invariant
        )
        rows = [numbers.to(self.device, non_blocking=True) for numbers in (tokens, positions.float(), slots)]
        x = self.layers(rows[0], rows[1], rows[2], on_device, pool)
        self.ops.num_decoding = None
        return self.ops.head(x if logit_rows is None else x[logit_rows.to(self.device)])

    def decode(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan, pool: KVPool,
        steps: int, stop_start: Tensor, stop_ids: Tensor, interrupt: c_int32, draws: Draws | None,
    ) -> Tensor:  # fmt: skip
        """See `Model.decode`, but steps that are enqueued when a row stops are run, and returned."""
        rows, steps = len(tokens), min(steps, _STEPS)
        table = _slot_table(plan, pool.block_size, steps)
        schedule = self._schedule(plan, pool, steps - 1)
        graph = self._graph(plan, schedule, rows, pool, is_greedy=draws is None)
        graph.fill(tokens, positions, plan, schedule, table, draws)
        stops = _Stops(stop_start, stop_ids)
        sampled, done = graph.sampled, 0
        while done < steps:
            ahead = min(_LOOK, steps - done)
            for step in range(done, done + ahead):
                graph.replay(step)
            done += ahead
            sampled = graph.sampled[:done, :rows].cpu()  # waits
            if interrupt.value or stops.are_met(sampled[-ahead:]):
                break
        if done > 1:
            tokens.copy_(sampled[-2])
        positions += done - 1
        slots.copy_(torch.from_numpy(table[done - 1]))
        plan.entries[:, END] += (done - 1) * plan.entries[:, CAUSAL]
        return sampled

    def _schedule(self, plan: AttentionPlan, pool: KVPool, ahead: int) -> Schedule:
        config = self.config
        probe = torch.empty(1, config.num_heads, config.head_dim, dtype=pool.dtype, device=self.device)
        return attend.schedule_for(
            plan, probe, config.num_kv_heads, pool.block_size, is_invariant=self.ops.is_invariant, ahead=ahead
        )

    def _graph(self, plan: AttentionPlan, schedule: Schedule, rows: int, pool: KVPool, *, is_greedy: bool) -> _Graph:
        if self._pool is not pool:
            self._graphs.clear()
            self._pool = pool
        dtype = pool.dtype
        padded = -(-rows // SLICE) * SLICE if self.ops.is_invariant else _room(rows, 1)
        block_ms = attend.block_ms(dtype, is_invariant=self.ops.is_invariant)
        sizes = _Sizes.of(plan, schedule, block_ms, padded, is_greedy=is_greedy)
        graph = self._graphs.get(sizes)
        if graph is None:
            if len(self._graphs) >= _GRAPHS:
                self._graphs.popitem(last=False)
            logger.info("capturing a step of %d rows", padded)
            graph = self._graphs[sizes] = _Graph(self, sizes, pool)
        self._graphs.move_to_end(sizes)
        return graph


class _Stops:
    """Which rows end with which tokens."""

    def __init__(self, start: Tensor, ids: Tensor) -> None:
        rows = len(start) - 1
        self._pairs = {(row, token) for row in range(rows) for token in ids[start[row] : start[row + 1]].tolist()}
        self._ids = ids.unique()

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
    return block * np.int64(block_size) + token % block_size
