"""Span attention by Triton kernels: from a plan to tensors on the device, and the launches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..plan import AttentionPlan, Group
from . import kernels
from .limits import TOKEN_TILE, block_ms
from .schedule import Schedule, make_schedule

_SLOT_TILE = 32
"""Slots that a merge reads at a time."""
_SMALL_PROGRAMS, _LARGE_PROGRAMS = 4, 1
"""Programs of small and of large tiles that run side by side on one processor."""


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def schedule_for(
    plan: AttentionPlan, q: Tensor, kv_heads: int, block_size: int, *, is_invariant: bool, ahead: int = 0
) -> Schedule:
    """The plan's schedule for queries (N, H, D) like `q`; see `make_schedule`."""

    def share(block_m: int) -> int:
        return _processors(q.device) * (_SMALL_PROGRAMS if block_m < 64 else _LARGE_PROGRAMS) // kv_heads

    return make_schedule(
        plan, block_size, q.shape[1] // kv_heads, TOKEN_TILE, block_ms(q.dtype, is_invariant=is_invariant),
        ahead=ahead, share=None if is_invariant else share,
    )  # fmt: skip


@dataclass(slots=True)
class OnDevice:
    """A schedule on the device, with room for partial results.

    Rows, items, lines and slots beyond those of the schedule are empty: a CUDA graph is made for so many at most."""

    tiles: list[tuple[int, Tensor]]
    """Rows of queries and items (I, 8) of each kind."""
    lines: Tensor
    inverse_temperature: Tensor
    blocks: Tensor
    bounds: Tensor
    slot_start: Tensor
    slot_group: Tensor
    factor: Tensor
    """(G,)."""
    bias: Tensor
    part: Tensor
    """(slots, H, D) float32."""
    part_lse: Tensor
    is_plain: bool
    is_shifted: bool
    is_invariant: bool


def is_plain(groups: tuple[Group, ...]) -> bool:
    return len(groups) == 1 and groups[0].factor == 1.0 and groups[0].bias == 0.0


def move(
    plan: AttentionPlan, schedule: Schedule, device: torch.device, heads: int, size: int, *, is_invariant: bool
) -> OnDevice:
    """The schedule as it is, and room for its slots."""

    def send(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    numbers = np.array([[group.factor, group.bias] for group in plan.groups], dtype=np.float32)
    return OnDevice(
        tiles=[(tiles.block_m, send(tiles.items)) for tiles in schedule.tiles],
        lines=send(schedule.lines),
        inverse_temperature=send(schedule.inverse_temperature),
        blocks=send(schedule.blocks),
        bounds=send(schedule.bounds),
        slot_start=send(schedule.slot_start),
        slot_group=send(schedule.slot_group),
        factor=send(numbers[:, 0].copy()),
        bias=send(numbers[:, 1].copy()),
        part=torch.empty(schedule.num_slots, heads, size, device=device, dtype=torch.float32),
        part_lse=torch.empty(schedule.num_slots, heads, device=device, dtype=torch.float32),
        is_plain=is_plain(plan.groups),
        is_shifted=schedule.is_shifted,
        is_invariant=is_invariant,
    )


def _shape(block_m: int, size: int, dtype: torch.dtype) -> tuple[int, int]:
    """Warps and pipeline stages: measured on an H200."""
    if dtype == torch.float32:
        return 4, 1
    if block_m < 64:
        return 2, 2
    return 4, 3 if size <= 128 else 2


def attend(
    q: Tensor, k_pool: Tensor, v_pool: Tensor, on_device: OnDevice, out: Tensor, lse: Tensor,
    *, scale: float, cap: float | None, inv_freq: Tensor | None,
) -> None:  # fmt: skip
    """Launch the kernels for all rows of `q` (N, H, D), to `out` (N, H, D) and `lse` (N, H)."""
    rows, heads, size = q.shape
    kv_heads, block_size = k_pool.shape[1], k_pool.shape[3]
    padded = triton.next_power_of_2(size)
    is_whole = k_pool.is_contiguous() and v_pool.is_contiguous() and k_pool.dtype != torch.float32
    is_bulk = block_size == TOKEN_TILE and size == padded and is_whole and _has_bulk_copies(q.device)
    k_tiles, v_tiles = (_tiles_of(k_pool), _tiles_of(v_pool)) if is_bulk else (k_pool, v_pool)
    d = on_device

    def launch(block_m: int, items: Tensor) -> None:
        warps, stages = _shape(block_m, size, k_pool.dtype)
        kernels.attend[(len(items) * kv_heads,)](
            q, k_pool, v_pool, k_tiles, v_tiles, out, d.part, lse, d.part_lse,
            items, d.lines, d.inverse_temperature, d.blocks, d.bounds, d.slot_start,
            q if inv_freq is None else inv_freq, q.stride(0), q.stride(1), k_pool.stride(0), k_pool.stride(1),
            v_pool.stride(0), v_pool.stride(1), scale, cap or 0.0,
            HEADS=heads, KV_HEADS=kv_heads, RATIO=heads // kv_heads, SIZE=size, PADDED=padded,
            ROTARY=0 if inv_freq is None else len(inv_freq), BLOCK=block_size, M=block_m, T=TOKEN_TILE,
            SHIFTED=d.is_shifted, CAPPED=cap is not None, DIRECT=d.is_plain, BULK=is_bulk,
            PRECISION="ieee" if k_pool.dtype == torch.float32 else "tf32", STAGES=stages, num_warps=warps,
            # The compiler fuses otherwise in the two loops, one of which a tile is in according to who shares it.
            enable_fp_fusion=not d.is_invariant,
        )  # fmt: skip

    _side_by_side(q.device, [partial(launch, *tiles) for tiles in d.tiles if len(tiles[1])])
    kernels.merge[(rows, heads)](
        d.part, d.part_lse, out, lse, d.slot_start, d.slot_group, d.factor, d.bias,
        HEADS=heads, SIZE=size, PADDED=padded, S=_SLOT_TILE, GROUPS=len(d.factor), PLAIN=d.is_plain,
        DIRECT=d.is_plain, num_warps=4,
    )  # fmt: skip


def _side_by_side(device: torch.device, launches: list[Callable[[], None]]) -> None:
    """Large tiles are bound by arithmetic and small ones by memory. In a CUDA graph they run at the same time."""
    if len(launches) < 2 or device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        for launch in launches:
            launch()
        return
    main, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(main)
    launches[0]()
    with torch.cuda.stream(side):
        for launch in launches[1:]:
            launch()
    main.wait_stream(side)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@cache
def _has_bulk_copies(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9


def _tiles_of(pool: Tensor) -> Any:
    """The pool as a matrix of whole blocks, one head behind the other."""
    return TensorDescriptor.from_tensor(pool.view(-1, pool.shape[3]), list(pool.shape[2:]))


def span_attention(
    q: Tensor, k_pool: Tensor, v_pool: Tensor, plan: AttentionPlan,
    *, scale: float, cap: float | None = None, inv_freq: Tensor | None = None, out: Tensor | None = None,
    is_invariant: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Out (N, H, D) in the dtype of `q` and float32 log-sum-exp (N, H); see `attention.span_attention`."""
    rows, heads, size = q.shape
    kv_heads, block_size = k_pool.shape[1], k_pool.shape[3]
    key = f"gpu {q.device} {k_pool.dtype} {heads} {kv_heads} {size} {block_size} {is_invariant}"
    on_device = plan.derived.get(key)
    if not isinstance(on_device, OnDevice):
        plan.check(block_size, k_pool.shape[0])
        probe = torch.empty(1, heads, size, dtype=k_pool.dtype, device=q.device)
        schedule = schedule_for(plan, probe, kv_heads, block_size, is_invariant=is_invariant)
        on_device = plan.derived[key] = move(plan, schedule, q.device, heads, size, is_invariant=is_invariant)
    if on_device.is_shifted and inv_freq is None:
        raise ValueError("inv_freq is needed because an entry of the plan has a shift")
    if out is None:
        out = torch.empty(rows, heads, size, dtype=q.dtype, device=q.device)
    lse = torch.empty(rows, heads, dtype=torch.float32, device=q.device)
    if rows:
        attend(q, k_pool, v_pool, on_device, out, lse, scale=scale, cap=cap, inv_freq=inv_freq)
    return out, lse
