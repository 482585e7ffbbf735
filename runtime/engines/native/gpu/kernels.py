"""Triton kernels for what surrounds attention. Each row is worked on by itself, in one order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm(x_ptr, added_ptr, weight_ptr, out_ptr, eps, SIZE: tl.constexpr, PADDED: tl.constexpr, ADDS: tl.constexpr):
    """RMS norm of each row of x (N, C), after `added` was added to it in place. Rounded as torch_ops.py rounds."""
    row = tl.program_id(0).to(tl.int64) * SIZE
    c = tl.arange(0, PADDED)
    is_in = c < SIZE
    x = tl.load(x_ptr + row + c, mask=is_in, other=0.0)
    if ADDS:
        x = (x.to(tl.float32) + tl.load(added_ptr + row + c, mask=is_in, other=0.0).to(tl.float32)).to(x.dtype)
        tl.store(x_ptr + row + c, x, mask=is_in)
    h = x.to(tl.float32)
    h = (h * tl.rsqrt(tl.sum(h * h, 0) / SIZE + eps)).to(x.dtype)
    weight = tl.load(weight_ptr + c, mask=is_in, other=0.0)
    tl.store(out_ptr + row + c, (weight.to(tl.float32) * h.to(tl.float32)).to(x.dtype), mask=is_in)


@triton.jit
def gate(gate_up_ptr, out_ptr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """silu(gate) * up of each row of (N, 2 I)."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_in = c < SIZE
    g = tl.load(gate_up_ptr + row * 2 * SIZE + c, mask=is_in, other=0.0)
    up = tl.load(gate_up_ptr + row * 2 * SIZE + SIZE + c, mask=is_in, other=0.0)
    x = g.to(tl.float32)
    inner = (x * tl.sigmoid(x)).to(g.dtype)
    tl.store(out_ptr + row * SIZE + c, (inner.to(tl.float32) * up.to(tl.float32)).to(g.dtype), mask=is_in)


@triton.jit
def angles(positions_ptr, inv_freq_ptr, cos_ptr, sin_ptr, factor, ROTARY: tl.constexpr, PADDED: tl.constexpr):
    """Cosines and sines (N, R) of each row's position."""
    row = tl.program_id(0)
    r = tl.arange(0, PADDED)
    is_in = r < ROTARY
    angle = tl.load(positions_ptr + row) * tl.load(inv_freq_ptr + r, mask=is_in, other=0.0)
    tl.store(cos_ptr + row * ROTARY + r, tl.cos(angle) * factor, mask=is_in)
    tl.store(sin_ptr + row * ROTARY + r, tl.sin(angle) * factor, mask=is_in)


@triton.jit
def advance(
    drawn_ptr, step_ptr, sampled_ptr, tokens_ptr, positions_ptr, slots_ptr, slot_table_ptr, lines_ptr, num_lines,
    ROWS: tl.constexpr, ROWS_PADDED: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """From one step to the next: what was drawn becomes what is read, each at the next position and in the next slot,
    and each row sees one token more of its own run. One program."""
    step = tl.load(step_ptr)
    r = tl.arange(0, ROWS_PADDED)
    is_in = r < ROWS
    drawn = tl.load(drawn_ptr + r, mask=is_in, other=0)
    tl.store(sampled_ptr + step * ROWS + r, drawn, mask=is_in)
    tl.store(tokens_ptr + r, tl.maximum(drawn, 0), mask=is_in)
    tl.store(positions_ptr + r, tl.load(positions_ptr + r, mask=is_in, other=0.0) + 1.0, mask=is_in)
    tl.store(slots_ptr + r, tl.load(slot_table_ptr + (step + 1) * ROWS + r, mask=is_in, other=-1), mask=is_in)
    for first in range(0, num_lines, LINES):
        line = first + tl.arange(0, LINES)
        is_line = line < num_lines
        at = lines_ptr + line.to(tl.int64) * 8
        own = tl.load(at + 7, mask=is_line, other=0)
        tl.store(at + 2, tl.load(at + 2, mask=is_line, other=0) + own, mask=is_line)
    tl.store(step_ptr, step + 1)
