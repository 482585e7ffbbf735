"""`Graph`: a decoding step as a CUDA graph.

Embedding, layers, logits, the likeliest token, and the way from there to the next step (`kernels.advance`): one launch.
It is made for sizes that the step's arrays must fit in, rounded up, so that a few graphs serve all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from .....attention import AttentionPlan
from .....attention.gpu import attend
from .....attention.gpu.schedule import Schedule
from .....attention.plan import Int64
from ..config import ModelConfig
from ..draw import draw, likeliest
from ..sampling import Draws
from . import kernels
from .arena import Arena

STEPS = 64
"""Steps of a burst at most."""

Forward = Callable[[Tensor, Tensor, Tensor, attend.OnDevice], tuple[Tensor, Tensor]]
"""From tokens, positions and slots (N,) and the schedule to logits (N, V) and hidden states (N, C)."""


@dataclass(frozen=True, slots=True)
class Sizes:
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
    def of(plan: AttentionPlan, schedule: Schedule, block_ms: tuple[int, ...], rows: int, *, is_greedy: bool) -> Sizes:
        counts = {tiles.block_m: len(tiles.items) for tiles in schedule.tiles}
        return Sizes(
            rows=rows,
            items=tuple((m, room(counts.get(m, 0), 16)) for m in reversed(block_ms)),
            lines=room(len(schedule.lines), 64),
            blocks=room(len(schedule.blocks), 1024),
            slots=room(schedule.num_slots, 256),
            groups=len(plan.groups),
            is_plain=attend.is_plain(plan.groups),
            is_shifted=schedule.is_shifted,
            is_greedy=is_greedy,
        )


def room(count: int, least: int) -> int:
    """Room for so many: powers of two and what is half way between them."""
    size: int = triton.next_power_of_2(max(count, least))
    return size * 3 // 4 if count <= size * 3 // 4 and size > least else size


class Graph:
    """One step for `sizes`, captured."""

    def __init__(
        self, sizes: Sizes, config: ModelConfig, device: torch.device, forward: Forward, memory: Any,
        *, is_invariant: bool,
    ) -> None:  # fmt: skip
        """`memory`: a pool that CUDA graphs share, which are never replayed at the same time."""
        rows = sizes.rows
        i32, i64, f32, f64 = torch.int32, torch.int64, torch.float32, torch.float64
        steps = 0 if sizes.is_greedy else STEPS
        self.sizes = sizes
        self._forward = forward
        self.arena = Arena(
            device,
            tokens=(i64, (rows,)),
            slots=(i64, (rows,)),
            slot_table=(i64, (STEPS + 1, rows)),
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
        self.sampled = torch.zeros(STEPS, rows, dtype=i64, device=device)
        self._on_device = attend.OnDevice(
            tiles=[(m, t[f"items{m}"]) for m, _ in sizes.items],
            lines=t["lines"], inverse_temperature=t["inverse_temperature"], blocks=t["blocks"], bounds=t["bounds"],
            slot_start=t["slot_start"], slot_group=t["slot_group"], factor=t["factor"], bias=t["bias"],
            part=torch.empty(sizes.slots, config.num_heads, config.head_dim, dtype=f32, device=device),
            part_lse=torch.empty(sizes.slots, config.num_heads, dtype=f32, device=device),
            is_plain=sizes.is_plain, is_shifted=sizes.is_shifted, is_invariant=is_invariant,
        )  # fmt: skip
        self.arena.send()  # no items and no slots: what is run to warm up writes nothing
        t["slots"].fill_(-1)
        t["slot_table"].fill_(-1)
        self._logits: Tensor | None = None
        self._step: Callable[[], None] = self._run
        if device.type == "cuda":
            self._step = self._captured(device, memory)

    def _captured(self, device: torch.device, memory: Any) -> Callable[[], None]:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory):
            self._run()
        return graph.replay

    def replay(self, step: int) -> None:
        """The burst's next step, which is number `step`."""
        self._step()
        if not self.sizes.is_greedy:
            assert self._logits is not None
            t = self.arena.tensors
            self._advance(draw(self._logits, t["temperature"], t["top_k"], t["top_p"], t["min_p"], t["uniform"][step]))

    def _run(self) -> None:
        t = self.arena.tensors
        self._logits, _ = self._forward(t["tokens"], t["positions"], t["slots"], self._on_device)
        if self.sizes.is_greedy:
            self._advance(likeliest(self._logits))

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
        """What the burst's first step reads, and what its later ones need: `table` (steps, N), slots of each step."""
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
        slots = np.full((STEPS + 1, self.sizes.rows), -1, dtype=np.int64)
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
