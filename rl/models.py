"""Models of transformers: loaded to be trained, and published to be served."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..runtime.engines.native.gguf_tokenizer import load_tokenizer
from ..runtime.engines.native.special_tokens import NAMES
from ..runtime.engines.native.tokenizer import HFTokenizer
from ..runtime.engines.registry import find_model
from ..runtime.errors import InvalidInput, PlaitError
from .capped import attention
from .checkpoints import publish, saving
from .config import TrainConfig
from .tags import add_tags, merge, save


def load(config: TrainConfig, kind: Any, tags: Sequence[str], **options: Any) -> tuple[Any, Any, list[int]]:
    """(model, tokenizer, ids of the tags), each tag one token. `kind`: a class of transformers (`AutoModelFor...`).
    Raises `InvalidInput`."""
    found = find_model(config.model)
    if not found.path.is_dir():
        raise InvalidInput(f"{found.path} is a GGUF file: its weights are quantised and cannot be trained")
    with loading(config.model):
        tokenizer = tokenizer_of(found.path)
        given = {"dtype": getattr(torch, config.dtype), "attn_implementation": attention(found.path), **options}
        model = kind.from_pretrained(found.path, **given)
    return model, tokenizer, add_tags(model, tokenizer, tags) if tags else []


def tokenizer_of(folder: Path) -> Any:
    """transformers' tokenizer around the one that serves a folder's model. Its class is the one whose files are read
    as they are: others make their own of them, as GPT-2's does of SmolLM2's, without the splitting of digits."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():  # One that no engine serves can be trained all the same.
        return AutoTokenizer.from_pretrained(folder)
    served = load_tokenizer(folder)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer._tokenizer = served.backend
    for name in NAMES:  # Those, too, that the folder's own class alone names.
        if (id := served.special_ids.get(name)) is not None:
            setattr(tokenizer, name, served.backend.id_to_token(id))
    return tokenizer


@contextmanager
def loading(name: str) -> Iterator[None]:
    """What transformers and the readers of its files say is wrong with a model, by errors of many kinds, is
    `InvalidInput` here."""
    from safetensors import SafetensorError

    try:
        yield
    except PlaitError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, EOFError,
            SafetensorError) as error:  # fmt: skip
        said = " ".join(str(error).split())[:300]
        raise InvalidInput(f"the model {name} cannot be loaded: {said or type(error).__name__}") from error


def check_positions(model: Any, last: int) -> None:
    """Raises `InvalidInput` for a sample with a last position that a model with a table of them, learned as GPT-2's or
    fixed as GPT-J's, has not. Of other limits, as MPT's of its biases, nothing is said."""
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if places is None or last < places:
        return
    words = model.get_input_embeddings()
    tables = [one.num_embeddings for one in model.modules() if isinstance(one, torch.nn.Embedding) and one is not words]
    # Tables that are no layers of their own; those that are, as XGLM's, grow with what is asked.
    tables += [len(one) for name, one in model.named_buffers() if name.rpartition(".")[2] == "embed_positions"]
    # OPT keeps two rows more in its table.
    if any(places <= size <= places + 2 for size in tables):
        raise InvalidInput(f"the model has {places:,} positions, a sample has {last + 1:,}: set max_tokens")


def serving_tokenizer(model: Any, tokenizer: Any) -> HFTokenizer:
    """The one that serves."""
    with tempfile.TemporaryDirectory(prefix="plait-") as folder:
        tokenizer.save_pretrained(folder)
        model.config.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(folder)
        return load_tokenizer(folder)


def publish_model(trainer: Any, out: Path, tokenizer: Any, is_main: bool, files: dict[str, str] | None = None) -> None:
    """Save what there is to serve: `model/`, with further `files` by name, and with peft `adapter/`, for the model that
    was trained, by peft's `AutoPeftModelFor...`. Raises as `saving` does, and `PlaitError`, with nothing published, for
    weights that are not finite once the adapter is merged."""
    if is_main:
        with saving(out) as staging:
            trainer.save_state()
            model = trainer.accelerator.unwrap_model(trainer.model)
            has_adapter = hasattr(model, "merge_and_unload")
            if has_adapter:
                # The tags' rows are whole in the adapter, so that the base's own table will do, if it is as long as the
                # tokenizer, which peft sees to: no table of ours, padded and there twice where it is tied.
                tags = model.active_peft_config.trainable_token_indices
                model.save_pretrained(staging / "adapter", save_embedding_layers=False if tags else "auto")
                tokenizer.save_pretrained(staging / "adapter")
            merged = merge(model)
            if has_adapter:  # Other weights have been looked at.
                if not all(weight.isfinite().all() for weight in merged.parameters()):
                    raise trainer.diverged("merged weights are")
                publish(staging / "adapter", out / "adapter")
            save(merged, tokenizer, staging / "model")
            for name, text in (files or {}).items():
                (staging / "model" / name).write_text(text, encoding="utf-8")
            publish(staging / "model", out / "model")
    trainer.accelerator.wait_for_everyone()
