"""The Triton kernels. Legend for shapes: attention/plan.py; R: rotated pairs of a head.

Shapes are constants of a kernel; what changes from step to step is read from memory, so that a CUDA graph of a step can
be replayed with other contents.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
TWO_PI = tl.constexpr(6.283185307179586)
TURNS = tl.constexpr(0.15915494309189535)


@triton.jit
def _rotated(q, partner, shift, inv_freq, is_first):
    """Queries (M, D) turned back by shift (M,) positions: what moves the keys forward by as many. `partner`: the other
    dimension of each one's pair. Angles are reduced in double precision: a long shift keeps its fraction of a turn."""
    angle = shift.to(tl.float64)[:, None] * inv_freq.to(tl.float64)[None, :]
    angle = (angle - tl.floor(angle * TURNS + 0.5) * TWO_PI).to(tl.float32)
    sine = tl.sin(angle)
    sine = tl.where(is_first[None, :], sine, -sine)
    return q.to(tl.float32) * tl.cos(angle) + partner.to(tl.float32) * sine


@triton.jit
def attend(
    q_ptr, k_ptr, v_ptr, k_tiles, v_tiles, out_ptr, part_ptr, lse_ptr, part_lse_ptr,
    items_ptr, lines_ptr, temperature_ptr, blocks_ptr, bounds_ptr, start_ptr, inv_freq_ptr,
    q_row, q_head, k_block, k_head, v_block, v_head, scale, cap,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, RATIO: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr,
    ROTARY: tl.constexpr, BLOCK: tl.constexpr, M: tl.constexpr, T: tl.constexpr, SHIFTED: tl.constexpr,
    CAPPED: tl.constexpr, DIRECT: tl.constexpr, BULK: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One item and key/value head: `part` (slots, H, D) and `part_lse` (slots, H), both float32.

    With DIRECT, the result of a row that has one slot goes to `out` (N, H, D) and `lse` (N, H) at once."""
    pid = tl.program_id(0)
    item = items_ptr + (pid // KV_HEADS).to(tl.int64) * 8
    kv_head = pid % KV_HEADS
    num_lines = tl.load(item + 1)
    if num_lines == 0:
        return
    line0, block0, num_blocks = tl.load(item), tl.load(item + 2), tl.load(item + 3)
    base, chunk = tl.load(item + 4), tl.load(item + 5)
    full0, full1 = tl.load(item + 6), tl.load(item + 7)

    m = tl.arange(0, M)
    d = tl.arange(0, PADDED)
    is_dim = d < SIZE
    t = tl.arange(0, T)
    nth = m // RATIO
    is_line = nth < num_lines
    line = lines_ptr + (line0 + tl.minimum(nth, num_lines - 1)).to(tl.int64) * 8
    row = tl.load(line)
    low = tl.load(line + 1) - base
    high = tl.where(is_line, tl.load(line + 2) - base, -1)
    head = kv_head * RATIO + m % RATIO
    q_at = q_ptr + row.to(tl.int64)[:, None] * q_row + head[:, None] * q_head
    q = tl.load(q_at + d[None, :], mask=is_dim[None, :], other=0.0)
    if SHIFTED:
        shift = tl.load(line + 3)
        if tl.max(tl.abs(shift), 0) > 0:
            is_first = d < ROTARY
            is_rotated = d < 2 * ROTARY
            other = tl.where(is_first, d + ROTARY, d - ROTARY)
            partner = tl.load(q_at + tl.where(is_rotated, other, d)[None, :], mask=is_dim[None, :], other=0.0)
            inv_freq = tl.load(inv_freq_ptr + tl.where(is_first, d, other), mask=is_rotated, other=0.0)
            q = _rotated(q, partner, shift, inv_freq, is_first).to(q.dtype)
    q = q.to(k_ptr.dtype.element_ty)
    inverse_temperature = tl.load(temperature_ptr + line0 + tl.minimum(nth, num_lines - 1))
    if CAPPED:
        factor = inverse_temperature * LOG2E
    else:
        factor = inverse_temperature * (scale * LOG2E)

    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, PADDED], tl.float32)
    k_at = k_ptr + kv_head * k_head + d[:, None] * BLOCK + (t % BLOCK)[None, :]
    v_at = v_ptr + kv_head * v_head + (t % BLOCK)[:, None] * SIZE + d[None, :]

    # Which blocks a tile is in is read one tile ahead, so that no load waits for another.
    if BULK:
        ids_at = blocks_ptr + block0
        block = tl.load(ids_at + full0, mask=full0 < full1, other=0)
    else:
        ids_at = blocks_ptr + block0 + t // BLOCK
        block = tl.load(ids_at + full0 * (T // BLOCK), mask=full0 < full1, other=0).to(tl.int64)
    for tile in tl.range(full0, full1, num_stages=STAGES):
        if BULK:
            following = tl.load(ids_at + tl.minimum(tile + 1, full1 - 1))
            k = k_tiles.load([(block * KV_HEADS + kv_head) * SIZE, 0])
        elif SIZE == PADDED:
            following = tl.load(ids_at + tl.minimum(tile + 1, full1 - 1) * (T // BLOCK)).to(tl.int64)
            k = tl.load(k_at + (block * k_block)[None, :])
        else:
            following = tl.load(ids_at + tl.minimum(tile + 1, full1 - 1) * (T // BLOCK)).to(tl.int64)
            k = tl.load(k_at + (block * k_block)[None, :], mask=is_dim[:, None], other=0.0)
        s = tl.dot(q, k, input_precision=PRECISION)
        if CAPPED:
            s = cap * (2.0 * tl.sigmoid(2.0 * (s * scale / cap)) - 1.0)
        s = s * factor[:, None]
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new_top[:, None])
        alpha = tl.exp2(top - new_top)
        total = total * alpha + tl.sum(p, 1)
        if BULK:
            v = v_tiles.load([(block * KV_HEADS + kv_head) * T, 0])
        elif SIZE == PADDED:
            v = tl.load(v_at + (block * v_block)[:, None])
        else:
            v = tl.load(v_at + (block * v_block)[:, None], mask=is_dim[None, :], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision=PRECISION)
        top = new_top
        block = following

    # What some lines do not see: before and behind the others. Slots that nobody sees may hold anything, NaN too.
    all_low, all_high = tl.min(tl.where(is_line, low, 1 << 30), 0), tl.max(high, 0)
    end = tl.minimum(num_blocks * BLOCK, all_high)
    num_tiles = (end + T - 1) // T
    for index in tl.range(0, num_tiles - (full1 - full0), num_stages=1):
        tile = tl.where(index < full0, index, index - full0 + full1)
        token = tile * T + t
        nth_block = token // BLOCK
        has_block = nth_block < num_blocks
        place_of = tl.load(blocks_ptr + block0 + nth_block, mask=has_block, other=0).to(tl.int64)
        bound = tl.load(bounds_ptr + block0 + nth_block, mask=has_block, other=0)
        is_there = (token % BLOCK >= (bound & 0xFFFF)) & (token % BLOCK < (bound >> 16))
        is_there = is_there & (token >= all_low) & (token < all_high)
        k = tl.load(k_at + (place_of * k_block)[None, :], mask=is_there[None, :] & is_dim[:, None], other=0.0)
        s = tl.dot(q, k, input_precision=PRECISION)
        if CAPPED:
            s = cap * (2.0 * tl.sigmoid(2.0 * (s * scale / cap)) - 1.0)
        is_seen = is_there[None, :] & (token[None, :] >= low[:, None]) & (token[None, :] < high[:, None])
        s = tl.where(is_seen, s * factor[:, None], float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        p = tl.exp2(s - safe_top[:, None])
        alpha = tl.exp2(top - safe_top)
        total = total * alpha + tl.sum(p, 1)
        v = tl.load(v_at + (place_of * v_block)[:, None], mask=is_there[:, None] & is_dim[None, :], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision=PRECISION)
        top = new_top

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    lse = tl.where(total == 0.0, float("-inf"), (top + tl.log2(total)) * LN2)
    at = chunk - tl.load(line + 5)
    is_stored = is_line & (at >= 0) & (at < tl.load(line + 6))
    if DIRECT:
        is_alone = is_stored & (tl.load(start_ptr + row + 1) - tl.load(start_ptr + row) == 1)
        place = row.to(tl.int64) * HEADS + head
        tl.store(
            out_ptr + place[:, None] * SIZE + d[None, :],
            acc.to(out_ptr.dtype.element_ty),
            mask=is_alone[:, None] & is_dim[None, :],
        )
        tl.store(lse_ptr + place, lse, mask=is_alone)
        is_stored = is_stored & (is_alone == 0)
    slot = (tl.load(line + 4) + at).to(tl.int64) * HEADS + head
    tl.store(part_ptr + slot[:, None] * SIZE + d[None, :], acc, mask=is_stored[:, None] & is_dim[None, :])
    tl.store(part_lse_ptr + slot, lse, mask=is_stored)


@triton.jit
def merge(
    part_ptr, part_lse_ptr, out_ptr, lse_ptr, start_ptr, group_ptr, factor_ptr, bias_ptr,
    HEADS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, S: tl.constexpr, GROUPS: tl.constexpr,
    PLAIN: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """One row and head: its slots to `out` (N, H, D) and `lse` (N, H).

    PLAIN: there is one group, and it is ordinary. DIRECT: `attend` has served rows that have one slot."""
    row, head = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(start_ptr + row), tl.load(start_ptr + row + 1)
    if DIRECT:
        if stop - start == 1:
            return
    d = tl.arange(0, PADDED)
    is_dim = d < SIZE
    s = tl.arange(0, S)
    total_top = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    total_acc = tl.zeros([PADDED], tl.float32)
    for group in tl.static_range(GROUPS):
        top = tl.full([], float("-inf"), tl.float32)
        weight_sum = tl.full([], 0.0, tl.float32)
        acc = tl.zeros([PADDED], tl.float32)
        for first in tl.range(start, stop, S):
            slot = first + s
            is_in = slot < stop
            if GROUPS > 1:
                is_in = is_in & (tl.load(group_ptr + slot, mask=is_in, other=-1) == group)
            at = slot.to(tl.int64) * HEADS + head
            lse = tl.load(part_lse_ptr + at, mask=is_in, other=float("-inf"))
            part = tl.load(part_ptr + at[:, None] * SIZE + d[None, :], mask=is_in[:, None] & is_dim[None, :], other=0.0)
            new_top = tl.maximum(top, tl.max(lse, 0))
            safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
            alpha, weight = tl.exp(top - safe_top), tl.exp(lse - safe_top)
            weight_sum = weight_sum * alpha + tl.sum(weight, 0)
            acc = acc * alpha + tl.sum(part * weight[:, None], 0)
            top = new_top
        # The same for plain plans: whether others have groups must not change a row's bits.
        is_none = weight_sum == 0.0
        joint = top + tl.log(tl.where(is_none, 1.0, weight_sum))
        if not PLAIN:
            joint = tl.load(factor_ptr + group) * joint + tl.load(bias_ptr + group)
        joint = tl.where(is_none, float("-inf"), joint)
        joint_top = tl.maximum(total_top, joint)
        joint_top = tl.where(joint_top == float("-inf"), 0.0, joint_top)
        kept, share = tl.exp(total_top - joint_top), tl.exp(joint - joint_top)
        total = total * kept + share
        total_acc = total_acc * kept + acc * (share / tl.where(is_none, 1.0, weight_sum))
        total_top = tl.maximum(total_top, joint)
    is_empty = total == 0.0
    place = row.to(tl.int64) * HEADS + head
    out = total_acc / tl.where(is_empty, 1.0, total)
    tl.store(out_ptr + place * SIZE + d, out.to(out_ptr.dtype.element_ty), mask=is_dim)
    lse = tl.where(is_empty, float("-inf"), total_top + tl.log(tl.where(is_empty, 1.0, total)))
    tl.store(lse_ptr + place, lse)


@triton.jit
def rope_and_store(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, slots_ptr, k_pool_ptr, v_pool_ptr, q_norm_ptr, k_norm_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head, kp_block, kp_head, vp_block, vp_head, eps,
    HEADS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, ROTARY: tl.constexpr, BLOCK: tl.constexpr,
    Q_NORMED: tl.constexpr, K_NORMED: tl.constexpr,
):  # fmt: skip
    """One row and one head, first of queries, then of keys (and values). In one warp: queries change in place, after
    all of its lanes have read them."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, PADDED)
    is_dim = d < SIZE
    is_first, is_rotated = d < ROTARY, d < 2 * ROTARY
    other = tl.where(is_rotated, tl.where(is_first, d + ROTARY, d - ROTARY), d)
    pair = tl.where(is_first, d, d - ROTARY)
    cos = tl.load(cos_ptr + row * ROTARY + pair, mask=is_rotated, other=1.0)
    sin = tl.load(sin_ptr + row * ROTARY + pair, mask=is_rotated, other=0.0)
    sin = tl.where(is_first, -sin, sin)
    is_query = head < HEADS
    if is_query:
        at = q_ptr + row * q_row + head * q_head
        norm_ptr = q_norm_ptr
    else:
        at = k_ptr + row * k_row + (head - HEADS) * k_head
        norm_ptr = k_norm_ptr
    x = tl.load(at + d, mask=is_dim, other=0.0).to(tl.float32)
    partner = tl.load(at + other, mask=is_dim, other=0.0).to(tl.float32)
    if Q_NORMED or K_NORMED:
        is_normed = is_dim
        if not Q_NORMED:
            is_normed = is_normed & (head >= HEADS)
        if not K_NORMED:
            is_normed = is_normed & (head < HEADS)
        root = tl.rsqrt(tl.sum(x * x, 0) / SIZE + eps)
        x = tl.where(is_normed, x * root * tl.load(norm_ptr + d, mask=is_normed, other=0.0), x)
        partner = tl.where(is_normed, partner * root * tl.load(norm_ptr + other, mask=is_normed, other=0.0), partner)
    x = x * cos + partner * sin
    if is_query:
        tl.store(at + d, x.to(q_ptr.dtype.element_ty), mask=is_dim)
    else:
        slot = tl.load(slots_ptr + row)
        if slot >= 0:
            block, offset, kv_head = slot // BLOCK, slot % BLOCK, head - HEADS
            value = tl.load(v_ptr + row * v_row + kv_head * v_head + d, mask=is_dim, other=0.0)
            k_at = k_pool_ptr + block * kp_block + kv_head * kp_head + d * BLOCK + offset
            v_at = v_pool_ptr + block * vp_block + kv_head * vp_head + offset * SIZE + d
            tl.store(k_at, x.to(k_pool_ptr.dtype.element_ty), mask=is_dim)
            tl.store(v_at, value.to(v_pool_ptr.dtype.element_ty), mask=is_dim)
