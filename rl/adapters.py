"""Adapters of peft: what `[lora]` may say, and that what they learn can be served."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, get_args, get_type_hints

from ..runtime.errors import InvalidInput
from .config import TrainConfig, arguments

UNFIT = {
    "inference_mode": "nothing would be trained",
    "alora_invocation_tokens": "such an adapter cannot be merged into the model that is served",
    "layer_replication": "layers that share their weights cannot be merged with adapters of their own",
}
"""Arguments that no training here can have, and why."""


def lora_config(config: TrainConfig, task: str) -> Any:
    """peft's; None: all weights are trained. `task`: peft's name of what the model is for."""
    if config.lora is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise InvalidInput("[lora] needs the package peft: pip install peft") from None
    # A head that is new is trained as it is, beside the adapter.
    defaults = {"target_modules": "all-linear"} | ({} if task == "CAUSAL_LM" else {"exclude_modules": ["score"]})
    found = arguments(LoraConfig, "lora", config.lora, {"task_type": task}, defaults)
    known = get_args(get_type_hints(LoraConfig)["bias"])
    if found.bias not in known:  # peft says so only when it makes the model, as of what is not implemented
        raise InvalidInput(f"[lora]: bias: {found.bias!r} is none of {', '.join(known)}")
    start = found.init_lora_weights
    if isinstance(start, str) and start.startswith("pissa_niter_"):
        # peft takes it out of the model again when it loads the adapter.
        why = "what it takes out of the model is drawn at random, so that `adapter/` would be another one when loaded"
        raise InvalidInput(f'[lora]: init_lora_weights: {start}: {why}; "pissa" is exact')
    for name, why in UNFIT.items():
        if getattr(found, name) not in (None, False):
            raise InvalidInput(f"[lora]: {name}: {why}; leave it out")
    return found


def rows(model: Any, ids: Sequence[int]) -> dict[str, list[int]]:
    """Rows of the embedding, and of an untied head, to train beside an adapter."""
    tables = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0].weight:
        tables.append(head)
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return {names[id(table)]: list(ids) for table in tables}


def check_adapter(model: Any) -> None:
    """Raise `InvalidInput` for an adapter, in its model, that would not be served, or not as it is trained."""
    _check_tied(model)
    _check_merges(model)


def _check_tied(model: Any) -> None:
    """An embedding that is the output matrix too: the head is trained without its adapter, and would be served with
    it."""
    from peft.tuners.lora import LoraLayer

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, LoraLayer) and head is not None and head.weight is embedding.weight:
        raise InvalidInput("[lora]: the model's embedding is its output matrix too: train it by modules_to_save")


def _check_merges(model: Any) -> None:
    """peft says what cannot be merged only when it merges: a copy of one layer of each kind is, to ask."""
    from peft.tuners.lora import LoraLayer

    layers: dict[Any, Any] = {}
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            has_bias = getattr(layer.get_base_layer(), "bias", None) is not None
            layers.setdefault((type(layer), has_bias), layer)
    for layer in layers.values():
        try:
            deepcopy(layer).merge()
        except (RuntimeError, ValueError) as error:
            raise InvalidInput(f"[lora]: it cannot be merged into the model that is served: {error}") from error
