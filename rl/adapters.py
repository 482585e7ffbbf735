"""Adapters of peft: what `[lora]` may say, and that what they learn can be served."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, get_args, get_type_hints

from ..runtime.errors import InvalidInput
from .config import TrainConfig, arguments
from .trainer_arguments import refused

UNFIT = {
    "inference_mode": "nothing would be trained",
    "alora_invocation_tokens": "such an adapter cannot be merged into the model that is served",
    "layer_replication": "layers that share their weights cannot be merged with adapters of their own",
    "eva_config": "nothing here looks at data before it trains",
    "corda_config": "nothing here looks at data before it trains",
    "lora_ga_config": "nothing here looks at data before it trains",
}
"""Arguments that no training here can have, and why."""

FROM_DATA = ("eva", "corda", "lora_ga")
"""Of `init_lora_weights`: what peft begins with only after a call that looks at data."""


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
    found = arguments(LoraConfig, "lora", config.lora, {"task_type": task, "peft_type": "LORA"}, defaults)
    known = get_args(get_type_hints(LoraConfig)["bias"])
    if found.bias not in known:  # peft says so only when it makes the model, as of what is not implemented
        raise InvalidInput(f"[lora]: bias: {found.bias!r} is none of {', '.join(known)}")
    start = found.init_lora_weights
    if isinstance(start, str) and start.startswith("pissa_niter_"):
        # peft takes it out of the model again when it loads the adapter.
        why = "what it takes out of the model is drawn at random, so that `adapter/` would be another one when loaded"
        raise InvalidInput(f'[lora]: init_lora_weights: {start}: {why}; "pissa" is exact')
    if start in FROM_DATA:
        raise InvalidInput(f"[lora]: init_lora_weights: {start}: nothing here looks at data before it trains")
    for name, why in UNFIT.items():
        if getattr(found, name) not in (None, False):
            raise InvalidInput(f"[lora]: {name}: {why}; leave it out")
    _check_scales(found)
    if not isinstance(found.modules_to_save, list | tuple | set | None):  # A text would be taken for its characters.
        raise InvalidInput(f"[lora]: modules_to_save: {found.modules_to_save!r} is no list")
    return found


def _check_scales(lora: Any) -> None:
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(value := getattr(lora, name), dict):
            raise InvalidInput(f"[lora]: {name}: {value!r} is no table")
    patterns = {f"alpha_pattern: {name}": scale for name, scale in lora.alpha_pattern.items()}
    for name, scale in {"lora_alpha": lora.lora_alpha, **patterns}.items():
        if not isinstance(scale, int | float):
            raise InvalidInput(f"[lora]: {name}: {scale!r} is no number")
        if not scale > 0:
            raise InvalidInput(f"[lora]: {name} is {scale}: it must be above 0")


def check_modules(lora: Any, model: Any) -> None:
    """Raise `InvalidInput` where modules, parameters or rows are to be trained that a model, still without its adapter,
    has not, or rows that it would not serve as they are trained."""
    names = [name for name, _ in model.named_modules()]
    parameters = [f".{name}" for name, _ in model.named_parameters(remove_duplicate=False)]
    with refused("lora"):
        unknown = {
            "modules_to_save": [
                one for one in lora.modules_to_save or () if not any(name.endswith(one) for name in names)
            ],
            # peft says nothing of these beside others, and no more than a warning if there are no others.
            "target_parameters": [
                one for one in lora.target_parameters or () if not any(name.endswith(f".{one}") for name in parameters)
            ],
        }
    for field, some in unknown.items():
        if some:
            raise InvalidInput(f"[lora]: {field}: the model has no {', '.join(map(str, some))}")
    with refused("lora"):
        _check_rows(lora, model)
    _check_tied_rows(lora, model)


def _check_rows(lora: Any, model: Any) -> None:
    """peft and torch fail by a row that there is not as they make the model, or in the first step."""
    for path, rows in _asked_rows(lora, _tables(model)[0]).items():
        modules = [module for name, module in model.named_modules() if name.endswith(path)]
        if not modules:
            raise InvalidInput(f"[lora]: trainable_token_indices: the model has no {path}")
        # Sizes that hold where a weight is divided among processes.
        size = min(getattr(module, "num_embeddings", None) or module.out_features for module in modules)
        if odd := [row for row in rows if type(row) is not int or not 0 <= row < size]:
            why = f"{path} has {size:,} rows, from 0 on, and no {', '.join(map(repr, odd))}"
            raise InvalidInput(f"[lora]: trainable_token_indices: {why}")


def _check_tied_rows(lora: Any, model: Any) -> None:
    """An embedding that is the output matrix too: peft trains rows of the head beside an embedding that stays, and a
    head as a whole beside rows of the embedding, though one matrix is served."""
    embedding, output, is_tied = _tables(model)
    if not is_tied or output is None:
        return
    path = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    with refused("lora"):
        rows = {name.rpartition(".")[2] for name in _asked_rows(lora, embedding)}
        is_whole = any(path.endswith(one) for one in lora.modules_to_save or ())
    why = "the model's embedding is its output matrix too"
    if output in rows:
        raise InvalidInput(f"[lora]: trainable_token_indices: {output}: {why}: name {embedding}")
    if rows and is_whole:
        trained = "rows of it, those of tags or of trainable_token_indices, are to be trained"
        raise InvalidInput(f"[lora]: modules_to_save: {output}: {why}, and {trained}: leave one of them out")


def check_patterns(model: Any) -> None:
    """Raise `InvalidInput` for ranks and scales of layers that, in a model with its adapter, have none."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper
    from peft.utils.other import get_pattern_key

    lora, base = model.active_peft_config, model.get_base_model()
    # What peft matches of `target_parameters` are names of parameters; wrappers of one module stand in one another.
    names = [
        f"{name.replace('.base_layer', '')}.{module.parameter_name}" if isinstance(module, ParamWrapper) else name
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer)
    ]
    for table in ("rank_pattern", "alpha_pattern"):
        for key in getattr(lora, table):
            if all(get_pattern_key((key,), name) != key for name in names):
                raise InvalidInput(f"[lora]: {table}: no layer with an adapter matches {key}")


def train_rows(lora: Any, model: Any, ids: Sequence[int]) -> None:
    """Let rows of the embedding, and of an untied head, be trained beside an adapter, and those that are asked for."""
    embedding, output, is_tied = _tables(model)
    found = {embedding: list(ids)} | ({} if output is None or is_tied else {output: list(ids)})
    with refused("lora"):
        for path, some in _asked_rows(lora, embedding).items():
            name = path.rpartition(".")[2]
            known = found.setdefault(embedding if is_tied and name == output else name, [])
            known += [one for one in some if one not in known]
    lora.trainable_token_indices = found


def _tables(model: Any) -> tuple[str, str | None, bool]:
    """What the embedding and the head, if there is one, are called, and whether they are one matrix."""
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head is not None and head.weight is table.weight
    return names[id(table)], names.get(id(head)), is_tied


def _asked_rows(lora: Any, embedding: str) -> dict[str, Any]:
    """Module -> the rows of it that are to be trained; a list is one of the embedding."""
    asked = lora.trainable_token_indices or {}
    return asked if isinstance(asked, dict) else {embedding: asked}


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
