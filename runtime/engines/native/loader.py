"""From a Hugging Face folder, a GGUF file or a live transformers model to a `Model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ....attention import Impl as Impl
from ...errors import InvalidInput
from ..loading import loading
from .assembly import assemble
from .checkpoint import open_checkpoint
from .config import ModelConfig
from .integers import WeightType
from .memory import return_free_memory
from .model import LayerOps, Model, Stack
from .ops import choose_ops
from .stack import KernelStack
from .threads import settle_threads
from .torch_ops import TorchOps
from .weights import Weights

_SMALL = 300_000_000
"""Parameters up to which float32 is affordable on a CPU, where it is as fast as anything."""


def load_config(path: str | Path, *, headless: bool = False, context_limit: int | None = None) -> ModelConfig:
    """The checked configuration of a model folder or GGUF file; raises `UnknownModel`, `InvalidInput` or
    `UnsupportedModel`."""
    return ModelConfig.from_hf(open_checkpoint(path).config, headless=headless, context_limit=context_limit)


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["auto"] = "auto",
    impl: Impl = "auto",
    num_threads: int | None = 1,
    headless: bool = False,
    context_limit: int | None = None,
    is_invariant: bool = True,
    weight_type: WeightType | None = None,
) -> Model:
    """Load a folder (config.json and safetensors, plain or packed by AWQ or GPTQ), or a GGUF file.

    `dtype="auto"`: as `auto_dtype` chooses. `impl`: "cpu" packs the weights for the compiled kernels, "torch" leaves
    them to torch, "auto" takes the kernels where they can serve. `num_threads`: of the compiled kernels;
    None: as many as pay (threads.py). `headless` and
    `context_limit`: as in `ModelConfig.from_hf`. `is_invariant`: as `NativeOptions.batch_invariant`.
    `weight_type`: as `NativeOptions.weights`.

    Raises `UnknownModel` (no such folder or file), `UnsupportedModel`, or `InvalidInput` (no config.json, no weights, a
    missing or mis-shaped tensor, a damaged file), each naming what it is about.
    """
    checkpoint = open_checkpoint(path)
    config = ModelConfig.from_hf(checkpoint.config, headless=headless, context_limit=context_limit)
    device = torch.device(device)
    chosen = auto_dtype(config, checkpoint.stored_dtype, device) if dtype == "auto" else dtype
    if weight_type == "stored" and not checkpoint.is_quantised:
        raise InvalidInput(f"weights='stored': {path} has none in 8 bits or less; int8 and int4 round them")
    with loading(f"loading {checkpoint.path.name}", checkpoint.num_tensors) as step:

        def get(name: str) -> Tensor:
            step()
            # What is to be rounded is not rounded twice.
            is_rounded = weight_type is not None and name.endswith("_proj.weight")
            return checkpoint.tensor(name, torch.float32 if is_rounded else chosen).to(device)

        weights = assemble(config, get, str(path), bits=checkpoint.bits, keep=False)
        model = build_model(
            config, weights, impl=impl, num_threads=num_threads, is_invariant=is_invariant, weight_type=weight_type
        )
    return_free_memory()
    return model


def build_model(
    config: ModelConfig,
    weights: Weights,
    *,
    impl: Impl = "auto",
    num_threads: int | None = 1,
    is_invariant: bool = True,
    weight_type: WeightType | None = None,
) -> Model:
    """From weights that are on their device already; the rest as for `load_model`."""
    ops = choose_ops(config, weights, impl, num_threads or 1, is_invariant=is_invariant, weight_type=weight_type)
    return _model(config, ops, impl, num_threads or settle_threads(ops))


def auto_dtype(config: ModelConfig, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """On the CPU float32 below 300 million parameters and wherever the checkpoint is not bfloat16, else what is stored;
    quantised weights count as bfloat16."""
    if device.type == "cpu" and (config.num_parameters < _SMALL or stored != torch.bfloat16):
        return torch.float32
    return stored


class _HFModel(Protocol):
    """The part of a transformers model that is used here."""

    config: Any

    def state_dict(self, *, keep_vars: bool = ...) -> dict[str, Any]: ...


@runtime_checkable
class _Copy(Protocol):
    """Holds weights in a form of its own."""

    def refresh(self, weights: Weights) -> None: ...


def from_transformers(
    hf_model: _HFModel,
    *,
    share: bool = True,
    impl: Impl = "auto",
    num_threads: int = 1,
    context_limit: int | None = None,
) -> Model:
    """Serve a live transformers model.

    With `share` its parameters are used where they are, by plain torch: what an optimizer step changes in place is what
    the next forward uses (and so is a reassigned `.data`, but for fused projections). Without, they are packed as they
    are now (a copy) if `impl` allows it, which decodes faster; `Model.refresh` packs them again after they changed. The
    KV of an engine is of the weights it was computed with: call `NativeEngine.refresh` in either case.

    Raises `UnsupportedModel`, or `InvalidInput` where a parameter is missing (adapters must be merged first).
    """
    # keep_vars: the parameters themselves, so that a reassigned `.data` is seen as well.
    tensors = hf_model.state_dict(keep_vars=True)
    config = ModelConfig.from_hf(hf_model.config.to_dict(), context_limit=context_limit)
    weights = assemble(config, tensors.__getitem__, "the model")
    ops = TorchOps(config, weights) if share else choose_ops(config, weights, impl, num_threads, is_live=True)
    model = _model(config, ops, impl, num_threads)

    def follow() -> None:
        parts: tuple[object, ...] = (ops, model.stack)
        for part in parts:
            if isinstance(part, _Copy):
                part.refresh(weights)

    model.follow = follow
    return model


def _model(config: ModelConfig, ops: LayerOps, impl: Impl, num_threads: int) -> Model:
    stack: Stack | None = KernelStack.fitting(ops, num_threads)
    if impl == "triton" or ops.weights.embedding.is_cuda:
        from .gpu.stack import GpuStack  # Triton is there where there is a GPU

        stack = GpuStack.fitting(ops)
    return Model(config, ops, stack=stack, impl=impl, num_threads=num_threads)
