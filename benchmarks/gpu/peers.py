"""Others' attention on the same keys and values: torch's SDPA and FlexAttention, FlashInfer's cascade.

    python -m plait.benchmarks.gpu.peers        compile what FlashInfer compiles before its first use

Each peer gets what it reads in the form that it likes best, free of charge: SDPA copies of all that a branch sees, one
behind the other, rotated where they are moved; the others the runs, once each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...attention.reference import rotate
from .workloads import BLOCK, Workload, decode

Tensors = tuple[Tensor, Tensor, Tensor]
"""q, k_pool and v_pool."""
Attend = Callable[[], Tensor]
"""The result of all rows, (N, H, D)."""


def replicated(workload: Workload, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values (S, K, T, D) of each sequence, and which of them are no padding, (S, T); None: all.

    A sequence is what the last row of each causal entry sees.
    """
    _, k_pool, v_pool = tensors
    device, inv_freq = k_pool.device, workload.inv_freq(k_pool.device)
    last = [row + rows - 1 for row, rows, *_, is_causal, _, _ in workload.entries if is_causal]
    seen = [workload.lines[workload.lines[:, 0] == row] for row in last]
    longest = max(int((lines[:, 3] - lines[:, 2]).sum()) for lines in seen)
    shape = len(last), workload.kv_heads, longest, workload.size
    keys, values = (torch.zeros(shape, dtype=k_pool.dtype, device=device) for _ in range(2))
    is_there = torch.zeros(len(last), longest, dtype=torch.bool, device=device)
    for i, lines in enumerate(seen):
        at = 0
        for _, run, begin, end, shift, _ in lines.tolist():
            k, v = _run(workload, k_pool, v_pool, run)
            k, to = k[:, begin:end], at + end - begin
            if shift and inv_freq is not None:
                k = rotate(k.double(), shift * inv_freq.double())
            keys[i, :, at:to], values[i, :, at:to] = k.to(keys.dtype), v[:, begin:end]
            at = to
        is_there[i, :at] = True
    return keys, values, None if bool(is_there.all()) else is_there


def _run(workload: Workload, k_pool: Tensor, v_pool: Tensor, run: int) -> tuple[Tensor, Tensor]:
    """(K, tokens, D) each."""
    blocks = torch.from_numpy(workload.tables[run].astype(np.int64)).to(k_pool.device)
    keys = k_pool[blocks].permute(1, 0, 3, 2).flatten(1, 2)
    values = v_pool[blocks].permute(1, 0, 2, 3).flatten(1, 2)
    return keys[:, : workload.lengths[run]], values[:, : workload.lengths[run]]


def sdpa(workload: Workload, tensors: Tensors) -> tuple[Attend, str]:
    """Decoding by SDPA with `enable_gqa`, and the backend that torch chooses."""
    keys, values, is_there = replicated(workload, tensors)
    mask = None if is_there is None else is_there[:, None, None, :]
    return _sdpa(tensors[0][:, :, None], keys, values, mask, enable_gqa=True)


def sdpa_folded(workload: Workload, tensors: Tensors) -> tuple[Attend, str]:
    """Decoding by SDPA with the query heads of one key head as rows: fewer reads, and more backends that can serve."""
    keys, values, is_there = replicated(workload, tensors)
    q = tensors[0].view(len(keys), workload.kv_heads, -1, workload.size)
    mask = None
    if is_there is not None:
        mask = is_there[:, None, None, :].expand(-1, workload.kv_heads, q.shape[2], -1)
    return _sdpa(q, keys, values, mask, enable_gqa=False)


def _sdpa(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, enable_gqa: bool) -> tuple[Attend, str]:
    def attend() -> Tensor:
        out = functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=enable_gqa)
        return out.reshape(len(q), -1, q.shape[3])

    choose: Any = torch._fused_sdp_choice
    chosen = choose(q, keys, values, attn_mask=mask, dropout_p=0.0, is_causal=False, enable_gqa=enable_gqa)
    return attend, _backend(chosen)


def sdpa_prefill(workload: Workload, tensors: Tensors) -> tuple[Attend, str]:
    """Causal SDPA over all heads' own copies of the keys."""
    from torch.nn.attention.bias import causal_lower_right

    keys, values, _ = replicated(workload, tensors)
    ratio, sequences = workload.heads // workload.kv_heads, len(keys)
    keys, values = keys.repeat_interleave(ratio, 1), values.repeat_interleave(ratio, 1)
    q = tensors[0].view(sequences, -1, workload.heads, workload.size).transpose(1, 2).contiguous()
    is_square = q.shape[2] == keys.shape[2]
    bias: Any = None if is_square else causal_lower_right(q.shape[2], keys.shape[2])

    def attend() -> Tensor:
        out = functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias, is_causal=is_square)
        return out.transpose(1, 2).reshape(-1, workload.heads, workload.size)

    if not is_square:
        return attend, "causal_lower_right"
    choose: Any = torch._fused_sdp_choice
    return attend, _backend(choose(q, keys, values, dropout_p=0.0, is_causal=True))


def _backend(number: int) -> str:
    from torch.nn.attention import SDPBackend

    names = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}
    return names.get(int(number), str(number)).lower()


def flex(workload: Workload, tensors: Tensors) -> tuple[Attend, str]:
    """Decoding by FlexAttention over all runs, once each, with a mask that says which row sees which run. Compiled on
    CUDA."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k_pool, v_pool = tensors
    device = q.device
    runs = [_run(workload, k_pool, v_pool, run) for run in range(len(workload.lengths))]
    keys, values = (torch.cat(parts, dim=1)[None] for parts in zip(*runs, strict=True))
    run_of = torch.repeat_interleave(torch.tensor(workload.lengths)).to(device)
    sees = torch.zeros(workload.rows, len(workload.lengths), dtype=torch.bool)
    sees[torch.from_numpy(workload.lines[:, 0].copy()), torch.from_numpy(workload.lines[:, 1].copy())] = True
    sees = sees.to(device)

    def is_seen(_batch: Tensor, _head: Tensor, row: Tensor, token: Tensor) -> Tensor:
        return sees[row, run_of[token]]

    mask = create_block_mask(is_seen, None, None, workload.rows, keys.shape[2], device=str(device))
    torch._dynamo.config.recompile_limit = 64  # one for each shape
    compiled: Any = torch.compile(flex_attention, dynamic=False) if device.type == "cuda" else flex_attention
    query = q.transpose(0, 1)[None].contiguous()

    def attend() -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
            out: Tensor = compiled(query, keys, values, block_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend, "compiled" if device.type == "cuda" else "eager"


def has_flashinfer() -> bool:
    return find_spec("flashinfer") is not None


def flashinfer(workload: Workload, tensors: Tensors) -> tuple[Attend, str]:
    """Decoding by FlashInfer's cascade: a level for the shared prefix, if any, and one for the branches' own tokens."""
    import flashinfer

    q, k_pool, v_pool = tensors
    device, rows = q.device, workload.rows
    # (pages, 2, tokens, K, D).
    pages = torch.stack([k_pool.permute(0, 3, 1, 2), v_pool.permute(0, 2, 1, 3)], dim=1).contiguous()
    own = list(range(len(workload.lengths) - rows, len(workload.lengths)))
    levels = [([0, rows], [0])] if len(own) < len(workload.lengths) else []
    levels.append((list(range(rows + 1)), own))

    def ints(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    wrapper: Any = flashinfer.MultiLevelCascadeAttentionWrapper(
        len(levels), torch.empty(256 << 20, dtype=torch.uint8, device=device), "NHD"
    )
    for level in wrapper._batch_prefill_wrappers:
        level._backend = "fa2"  # the other one takes minutes to compile, and reads no faster
    tables = [[workload.tables[run] for run in runs] for _, runs in levels]
    wrapper.plan(
        [ints(rows_of) for rows_of, _ in levels],
        [ints([0, *np.cumsum([len(table) for table in level]).tolist()]) for level in tables],
        [ints(np.concatenate(level)) for level in tables],
        [ints([(workload.lengths[run] - 1) % BLOCK + 1 for run in runs]) for _, runs in levels],
        workload.heads, workload.kv_heads, workload.size, BLOCK,
        q_data_type=workload.dtype, kv_data_type=workload.dtype,
    )  # fmt: skip

    def attend() -> Tensor:
        out: Tensor = wrapper.run(q, pages)
        return out

    return attend, f"{len(levels)} level(s), fa2, version {flashinfer.__version__}"


def main() -> None:
    if has_flashinfer() and torch.cuda.is_available():
        tiny = decode("", 2, 32, 16)
        flashinfer(tiny, tiny.tensors(torch.device("cuda"), 0))[0]()


if __name__ == "__main__":
    main()
