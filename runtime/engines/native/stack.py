"""`KernelStack`: a whole forward pass in one call, attention included."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....attention import AttentionPlan, cpu
from ....attention.library import CallArguments, StoreArguments
from ....attention.span import choose_kernels
from ...errors import InvalidInput
from .config import ModelConfig
from .kernels import BAD_SLOT, BAD_TOKEN, INTERRUPTED, BurstArguments, StackArguments, StepArguments
from .model import Interrupted, LayerOps
from .ops import KernelOps
from .pool import KVPool
from .rope import RopeConfig
from .sampler import burst_arguments
from .sampling import Decoded, Draws
from .weights import Weights


class KernelStack:
    """The layers of a `KernelOps` with attention's compiled kernels between their halves.

    Python pays for one call per step instead of some five per layer, which on a small model is most of a step.
    """

    scores = True
    singles = False

    def __init__(self, ops: KernelOps, kernels: ctypes.CDLL, num_threads: int) -> None:
        config, packed = ops.config, ops.packed
        self._ops = ops
        self._kernels = kernels
        self._num_threads = num_threads
        rope = _rope_of(config)
        assert rope is not None
        self._inv_freq = inv_freq = rope.inv_freq(config.head_dim)
        self._pool: KVPool | None = None
        self._capacity = 0
        self._buffers: dict[str, Tensor] = {}
        self._norms = [
            [None if norm is None else norm.detach().float().contiguous() for norm in (layer.q_norm, layer.k_norm)]
            for layer in ops.weights.layers
        ]
        self._stores = (StoreArguments * config.num_layers)()
        self._calls = (CallArguments * config.num_layers)()
        self._store_at, self._call_at = _addresses(self._stores), _addresses(self._calls)
        self._rows = -1
        """As the arguments of the layers have it."""
        self._stack: Any = StackArguments(
            embedding=ctypes.addressof(packed.embedding), head=ctypes.addressof(packed.head),
            layers=ctypes.addressof(packed.layers), norm=packed.norm,
            num_layers=config.num_layers, vocabulary=config.vocab_size,
            rope_and_store=ctypes.cast(kernels.plait_rope_and_store, ctypes.c_void_p),
            prepare=ctypes.cast(kernels.plait_attention_prepare, ctypes.c_void_p),
            attend=ctypes.cast(kernels.plait_attention_run, ctypes.c_void_p),
            store_arguments=ctypes.addressof(self._store_at), attend_arguments=ctypes.addressof(self._call_at),
            inv_freq=inv_freq.data_ptr(), rotary=len(inv_freq), attention_factor=rope.attention_factor,
        )  # fmt: skip
        self._step: Any = StepArguments()
        self._at = [ctypes.addressof(part) for part in (self._stack, ops.work, self._step)]

    @property
    def num_bytes(self) -> int:
        """Of the weights."""
        return self._ops.packed.num_bytes

    def refresh(self, weights: Weights) -> None:
        """Take over norms that changed."""
        for kept, layer in zip(self._norms, weights.layers, strict=True):
            for norm, changed in zip(kept, (layer.q_norm, layer.k_norm), strict=True):
                if norm is not None and changed is not None:
                    norm.copy_(changed.detach())

    @staticmethod
    def fitting(ops: LayerOps, num_threads: int) -> KernelStack | None:
        """Of these `ops`, if they and attention's kernels can serve the model."""
        if not isinstance(ops, KernelOps) or _rope_of(ops.config) is None or ops.config.attention_cap is not None:
            return None
        kernels = choose_kernels("auto", torch.empty(1, ops.config.num_heads, ops.config.head_dim))
        return None if kernels is None else KernelStack(ops, kernels, num_threads)

    def forward(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan, pool: KVPool,
        logit_rows: Tensor | None, interrupt: ctypes.c_int32 | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `Model.forward`."""
        positions = positions.float()
        if logit_rows is None:
            logit_rows = torch.arange(len(tokens))
        hidden, logits, _prepared = self._enter(tokens, positions, slots, plan, pool, logit_rows, interrupt)
        self._check(self._ops.library.plait_forward(*self._at), pool)
        config = self._ops.config
        return logits[:, : config.vocab_size], hidden[:, : config.hidden_size]

    def decode(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan, pool: KVPool,
        steps: int, stop_start: Tensor, stop_ids: Tensor, interrupt: ctypes.c_int32, draws: Draws | None,
    ) -> Decoded:  # fmt: skip
        """See `Model.decode`."""
        assert positions.dtype == torch.float32
        rows = len(tokens)
        sampled = torch.empty(steps, rows, dtype=torch.int64)
        numbers = None if draws is None else np.empty((3, steps, rows))
        sampling = None if draws is None or numbers is None else burst_arguments(draws, numbers)
        logit_rows = torch.arange(rows)
        _results = self._enter(tokens, positions, slots, plan, pool, logit_rows, interrupt)
        arguments = _results[2].arguments
        burst = BurstArguments(
            steps=steps, sampled=sampled.data_ptr(),
            stop_start=stop_start.data_ptr(), stop_ids=stop_ids.data_ptr(),
            plan_arguments=ctypes.addressof(arguments), entries=arguments.entries,
            run_blocks=arguments.run_blocks, run_start=arguments.run_start,
            num_entries=len(plan.entries), block_size=pool.block_size,
            draws=None if sampling is None else ctypes.addressof(sampling),
        )  # fmt: skip
        done: int = self._ops.library.plait_decode(*self._at, ctypes.addressof(burst))
        self._check(done or INTERRUPTED, pool)
        return Decoded(sampled[:done], None if numbers is None else numbers[1:, :done])

    def angles(self, positions: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
        """See `Stack`."""
        positions = positions.float().contiguous()
        rows, rotary = len(positions), len(inv_freq)
        cosine, sine = torch.empty(2, rows, rotary)
        self._ops.library.plait_angles(
            positions.data_ptr(), inv_freq.data_ptr(), rows, rotary, cosine.data_ptr(), sine.data_ptr()
        )
        return cosine, sine

    def _check(self, result: int, pool: KVPool) -> None:
        if result == BAD_TOKEN:
            raise self._ops.bad_token()
        if result == BAD_SLOT:
            raise InvalidInput(f"a slot lies beyond the pool of {pool.num_blocks} blocks of {pool.block_size}")
        if result == INTERRUPTED:
            raise Interrupted

    def _enter(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, plan: AttentionPlan, pool: KVPool, logit_rows: Tensor,
        interrupt: ctypes.c_int32 | None,
    ) -> tuple[Tensor, Tensor, cpu.Prepared]:  # fmt: skip
        """Fill in the arguments of a step. Returns what these point to and the caller does not have: room for hidden
        states and logits, and attention's plan."""
        ops, step, config = self._ops, self._step, self._ops.config
        rows = len(tokens)
        for tensor in (tokens, positions, slots, logit_rows):
            assert tensor.is_contiguous()
        assert plan.num_rows == rows and tokens.dtype == slots.dtype == logit_rows.dtype == torch.int64
        ops.reserve(rows)
        hidden, logits = ops.results(len(logit_rows))
        if pool is not self._pool or ops.capacity != self._capacity:
            self._place(pool)
        if rows != self._rows:
            self._rows = rows
            for store in self._stores:
                store.rows = rows
        prepared = cpu.Prepared(
            self._kernels, plan, config.num_heads, config.head_dim, pool.k[0].shape, self._num_threads
        )
        prepared.rotate_by(self._inv_freq, config.head_dim)
        step.tokens, step.positions, step.slots = tokens.data_ptr(), positions.data_ptr(), slots.data_ptr()
        step.logit_rows, step.rows, step.num_logits = logit_rows.data_ptr(), rows, len(logit_rows)
        step.attention_plan = prepared.work
        step.interrupt = None if interrupt is None else ctypes.addressof(interrupt)
        step.hidden, step.hidden_stride, step.logits = hidden.data_ptr(), hidden.stride(0), logits.data_ptr()
        return hidden, logits, prepared

    def _place(self, pool: KVPool) -> None:
        """Make the arguments of all layers anew: for another pool, or after the buffers grew."""
        ops, config = self._ops, self._ops.config
        self._pool, self._capacity, self._rows = pool, ops.capacity, -1
        q, k, v = ops.heads(ops.capacity)
        cosine, sine = (torch.empty(ops.capacity, len(self._inv_freq)) for _ in range(2))
        slots = torch.zeros(ops.capacity, dtype=torch.int64)
        attended = torch.empty(ops.capacity, config.num_heads, config.head_dim)
        self._buffers = {"cosine": cosine, "sine": sine, "slots": slots, "attended_heads": attended}
        for name, tensor in self._buffers.items():
            setattr(self._stack, name, tensor.data_ptr())
        threads = self._num_threads
        for i, (k_pool, v_pool) in enumerate(zip(pool.k, pool.v, strict=True)):
            store: Any = cpu.store_arguments(q, k, v, cosine, sine, slots, k_pool, v_pool, config.rms_norm_eps, threads)
            store.q_norm, store.k_norm = (None if norm is None else norm.data_ptr() for norm in self._norms[i])
            store.k_range = None if pool.key_ranges is None else pool.key_ranges[i].data_ptr()
            call: Any = cpu.call_arguments(q, k_pool, v_pool, attended, config.attention_scale, threads)
            if config.layers[i].rope is None:
                store.rotary, call.is_unturned = 0, 1
            self._stores[i], self._calls[i] = store, call


def _rope_of(config: ModelConfig) -> RopeConfig | None:
    """That of all layers that have one; None: they have none, or different ones."""
    ropes = {layer.rope for layer in config.layers if layer.rope is not None}
    return ropes.pop() if len(ropes) == 1 else None


def _addresses(array: Any) -> Any:
    """An array of the addresses of the elements of a ctypes array."""
    start, size = ctypes.addressof(array), ctypes.sizeof(array) // len(array)
    return (ctypes.c_void_p * len(array))(*(start + i * size for i in range(len(array))))
