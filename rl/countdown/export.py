"""Write a checkpoint of `rl.countdown.train`, or a folder of `plait train sft`, as the shipped model is.

python -m plait.rl.countdown.export runs/countdown/checkpoint.pt models/countdown
python -m plait.rl.countdown.export runs/countdown/model models/countdown
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from ...runtime.cli.exit_status import exit_status
from .model import Model, ModelConfig
from .tokenizer import build, save


def export(checkpoint: Path, folder: Path) -> None:
    """The model of a checkpoint, or of a folder of transformers' format, with the Countdown tokenizer."""
    if checkpoint.is_dir():
        model = Model(ModelConfig())
        model.load_hf(load_file(checkpoint / "model.safetensors"))
        save_model(model, build(), folder)
        return
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = Model(ModelConfig(**state["config"]))
    model.load_state_dict(state["model"])
    save_model(model, build(), folder)


def save_model(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """config.json, generation_config.json, model.safetensors (bfloat16) and the tokenizer; other files stay."""
    config = model.config
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.safetensors.part"
    save_file(model.to_hf(), part, metadata={"format": "pt"})
    part.chmod(0o644)  # save_file leaves it to its owner alone
    part.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_hf(), indent=2) + "\n")
    generation = {
        "do_sample": False,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
        "pad_token_id": config.pad_id,
        "max_length": config.max_positions,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save(tokenizer, folder, config.max_positions)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    export(args.checkpoint, args.folder)


if __name__ == "__main__":
    sys.exit(exit_status(main))
