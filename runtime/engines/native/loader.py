"""From a Hugging Face folder, or a live transformers model, to a `Model`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ....attention import Impl as Impl
from ...errors import InvalidInput, UnknownModel
from .assembly import assemble
from .config import ModelConfig
from .model import LayerOps, Model
from .ops import choose_ops
from .stack import KernelStack
from .torch_ops import TorchOps
from .weights import Weights

_SMALL = 300_000_000
"""Parameters up to which float32 is affordable on a CPU, where it is as fast as anything."""


def load_config(path: str | Path, *, headless: bool = False, context_limit: int | None = None) -> ModelConfig:
    """The checked config.json of a model folder; raises `UnknownModel`, `InvalidInput` or `UnsupportedModel`."""
    folder = Path(path)
    if not folder.is_dir():
        raise UnknownModel(f"no model folder {folder}")
    return ModelConfig.from_hf(_read_json(folder, "config.json"), headless=headless, context_limit=context_limit)


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["auto"] = "auto",
    impl: Impl = "auto",
    num_threads: int = 1,
    headless: bool = False,
    context_limit: int | None = None,
) -> Model:
    """Load config.json and the safetensors weights of a folder.

    `dtype="auto"`: on the CPU float32 below 300 million parameters and wherever the checkpoint is not bfloat16, else
    the checkpoint's own type. `impl`: "cpu" packs the weights for the compiled kernels, "torch" leaves them to torch,
    "auto" takes the kernels where they can serve. `num_threads`: of the compiled kernels. `headless` and
    `context_limit`: as in `ModelConfig.from_hf`.

    Raises `UnknownModel` (no such folder), `UnsupportedModel`, or `InvalidInput` (no config.json, no weights, a missing
    or mis-shaped tensor, a damaged file), each naming what it is about.
    """
    config = load_config(path, headless=headless, context_limit=context_limit)
    folder = Path(path)
    tensors = _Checkpoint(folder)
    device = torch.device(device)
    chosen = _auto_dtype(config, tensors, device) if dtype == "auto" else dtype
    weights = assemble(config, lambda name: tensors[name].to(device=device, dtype=chosen), str(folder))
    return _model(config, weights, choose_ops(config, weights, impl, num_threads), impl, num_threads)


class _HFModel(Protocol):
    """The part of a transformers model that is used here."""

    config: Any

    def state_dict(self, *, keep_vars: bool = ...) -> dict[str, Any]: ...


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
    are now (a copy) if `impl` allows it, which decodes faster; call again after they changed.

    Raises `UnsupportedModel`, or `InvalidInput` where a parameter is missing (adapters must be merged first).
    """
    # keep_vars: the parameters themselves, so that a reassigned `.data` is seen as well.
    tensors = hf_model.state_dict(keep_vars=True)
    config = ModelConfig.from_hf(hf_model.config.to_dict(), context_limit=context_limit)
    weights = assemble(config, tensors.__getitem__, "the model")
    ops = TorchOps(config, weights) if share else choose_ops(config, weights, impl, num_threads)
    return _model(config, weights, ops, impl, num_threads)


class _Checkpoint:
    """The tensors of a folder by name, from one safetensors file or from shards with an index."""

    def __init__(self, folder: Path) -> None:
        if (folder / "model.safetensors.index.json").is_file():
            index = _read_json(folder, "model.safetensors.index.json").get("weight_map")
            if not isinstance(index, dict):
                raise InvalidInput(f"{folder}/model.safetensors.index.json has no weight_map")
            names = sorted(set(index.values()))
        elif (folder / "model.safetensors").is_file():
            names = ["model.safetensors"]
        else:
            raise InvalidInput(f"{folder} holds no weights: neither model.safetensors nor model.safetensors.index.json")
        self._files: dict[str, Any] = {}
        for name in names:
            if not (folder / name).is_file():
                raise InvalidInput(f"{folder} lacks the weight file {name} that its index names")
            try:
                file: Any = safe_open(folder / name, framework="pt")
            except SafetensorError as error:
                raise InvalidInput(f"{folder / name} is not a complete safetensors file: {error}") from error
            self._files.update(dict.fromkeys(file.keys(), file))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def _model(config: ModelConfig, weights: Weights, ops: LayerOps, impl: Impl, num_threads: int) -> Model:
    stack = KernelStack.fitting(ops, weights, num_threads)
    return Model(config, weights, ops, stack=stack, impl=impl, num_threads=num_threads)


def _auto_dtype(config: ModelConfig, tensors: _Checkpoint, device: torch.device) -> torch.dtype:
    try:
        stored = tensors["model.embed_tokens.weight"].dtype
    except KeyError:
        return torch.float32  # the assembly reports it
    if device.type == "cpu" and (config.num_parameters < _SMALL or stored != torch.bfloat16):
        return torch.float32
    return stored


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"{folder} holds no {name}; it is not a Hugging Face model folder") from None
    except ValueError as error:
        raise InvalidInput(f"{folder / name} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidInput(f"{folder / name} must hold a JSON object")
    return data
