"""`KernelOps`: what surrounds attention, by the compiled kernels; one call per half layer."""

from __future__ import annotations

import ctypes
import functools
import logging
import os

import torch
from torch import Tensor

from ....attention import Impl
from ...errors import InvalidInput
from .arithmetic import build_key, fastest
from .config import ModelConfig
from .families import LayerNorms
from .integers import GROUP, WeightType
from .kernels import BFLOAT16, BUFFERS, QUANTISED, LayerArguments, WorkArguments, kernel_library
from .model import LayerOps
from .packing import PackedWeights
from .torch_ops import TorchOps
from .weights import Weights

logger = logging.getLogger(__name__)

_FITTING = (torch.float32, torch.bfloat16)
"""Types of weights that the compiled kernels take."""
_GROUP_WIDTH = 11
"""Of a group of inputs in 8 bits, in units of 4 bytes: `Inputs` of csrc/quantised.h."""


def choose_ops(
    config: ModelConfig,
    weights: Weights,
    impl: Impl,
    num_threads: int,
    *,
    is_live: bool = False,
    is_invariant: bool = True,
    weight_type: WeightType | None = None,
) -> LayerOps:
    """Compiled kernels ("cpu"), those of Triton ("triton"), plain torch ("torch"), or ("auto") kernels where they can
    serve. `is_live`: the weights will change. `is_invariant`: as for `GpuOps`. `weight_type`: what the kernels are to
    round the weights to.

    Raises `InvalidInput` for "cpu" where they cannot: weights on another device, neither float32 nor bfloat16, a family
    that has what they have not, or no library; for "triton" without a GPU, and where the family has what those have
    not; and for a `weight_type` where the compiled kernels do not serve.
    """
    embedding, gap = weights.embedding, _gap(config)
    if weight_type is not None:
        impl = _for_integers(weight_type, impl, embedding, gap)
    if impl == "triton" and gap is not None:
        raise InvalidInput(f"impl='triton': the kernels have no {gap}; leave impl out for plain torch")
    if impl == "triton" and not embedding.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InvalidInput(f"impl='triton' is for a GPU, not {embedding.device}; leave impl out, or name a device")
    if gap is None and (impl == "triton" or (impl == "auto" and embedding.is_cuda)):
        from .gpu.ops import GpuOps  # Triton is there where there is a GPU

        return GpuOps(config, weights, is_invariant=is_invariant)
    fits = embedding.device.type == "cpu" and embedding.dtype in _FITTING
    if impl in ("auto", "cpu") and fits and gap is None and (library := kernel_library()) is not None:
        return KernelOps(library, config, weights, num_threads, is_live=is_live, weight_type=weight_type)
    if impl == "cpu" and gap is not None:
        raise InvalidInput(f"impl='cpu': the compiled kernels have no {gap}; leave impl out for plain torch")
    if impl == "cpu":
        raise InvalidInput(
            f"impl='cpu' needs the compiled kernels and float32 or bfloat16 weights on the CPU, "
            f"not {embedding.dtype} on {embedding.device}"
        )
    if impl == "auto" and fits and gap is not None:
        _log_gap(config.family.architecture, gap)
    return TorchOps(config, weights.kept())


def _for_integers(weight_type: WeightType, impl: Impl, embedding: Tensor, gap: str | None) -> Impl:
    """The compiled kernels or none."""
    if impl not in ("auto", "cpu") or embedding.device.type != "cpu":
        raise InvalidInput(f"weights={weight_type!r} needs the compiled kernels on the CPU; leave weights or impl out")
    if gap is not None:
        raise InvalidInput(
            f"weights={weight_type!r} needs the compiled kernels, which have no {gap}; leave weights out"
        )
    if embedding.dtype not in _FITTING:
        raise InvalidInput(
            f"weights={weight_type!r} needs float32 or bfloat16 for all that is not rounded, not {embedding.dtype}"
        )
    if kernel_library() is None:
        raise InvalidInput(
            f"weights={weight_type!r} needs the compiled kernels, which are not there; leave weights out"
        )
    return "cpu"


def _gap(config: ModelConfig) -> str | None:
    """What the model has and the kernels have not."""
    family = config.family
    gaps = {
        "experts": config.experts is not None,
        "lanes": config.lanes is not None,
        "norms behind attention": family.norms != LayerNorms(),
        "norm over all heads": family.qk_norm == "projection",
        "norms of 1 + weight": family.norm_offset != 0.0,
        "scale of embeddings": config.embedding_scale != 1.0,
        "cap of logits": config.logit_cap is not None,
        f"activation {config.activation}": config.activation != "silu",
    }
    return next((name for name, is_there in gaps.items() if is_there), None)


@functools.cache
def _log_gap(architecture: str, gap: str) -> None:
    """Once per process and architecture."""
    logger.info("%s runs on plain torch (slower): the compiled kernels have no %s", architecture, gap)


class KernelOps:
    """`LayerOps` by compiled kernels, with weights in packed form and float32 activations.

    Inputs of linear layers are rounded to the weights' type (for weights in 8 or 4 bits to 8, in groups of 32; for
    bfloat16 as `arithmetic` says), sums are float32. Each row's result is bitwise the same whatever other rows there
    are.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        config: ModelConfig,
        weights: Weights,
        num_threads: int,
        *,
        is_live: bool = False,
        weight_type: WeightType | None = None,
    ) -> None:
        self.library = library
        self.config = config
        self.packed = packed = PackedWeights(weights, library.plait_panel(), is_live=is_live, weight_type=weight_type)
        self._layer_at = [
            ctypes.addressof(packed.layers) + i * ctypes.sizeof(LayerArguments) for i in range(config.num_layers)
        ]
        self.work = WorkArguments(
            hidden_size=config.hidden_size,
            eps=config.rms_norm_eps,
            type=fastest(library) if packed.type == BFLOAT16 else packed.type,
            threads=num_threads,
        )
        self._work_at = ctypes.addressof(self.work)
        self._buffers: dict[str, Tensor] = {}
        self.capacity = 0
        """Rows there is room for."""
        self._rows = -1
        self._x = torch.empty(0)
        self._qkv = (self._x, self._x, self._x)

    @property
    def weights(self) -> Weights:
        """See `LayerOps`."""
        return self.packed.left

    @property
    def arithmetic(self) -> str:
        """See `LayerOps`."""
        return f"kernels {self.work.type} of {build_key(self.library)}"

    def refresh(self, weights: Weights) -> None:
        """Pack weights that changed."""
        self.packed.refresh(weights)

    def embed(self, tokens: Tensor) -> Tensor:
        assert tokens.dtype == torch.int64 and tokens.is_contiguous()
        rows = tokens.shape[0]
        if rows != self._rows:
            self.reserve(rows)
            self._rows = rows
            self._x, self._qkv = self._buffers["x"][:rows, : self.config.hidden_size], self.heads(rows)
        if self.library.plait_embed(
            ctypes.addressof(self.packed.embedding), self._work_at, tokens.data_ptr(), rows, self.config.vocab_size
        ):
            raise self.bad_token()
        return self._x

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.library.plait_qkv(self._layer_at[layer], self._work_at, self._rows)
        return self._qkv

    def finish(self, layer: int, x: Tensor, attended: Tensor) -> Tensor:
        assert attended.dtype == torch.float32 and attended.is_contiguous()
        self.library.plait_finish(self._layer_at[layer], self._work_at, attended.data_ptr(), self._rows)
        return self._x

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden, logits = self.results(len(x))
        self.library.plait_head(
            ctypes.addressof(self.packed.head), self.packed.norm, self._work_at,
            x.data_ptr(), x.stride(0), len(x), None, hidden.data_ptr(), hidden.stride(0), logits.data_ptr(),
        )  # fmt: skip
        return logits[:, : self.config.vocab_size], hidden[:, : self.config.hidden_size]

    def results(self, count: int) -> tuple[Tensor, Tensor]:
        """Room for `count` rows of final hidden states and logits, padded; also where the kernels work on them."""
        self.reserve(count)
        return torch.empty(count, self.packed.padded(self.config.hidden_size)), torch.empty(
            count, self.packed.head.outputs
        )

    def bad_token(self) -> InvalidInput:
        return InvalidInput(f"a token id is outside the model's vocabulary of {self.config.vocab_size}")

    def heads(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where the projections of a step stand: q (rows, H, D), k (rows, K, D), v (rows, K, D)."""
        config = self.config
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        qkv = self._buffers["qkv"][:rows]
        return (
            qkv[:, :queries].view(rows, config.num_heads, -1),
            qkv[:, queries : queries + keys].view(rows, config.num_kv_heads, -1),
            qkv[:, queries + keys : queries + 2 * keys].view(rows, config.num_kv_heads, -1),
        )

    def reserve(self, rows: int) -> None:
        """Make room for `rows` rows. Where `capacity` grows, everything moves."""
        if rows <= self.capacity:
            return
        self.capacity = max(rows, 2 * self.capacity)
        self._rows = -1
        config, padded = self.config, self.packed.padded
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        widths = {
            "x": config.hidden_size,
            "qkv": queries + 2 * keys,
            "gate_up": 2 * padded(config.intermediate_size),
            "input": config.hidden_size,
            "attended": queries,
            "middle": config.intermediate_size,
            "integers": -(-max(config.hidden_size, queries, config.intermediate_size) // GROUP) * _GROUP_WIDTH
            if self.packed.type == QUANTISED
            else 0,
        }
        for name in BUFFERS:
            # A stride that is no power of two: rows must not compete for the same cache sets.
            stride = padded(widths[name]) + 16
            buffer = self._buffers[name] = torch.zeros(self.capacity, stride)
            setattr(self.work, name, buffer.data_ptr())
            setattr(self.work, f"{name}_stride", stride)
