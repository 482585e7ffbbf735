"""`Model`: one forward pass of a decoder over the rows of many branches.

Legend for shapes: N rows, C hidden size, H query heads, K key/value heads, D head size, V vocabulary.

The model knows rows, not branches: a row is one token at one position whose keys and values go to one slot of the
pool, and an `AttentionPlan` says what each row sees. What surrounds attention is done by `LayerOps`: plain torch in
torch_ops.py (`TorchOps`, the reference), compiled kernels in ops.py (`KernelOps`). Where the kernels of attention serve
too, one call does it all (stack.py).
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int32
from typing import Protocol

import torch
from torch import Tensor

from ....attention import AttentionPlan, Impl, rope_and_store, span_attention
from ...errors import InvalidInput
from .config import ModelConfig
from .draw import likeliest
from .key_ranges import key_ranges
from .lanes import Prefixes
from .memory import free_memory
from .pool import KVPool
from .rope import RopeConfig
from .sampler import sample_rows
from .sampling import Decoded, Draws
from .weights import Weights


class LayerOps(Protocol):
    """Everything in a forward pass but head norms, rotation, KV storage and attention.

    Calls come in the order of a forward pass, so x is always the latest result; returned tensors but for those of
    `head` may be views of memory that later calls reuse.
    """

    @property
    def weights(self) -> Weights:
        """Norms, lanes, type and device; matrices have no rows where they are kept in another form."""
        ...

    @property
    def arithmetic(self) -> str:
        """By what they compute: others round otherwise."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """(N,) int64 -> (N, C). With lanes a row is one token in one lane, the lane varying fastest."""
        ...

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed and projected: q (N, H, D), k (N, K, D), v (N, K, D), each with a contiguous last dimension."""
        ...

    def finish(self, layer: int, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer after attention (N, H, D): output projection, MLP and both residuals; (N, C)."""
        ...

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the last layer's output -> float32 logits (N, V) and final hidden states (N, C); with P lanes P rows
        give one."""
        ...


AFTER_STEP, AT_ONCE = 1, 2
"""Values of an `interrupt`: end a burst with the step it is at, or without it."""


class Interrupted(Exception):
    """A forward pass was ended before it had results."""


class Stack(Protocol):
    """A whole forward pass in one go."""

    scores: bool
    """Does `decode` give log-probabilities and certainties too?"""
    singles: bool
    """Is `decode` for single steps, too? Then no logits come back from a GPU."""

    def angles(self, positions: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
        """(N, R) cosines and sines, the bits that `forward` has: a step that goes layer by layer, since some of its
        rows look back farther than a window, must not tell the others."""
        ...

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        logit_rows: Tensor | None,
        interrupt: c_int32 | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Model.forward`."""
        ...

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        steps: int,
        stop_start: Tensor,
        stop_ids: Tensor,
        interrupt: c_int32,
        draws: Draws | None,
    ) -> Decoded:
        """See `Model.decode`."""
        ...


class Model:
    """A decoder with its weights. Not reentrant: one forward at a time."""

    def __init__(
        self,
        config: ModelConfig,
        ops: LayerOps,
        *,
        stack: Stack | None = None,
        impl: Impl,
        num_threads: int,
    ) -> None:
        """loader.py builds models. `ops` may hold the weights in a form of its own, and `stack` run all of them at
        once; `impl` "torch" goes for attention too, else attention uses its kernels where they can serve."""
        self.config = config
        self.vocab_size = config.vocab_size
        self.ops = ops
        weights = ops.weights
        self.dtype = weights.embedding.dtype
        """Of the weights, and the natural one for a `KVPool`."""
        self.device = weights.embedding.device
        self.key_ranges = key_ranges(config, weights) if self.device.type == "cpu" else None
        """For a `KVPool` of int8. They stay when the weights of a live model change: any serve, these best."""
        self._ropes = _ropes(config, self.device)
        self._windows = {layer.window for layer in config.layers if layer.window is not None}
        self.stack = stack
        """What `decode` needs."""
        self.scores = stack is not None and stack.scores
        """As `Stack.scores`."""
        self.singles = stack is not None and stack.singles
        """As `Stack.singles`."""
        self.follow: Callable[[], None] | None = None
        """Takes over what became of the weights of a live model; None: they stay as they are."""
        is_headwise = config.family.qk_norm == "head"
        self._head_norms = [(layer.q_norm, layer.k_norm) if is_headwise else (None, None) for layer in weights.layers]
        self._prefixes = None if weights.lanes is None else Prefixes(weights.lanes)
        self._impl: Impl = "torch" if impl == "torch" else "auto"
        self._num_threads = num_threads

    @property
    def arithmetic(self) -> str:
        """What the last bits of keys and values depend on beside weights, tokens and types."""
        return f"{self.ops.arithmetic}, attention {self._impl}, {self.device.type}"

    def refresh(self) -> None:
        """Follow the parameters of a live model that changed in place, where there are copies of them. Raises
        `InvalidInput` for other models: nobody can change what they were loaded from."""
        if self.follow is None:
            raise InvalidInput("only a model made by `from_transformers` can follow another one")
        self.follow()
        if self._prefixes is not None:
            self._prefixes.forget()

    def free_memory(self) -> int:
        """Bytes that are left for a `KVPool`, of which each rank has one."""
        return free_memory(self.device)

    def close(self) -> None:
        """End what runs the model beside this process; nothing, ordinarily."""

    @torch.inference_mode()
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
        """Run all rows through the decoder and write their keys and values to the pool.

        tokens (N,) int64; positions (N,), any number type; slots (N,) int64, `block * block_size + offset`;
        `logit_rows` (M,) int64 picks the rows that need logits (None: all).

        Returns float32 logits (M, V) and the hidden states (M, C) they were computed from (after the final norm). In
        each layer the keys and values of *all* rows are stored before any row attends, so a plan may let rows of the
        same step see each other.

        Raises `Interrupted` when `interrupt` becomes `AT_ONCE`, if that can be helped; some keys and values are
        written then.
        """
        if self._prefixes is not None:
            plan = self._prefixes.attach(plan, pool)
        plans = self._plans(plan, positions)
        if self.stack is not None and all(seen is plan for seen in plans.values()):
            return self.stack.forward(tokens, positions, slots, plan, pool, logit_rows, interrupt)
        config = self.config
        angles = _angles if self.stack is None else self.stack.angles
        tables = {rope: _scaled(angles(positions, inv_freq), rope) for rope, inv_freq in self._ropes.items()}
        lanes = config.num_lanes
        x = self.ops.embed(tokens if lanes == 1 else tokens.repeat_interleave(lanes))
        for layer, kind in enumerate(config.layers):
            if interrupt is not None and interrupt.value == AT_ONCE:
                raise Interrupted
            q, k, v = self.ops.qkv(layer, x)
            if lanes > 1:  # To attention they are more heads.
                q, k, v = (part.reshape(len(tokens), -1, config.head_dim) for part in (q, k, v))
            k_pool, v_pool = pool.k[layer], pool.v[layer]
            q_norm, k_norm = map(self._head_norm, self._head_norms[layer])
            cos, sin = tables[kind.rope]
            rope_and_store(
                q, k, v, cos, sin, slots, k_pool, v_pool,
                q_norm=q_norm, k_norm=k_norm, k_range=None if pool.key_ranges is None else pool.key_ranges[layer],
                eps=config.rms_norm_eps, impl=self._impl, threads=self._num_threads,
            )  # fmt: skip
            attended = span_attention(
                q, k_pool, v_pool, plans[kind.window],
                scale=config.attention_scale, cap=config.attention_cap, inv_freq=self._ropes[kind.rope],
                impl=self._impl, threads=self._num_threads,
            )  # fmt: skip
            x = self.ops.finish(layer, x, attended if lanes == 1 else attended.reshape(len(x), -1, config.head_dim))
        if logit_rows is not None:
            x = x[logit_rows] if lanes == 1 else x.view(len(tokens), lanes, -1)[logit_rows].flatten(0, 1)
        return self.ops.head(x)

    @torch.inference_mode()
    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: AttentionPlan,
        pool: KVPool,
        *,
        steps: int,
        stops: tuple[Tensor, Tensor],
        interrupt: c_int32,
        draws: Draws | None = None,
    ) -> Decoded:
        """Up to `steps` steps of rows that each decode behind their own run: `stack` has to be there.

        The first four are those of the first step as `forward` takes them, but on the CPU, with float32 positions and
        one causal entry per row; they are moved on in place and are those of the last step in the end. The runs have
        the blocks of all steps. Stops after a step in which row r samples one of `ids[start[r] : start[r + 1]]`, where
        `stops` is `start, ids` (N + 1,) and (I,) int64, or -1, there being no token (sampling.py), or by the end of
        which `interrupt` is not 0; if it is `AT_ONCE`, without the step it is at. `draws`: how the rows are sampled;
        None: they take the likeliest tokens.

        Raises `Interrupted` if it comes to that in the first step.
        """
        assert self.stack is not None
        if self._windows:
            # Each step looks back one position further. From where a window cuts, steps are single ones.
            room = min(self._windows) - plan.farthest(positions.numpy())
            if room < 1:
                at = self.device
                tokens, positions, slots = (part.to(at) for part in (tokens, positions, slots))
                logits = self.forward(tokens, positions, slots, plan, pool, interrupt=interrupt)[0].cpu()
                return Decoded(likeliest(logits)[None]) if draws is None else sample_rows(logits, draws)
            steps = min(steps, room)
        return self.stack.decode(tokens, positions, slots, plan, pool, steps, *stops, interrupt, draws)

    def _plans(self, plan: AttentionPlan, positions: Tensor) -> dict[int | None, AttentionPlan]:
        """What the rows see in layers of each window."""
        if not self._windows:
            return {None: plan}
        places = positions.cpu().numpy()
        return {None: plan, **{window: plan.within(places, window) for window in self._windows}}

    def _head_norm(self, weight: Tensor | None) -> Tensor | None:
        offset = self.config.family.norm_offset
        return weight.float() + offset if weight is not None and offset else weight


def _ropes(config: ModelConfig, device: torch.device) -> dict[RopeConfig | None, Tensor]:
    """(R,) float32 radians per position, of each kind that the layers have."""
    kinds = dict.fromkeys(layer.rope for layer in config.layers)
    nothing = torch.zeros(0)
    return {rope: (nothing if rope is None else rope.inv_freq(config.head_dim)).to(device) for rope in kinds}


def _angles(positions: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, R)."""
    angles = positions.to(torch.float32)[:, None] * inv_freq
    return angles.cos(), angles.sin()


def _scaled(table: tuple[Tensor, Tensor], rope: RopeConfig | None) -> tuple[Tensor, Tensor]:
    """With the factor of queries and keys in them: a shift, which turns queries once more, leaves it as it is."""
    if rope is None or rope.attention_factor == 1.0:
        return table
    cos, sin = table
    return cos * rope.attention_factor, sin * rope.attention_factor
