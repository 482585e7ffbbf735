"""`Shard`: which part of each tensor one rank has.

Attention is split by groups of heads that share a key/value head, an MLP or expert by its inner units, embedding and
output layer by words (Megatron-LM, arXiv 1909.08053, section 3). So q, k, v, gate and up are split by their outputs; o
and down by their inputs, and the ranks' results are summed, with the bias, which rank 0 alone has. Norms and routers
are on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ....errors import InvalidInput
from ..assembly import assemble
from ..checkpoint import Checkpoint
from ..config import ModelConfig
from ..weights import Weights


class _Cut(NamedTuple):
    """A tensor that is split along `dim`, where parts of these widths stand one behind the other: each is split."""

    dim: int
    widths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `size`. Raises `InvalidInput` for a model that cannot be split so."""

    config: ModelConfig
    """Of the whole model."""
    rank: int
    size: int

    def __post_init__(self) -> None:
        config, size = self.config, self.size
        if config.lanes is not None:
            raise InvalidInput("tensor_parallel does not know ParScale's lanes: leave it out")
        if config.num_kv_heads % size:
            raise InvalidInput(
                f"tensor_parallel={size}: the model's {config.num_kv_heads} key/value heads (of {config.num_heads} "
                f"attention heads) do not divide by it; choose one of {_divisors(config.num_kv_heads)}"
            )
        inner = config.intermediate_size if config.experts is None else config.experts.size
        if min(inner, config.vocab_size) < size:
            raise InvalidInput(f"tensor_parallel={size}: the model is too small to be split so often")

    @property
    def local(self) -> ModelConfig:
        """The shape of this rank's part."""
        config = self.config
        experts = config.experts
        return replace(
            config,
            num_heads=config.num_heads // self.size,
            num_kv_heads=config.num_kv_heads // self.size,
            intermediate_size=self.width(config.intermediate_size),
            vocab_size=self.width(config.vocab_size),
            experts=None if experts is None else replace(experts, size=self.width(experts.size)),
        )

    def part(self, total: int, rank: int | None = None) -> slice:
        """This rank's, or that of another, of `total` things."""
        rank = self.rank if rank is None else rank
        return slice(total * rank // self.size, total * (rank + 1) // self.size)

    def width(self, total: int, rank: int | None = None) -> int:
        part = self.part(total, rank)
        return int(part.stop - part.start)

    def weights(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, step: Callable[[], None] = lambda: None
    ) -> Weights:
        """This rank's, read without the others' where the format allows it. `step` is called before each tensor. Raises
        `InvalidInput`."""

        def get(name: str) -> Tensor:
            step()
            return self._read(checkpoint, name, dtype).to(device)

        return assemble(self.local, get, str(checkpoint.path))

    def _read(self, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Tensor:
        if name.endswith(("o_proj.bias", "down_proj.bias")):
            bias = checkpoint.tensor(name, dtype)
            return bias if self.rank == 0 else torch.zeros_like(bias)
        cut = self._cut(name)
        if cut is None:
            return checkpoint.tensor(name, dtype)
        stored = checkpoint.sliceable(name, dtype)
        shape, dim, total = tuple(stored.shape), cut.dim, sum(cut.widths)
        if len(shape) <= dim or shape[dim] != total:
            raise InvalidInput(
                f"{checkpoint.path}: {name} has shape {shape}, config.json asks for {total} in dimension {dim}"
            )
        pieces, begin = [], 0
        for width in cut.widths:
            part = self.part(width)
            index = [slice(None)] * len(shape)
            index[dim] = slice(begin + part.start, begin + part.stop)
            pieces.append(stored[tuple(index)])
            begin += width
        # Always a copy: a view would keep all of what it is a part of.
        return torch.cat(pieces, dim)

    def _cut(self, name: str) -> _Cut | None:
        """How the tensor of this name is split; None: it is not."""
        config = self.config
        parts = name.split(".")
        stacked = parts[-2] == "experts"  # (X, outputs, inputs), without a suffix
        base, first = (parts[-1], 1) if stacked else (parts[-2], 0)
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        inner = config.experts.size if config.experts is not None and "experts" in parts else config.intermediate_size
        outputs: dict[str, tuple[int, ...]] = {
            "q_proj": (queries,),
            "k_proj": (keys,),
            "v_proj": (keys,),
            "qkv_proj": (queries, keys, keys),
            "gate_proj": (inner,),
            "up_proj": (inner,),
            "gate_up_proj": (inner, inner),
            "embed_tokens": (config.vocab_size,),
            "lm_head": (config.vocab_size,),
        }
        if config.family.qk_norm == "projection":
            outputs |= {"q_norm": (queries,), "k_norm": (keys,)}
        inputs = {"o_proj": (queries,), "down_proj": (inner,)}
        if base in outputs:
            return _Cut(first, outputs[base])
        return _Cut(first + 1, inputs[base]) if base in inputs else None


def _divisors(count: int) -> str:
    return ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)


def rank_devices(device: str, size: int) -> Sequence[torch.device]:
    """The device of each rank: CUDA devices in a row from the named one on, or the CPU for all. Raises
    `InvalidInput`."""
    first = torch.device(device)
    if first.type not in ("cpu", "cuda"):
        raise InvalidInput(f"tensor_parallel={size} runs on cuda devices or the cpu, not on {device!r}")
    backend = "gloo" if first.type == "cpu" else "nccl"
    if not (dist.is_available() and dist.is_backend_available(backend)):
        raise InvalidInput(f"tensor_parallel={size} needs {backend}, which this build of torch does not have")
    if first.type == "cpu":
        return [first] * size
    begin, count = first.index or 0, torch.cuda.device_count()
    if begin + size > count:
        raise InvalidInput(f"tensor_parallel={size} from {device!r} on needs {begin + size} cuda devices, not {count}")
    return [torch.device("cuda", begin + rank) for rank in range(size)]
