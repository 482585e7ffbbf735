"""The Triton kernels against the float64 reference: on a GPU, or interpreted on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from plait.attention import AttentionPlan, Group, rope_and_store, span_attention
from plait.tests.attention.gpu.views import APE, VIEWS, Call, View, make_call
from plait.tests.attention.scenes import Scene, alone, make_plan, make_pools, scenes
from plait.tests.attention.test_span_attention import GOLDEN, NEGATIVE
from plait.tests.attention.test_store import _expected, _tables

# numpy says so of what the interpreter computes and no row is given: the logarithm of nothing, NaN in unseen slots.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
IS_CUDA = torch.cuda.is_available()
on_cuda = pytest.mark.skipif(not IS_CUDA, reason="needs a GPU")
KINDS = [(torch.float32, 16), (torch.float16, 64)]
"""Of pools, and tokens per block. The interpreter has no bfloat16."""
if IS_CUDA:
    KINDS += [(torch.bfloat16, 16), (torch.bfloat16, 32), (torch.bfloat16, 64), (torch.float32, 64)]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def run(call: Call, impl: Any, **options: Any) -> tuple[Tensor, Tensor]:
    options.setdefault("inv_freq", call.inv_freq)
    scale = call.q.shape[2] ** -0.5
    return span_attention(
        call.q, call.k_pool, call.v_pool, call.plan, scale=scale, impl=impl, return_lse=True, **options
    )


def check(call: Call, *, is_invariant: bool = True, **options: Any) -> None:
    out, lse = run(call, "triton", is_invariant=is_invariant, **options)
    expected, expected_lse = run(call, "reference", **options)
    assert out.dtype == call.q.dtype and lse.dtype == torch.float32
    tolerance = TOLERANCE[call.k_pool.dtype]
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse, expected_lse, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("is_invariant", [True, False])
@pytest.mark.parametrize(("dtype", "block_size"), KINDS)
@pytest.mark.parametrize("name", VIEWS)
def test_equals_the_reference(
    name: str, dtype: torch.dtype, block_size: int, is_invariant: bool, device: torch.device
) -> None:
    check(make_call(VIEWS[name], device, dtype=dtype, block_size=block_size), is_invariant=is_invariant)


SHAPES = [(2, 2, 16), (3, 1, 24), (7, 1, 32), (6, 2, 96), (2, 1, 128)]
if IS_CUDA:
    SHAPES += [(16, 1, 64), (28, 4, 128), (8, 2, 256), (32, 8, 128)]


@pytest.mark.parametrize(("dtype", "block_size"), [(torch.float32, 32), *KINDS[1:]])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
def test_heads_and_their_sizes(
    heads: int, kv_heads: int, size: int, dtype: torch.dtype, block_size: int, device: torch.device
) -> None:
    """With dims behind those that turn, and more rows than a tile of some of these shapes holds."""
    entries = [(0, 6, 0, 0, 70, 0, 11, 0), (0, 6, 1, 0, 20, 1, 0, 0)]
    view = View((70, 20), entries, 6)
    call = make_call(
        view, device, heads=heads, kv_heads=kv_heads, size=size, dtype=dtype, block_size=block_size, rotary=size // 4
    )
    check(call, is_invariant=False)


@pytest.mark.parametrize("name", ["shared prefix and own", "groups", "shifts"])
def test_caps_scores(name: str, device: torch.device) -> None:
    call = make_call(VIEWS[name], device)
    call.q *= 4
    check(call, cap=1.5)
    assert not torch.allclose(run(call, "triton", cap=1.5)[0], run(call, "triton")[0])


@pytest.mark.parametrize("window", [1, 40, 100])
@pytest.mark.parametrize("is_invariant", [True, False])
def test_windows(window: int, is_invariant: bool, device: torch.device) -> None:
    call = make_call(VIEWS["causal prefill"], device)
    plan = replace(call.plan, run_position=np.array([0, 70], dtype=np.int32)).within(np.arange(141, 150), window)
    assert len(plan.entries) > len(call.plan.entries) or window < 80
    check(replace(call, plan=plan), is_invariant=is_invariant)


@pytest.mark.parametrize(
    ("scores", "temperature", "strength", "expected"),
    [((2.0, 0.0, 1.0), *line) for line in GOLDEN] + [((-3.0, -4.0, -5.0), *line) for line in NEGATIVE],
)
def test_golden_ape_values(
    scores: tuple[float, ...], temperature: float, strength: float, expected: float, device: torch.device
) -> None:
    q = torch.zeros(1, 1, 32)
    q[0, 0, 0] = 1.0
    k_pool, v_pool = torch.zeros(5, 1, 32, 16), torch.zeros(5, 1, 16, 32)
    for block, (score, value) in enumerate(zip((1.0, 0.5, *scores), (1.0, 2.0, 10.0, 20.0, 30.0), strict=True)):
        k_pool[block, 0, 0, 0], v_pool[block, 0, 0] = score, value
    groups = (Group(), Group(temperature=temperature, factor=strength * temperature))
    entries = [(0, 1, run, 0, 1, 0, 0, int(run >= 2)) for run in range(5)]
    plan = make_plan(1, [[block] for block in range(5)], entries, groups)
    q, k_pool, v_pool = (part.to(device) for part in (q, k_pool, v_pool))
    out = span_attention(q, k_pool, v_pool, plan, scale=1.0, impl="triton")
    assert out[0, 0].tolist() == pytest.approx([expected] * 32, abs=2e-5)


def test_a_group_alone_that_is_not_ordinary(device: torch.device) -> None:
    view = replace(VIEWS["shared prefix and own"], groups=(Group(temperature=0.7, factor=0.5, bias=2.0),))
    check(make_call(view, device))


@pytest.mark.parametrize("tokens", [60, 700])
def test_groups_of_other_rows_do_not_change_bits(tokens: int, device: torch.device) -> None:
    runs, entries = (tokens, 90), [(0, 1, 0, 0, tokens, 1, 0, 0), (1, 1, 1, 0, 90, 0, 0, 1)]
    both = make_call(View(runs, entries, 2, APE), device)
    out, lse = run(both, "triton")
    plan = make_plan(1, [both.plan.run_blocks[: both.plan.run_start[1]].tolist()], entries[:1])
    single, single_lse = run(replace(both, q=both.q[:1], plan=plan), "triton")
    assert torch.equal(single[0], out[0]) and torch.equal(single_lse[0], lse[0])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_scores_stay_finite_and_exact(sign: float, device: torch.device) -> None:
    k_pool, v_pool = make_pools(4, 1, 32)
    k_pool[:] = sign * 1e4 / 32
    k_pool[2, 0, :, 3] += 100.0  # one key wins by far
    plan = make_plan(1, [[0, 1], [2, 3]], [(0, 1, 0, 0, 32, 0, 0, 0), (0, 1, 1, 0, 32, 0, 0, 0)])
    q, k_pool, v_pool = (part.to(device) for part in (torch.ones(1, 1, 32), k_pool, v_pool))
    out, lse = span_attention(q, k_pool, v_pool, plan, scale=1.0, impl="triton", return_lse=True)
    torch.testing.assert_close(out[0, 0], v_pool[2, 0, 3])
    assert lse[0, 0].item() == pytest.approx(sign * 1e4 + 3200.0, rel=1e-6)


def test_queries_may_be_strided_and_finer_than_the_pools(device: torch.device) -> None:
    call = make_call(VIEWS["shared prefix and own"], device, dtype=torch.float16)
    wide = torch.randn(3, 9, 40, device=device)
    call.q = wide[:, 2:6, :32]
    check(call)


def test_writes_into_the_given_tensor(device: torch.device) -> None:
    call = make_call(VIEWS["shared prefix and own"], device)
    out = torch.full_like(call.q, torch.nan)
    assert run(call, "triton", out=out)[0] is out
    assert torch.equal(out, run(call, "triton")[0])


def test_nothing_to_see_and_nobody_to_see_it(device: torch.device) -> None:
    k_pool, v_pool = (pool.to(device) for pool in make_pools(1, 1, 32))
    for rows in (0, 3):
        plan = make_plan(rows, [], [])
        q = torch.randn(rows, 2, 32, device=device)
        out, lse = span_attention(q, k_pool, v_pool, plan, scale=1.0, impl="triton", return_lse=True)
        assert out.shape == q.shape and out.eq(0).all() and lse.eq(float("-inf")).all()


def _refused(match: str, q: Tensor, k_pool: Tensor, v_pool: Tensor) -> None:
    plan = make_plan(1, [[0]], [(0, 1, 0, 0, 4, 0, 0, 0)])
    with pytest.raises(ValueError, match=match):
        span_attention(q, k_pool, v_pool, plan, scale=1.0, impl="triton")
    cos = torch.ones(1, 4, device=q.device)
    keys = torch.zeros(1, k_pool.shape[1], q.shape[2], dtype=q.dtype, device=q.device)
    with pytest.raises(ValueError, match=match), torch.set_grad_enabled(q.requires_grad):
        rope_and_store(q, keys, keys, cos, cos, torch.tensor([0], device=q.device), k_pool, v_pool, impl="triton")


def test_what_the_kernels_have_not_is_refused(device: torch.device) -> None:
    def pools(heads: int = 1, size: int = 32, block_size: int = 16, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return [pool.to(device) for pool in make_pools(1, heads, size, block_size, dtype)]

    q = torch.zeros(1, 2, 32, device=device)
    _refused("no blocks of 48 tokens", q, *pools(block_size=48))
    _refused("no blocks of 128 tokens", q, *pools(block_size=128))
    _refused(r"no dtype torch.float64", q.double(), *pools())
    _refused(r"no pools of torch.float64", q, *pools(dtype=torch.float64))
    _refused("no gradients", q.clone().requires_grad_(), *pools())
    _refused("no head size 8", torch.zeros(1, 2, 8, device=device), *pools(size=8))
    _refused("no head size 272", torch.zeros(1, 2, 272, device=device), *pools(size=272))
    _refused("no 17 query heads", torch.zeros(1, 17, 32, device=device), *pools())
    _refused("no 65 query heads", torch.zeros(1, 65, 32, device=device).half(), *pools(dtype=torch.float16))
    _refused("no rows with gaps", torch.zeros(1, 32, 2, device=device).transpose(1, 2), *pools())
    turned = torch.zeros(1, 1, 16, 32, device=device).transpose(2, 3)
    _refused("no pools with gaps", q, turned, pools()[1])
    with pytest.raises(ValueError, match="pools have four dimensions"):
        span_attention(q, pools()[0][0], pools()[1], make_plan(1, [], []), scale=1.0, impl="triton")


def test_a_shift_needs_frequencies_each_time(device: torch.device) -> None:
    call = make_call(VIEWS["shifts"], device)
    run(call, "triton")
    with pytest.raises(ValueError, match="inv_freq"):
        run(call, "triton", inv_freq=None)


def test_a_plan_that_points_outside_is_refused(device: torch.device) -> None:
    call = make_call(VIEWS["shifts"], device)
    for entry, message in (((0, 4, 0, 0, 4, 0, 0, 0), "rows"), ((0, 1, 0, 0, 145, 0, 0, 0), "inside the blocks")):
        plan = replace(call.plan, entries=np.array([entry], dtype=np.int32))
        with pytest.raises(ValueError, match=message):
            run(replace(call, plan=plan), "triton")


STORES = [(torch.float32, torch.float32, 16), (torch.float16, torch.float16, 64), (torch.float32, torch.float16, 32)]
if IS_CUDA:
    STORES += [(torch.bfloat16, torch.bfloat16, 16), (torch.bfloat16, torch.bfloat16, 64)]


@pytest.mark.parametrize(("dtype", "pool_dtype", "block_size"), STORES)
@pytest.mark.parametrize(("size", "pairs"), [(32, 16), (24, 12), (40, 10), (128, 64)])
@pytest.mark.parametrize("normed", ["", "qk", "q", "k"])
def test_rotates_and_stores(
    dtype: torch.dtype, pool_dtype: torch.dtype, block_size: int, size: int, pairs: int, normed: str,
    device: torch.device,
) -> None:  # fmt: skip
    """As plain torch does, and as the formulas say."""
    rows, heads, kv_heads, blocks = 5, 3, 1, 3
    widths = [heads * size, kv_heads * size, kv_heads * size]
    qkv = torch.randn(rows, sum(widths)).to(dtype)
    norms = [torch.rand(size) + 0.5 if name in normed else None for name in "qk"]
    cos, sin = _tables(torch.tensor([0, 1, 40, 7, 5000]), pairs)
    slots = torch.tensor([0, block_size + 1, -1, 3 * block_size - 1, 5])
    pools = [torch.full((blocks, kv_heads, size, block_size), 7.0, dtype=pool_dtype)]
    pools.append(torch.full((blocks, kv_heads, block_size, size), 7.0, dtype=pool_dtype))

    def stored(impl: Any, at: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        copy = qkv.clone().to(at)
        q, k, v = (part.view(rows, -1, size) for part in copy.split(widths, dim=1))
        q_norm, k_norm = (None if norm is None else norm.to(at) for norm in norms)
        k_pool, v_pool = (pool.clone().to(at) for pool in pools)
        rope_and_store(
            q, k, v, cos.to(at), sin.to(at), slots.to(at), k_pool, v_pool, q_norm=q_norm, k_norm=k_norm, impl=impl
        )
        return copy.cpu(), k_pool.cpu(), v_pool.cpu()

    mine, plain = stored("triton", device), stored("torch", torch.device("cpu"))
    tolerance = max(1e-5, TOLERANCE[dtype], TOLERANCE[pool_dtype]) / 2
    for got, expected in zip(mine, plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    expected_q = _expected(qkv[:, : widths[0]].view(rows, heads, size), cos, sin, norms[0], 1e-6).flatten(1)
    torch.testing.assert_close(mine[0][:, : widths[0]].double(), expected_q, rtol=tolerance, atol=tolerance)
    assert torch.equal(mine[0][:, widths[0] :], qkv[:, widths[0] :])
    written = torch.zeros(blocks * block_size, dtype=torch.bool)
    written[slots[slots >= 0]] = True
    flat = mine[1].permute(0, 3, 1, 2).flatten(0, 1), mine[2].transpose(1, 2).flatten(0, 1)
    for pool in flat:
        assert pool[~written].eq(7).all() and not pool[written].eq(7).all()


def test_stores_nothing(device: torch.device) -> None:
    k_pool, v_pool = (pool.to(device) for pool in make_pools(1, 1, 32))
    q, k = torch.zeros(0, 2, 32, device=device), torch.zeros(0, 1, 32, device=device)
    cos, slots = torch.zeros(0, 16, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    before = k_pool.clone()
    rope_and_store(q, k, k, cos, cos, slots, k_pool, v_pool, impl="triton")
    assert torch.equal(k_pool, before)


def _on_cuda(scene: Scene) -> Call | None:
    """None: the kernels have no such blocks or pools."""
    if 64 % scene.k_pool.shape[3] or scene.k_pool.dtype == torch.int8:
        return None
    inv_freq = torch.zeros(1) if scene.inv_freq is None else scene.inv_freq
    return Call(scene.q.cuda(), scene.k_pool.cuda(), scene.v_pool.cuda(), scene.plan, inv_freq.cuda())


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("is_invariant", [True, False])
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes())
def test_equals_the_reference_on_random_views(is_invariant: bool, scene: Scene) -> None:
    call = _on_cuda(scene)
    if call is not None:
        check(call, is_invariant=is_invariant)


@pytest.mark.gpu
@on_cuda
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes())
def test_a_row_alone_gets_the_same_bits(scene: Scene) -> None:
    call = _on_cuda(scene)
    if call is None:
        return
    plan = call.plan
    prefills = np.zeros(plan.num_rows, dtype=np.bool_)
    for row, count in plan.entries[:, :2].tolist():
        prefills[row : row + count] = count > 1
    plan = replace(plan, is_prefill=prefills)
    out, lse = run(replace(call, plan=plan), "triton")
    for row in range(plan.num_rows):
        single, single_lse = run(replace(call, q=call.q[row : row + 1], plan=alone(plan, row)), "triton")
        assert torch.equal(single[0], out[row])
        assert torch.equal(single_lse[0], lse[row])


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize(("dtype", "block_size"), KINDS)
@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("begin", [0, 10])
def test_prefill_whole_and_in_parts_agree_in_bits(
    dtype: torch.dtype, block_size: int, size: int, begin: int, device: torch.device
) -> None:
    tokens, blocks = 300, -(-300 // block_size)
    k_pool, v_pool = (pool.to(device) for pool in make_pools(blocks, 2, size, block_size, dtype))
    q = torch.randn(tokens, 6, size, device=device).to(dtype)
    outs = []
    for step in (300, 128, 7, 1):
        parts = []
        for start in range(0, tokens, step):
            rows = min(step, tokens - start)
            plan: AttentionPlan = make_plan(
                rows, [list(range(blocks))], [(0, rows, 0, min(begin, start), start + rows, 1, 0, 0)]
            )
            plan = replace(plan, is_prefill=np.ones(rows, dtype=np.bool_))
            parts.append(span_attention(q[start : start + rows], k_pool, v_pool, plan, scale=0.1, impl="triton"))
        outs.append(torch.cat(parts)[20:])  # those that see `begin` in each of them
    assert all(torch.equal(out, outs[0]) for out in outs[1:])
