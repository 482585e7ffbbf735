"""Write a checkpoint of `rl.countdown.train`, or a folder of `plait train sft`, as the shipped models are.

python -m plait.rl.countdown.export runs/countdown/checkpoint.pt models/countdown
python -m plait.rl.countdown.export runs/recall/model models/recall
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from ...runtime.cli.exit_status import exit_status
from ...runtime.errors import InvalidInput
from .model import Model, ModelConfig
from .tokenizer import build, save


def export(checkpoint: Path, folder: Path) -> None:
    """The model of a checkpoint, with the Countdown tokenizer, or of a folder of transformers' format, with its own."""
    if not checkpoint.is_dir():
        save_model(read_checkpoint(checkpoint), build(), folder)
        return
    with _reading(checkpoint):
        told = json.loads((checkpoint / "config.json").read_text())
        config = {name: told[name] for name in ModelConfig().to_hf()} | {"dtype": "bfloat16"}
        weights = {name: w.to(torch.bfloat16) for name, w in load_file(checkpoint / "model.safetensors").items()}
        tokenizer = Tokenizer.from_str((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    _save(weights, config, tokenizer, folder)


def read_checkpoint(file: Path) -> Model:
    """The model of a checkpoint. Raises `InvalidInput`."""
    with _reading(file):
        state = torch.load(file, map_location="cpu", weights_only=True)
        model = Model(ModelConfig(**state["config"]))
        model.load_state_dict(state["model"])
    return model


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What is wrong with a checkpoint or a folder is `InvalidInput`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, SafetensorError,
            UnpicklingError) as error:  # fmt: skip
        raise InvalidInput(f"{path} holds no model that can be written as the shipped ones: {error!r:.300}") from error


def save_model(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """config.json, generation_config.json, model.safetensors (bfloat16) and the tokenizer; other files stay."""
    _save(model.to_hf(), model.config.to_hf(), tokenizer, folder)


def _save(weights: dict[str, torch.Tensor], config: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.safetensors.part"
    save_file(weights, part, metadata={"format": "pt"})
    part.chmod(0o644)  # save_file leaves it to its owner alone
    part.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {
        "do_sample": False,
        **{name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "max_length": config["max_position_embeddings"],
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save(tokenizer, folder, config["max_position_embeddings"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    export(args.checkpoint, args.folder)


if __name__ == "__main__":
    sys.exit(exit_status(main))
