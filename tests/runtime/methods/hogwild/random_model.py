"""A random model whose files are the same everywhere: what the published code was run on to record its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "</think>")
MERGED = (
    "\n\n", ".\n\n", "?\n\n", "!\n\n", ",\n\n", "\u3002\n\n", "\uff1f\n\n", "##", "###", "``", "```", "$$", "**",
    "e.\n\n", "s.\n\n", "t.\n\n", ").\n\n",
)  # fmt: skip
"""Pieces of more than one character. A blank line behind a full stop is one piece, as in the vocabularies of Qwen."""
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "torch_dtype": "float32",
    "bos_token_id": None,
    "eos_token_id": 2,
}


def build(folder: Path, seed: int) -> Path:
    """Write model and tokenizer of a seed; numpy promises that the numbers never change (`RandomState`)."""
    folder.mkdir(parents=True, exist_ok=True)
    size = _tokenizer(folder)
    config = {**SHAPE, "vocab_size": size}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "do_sample": False}))
    save_file(_weights(size, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tokenizer(folder: Path) -> int:
    letters = ["\n", *map(chr, range(32, 127)), "\u3002", "\uff1f", "\ufffd"]
    merges, pieces = [], [*SPECIAL, *letters]
    for piece in MERGED:
        # The longest end that is a piece already, so that one merge makes it.
        end = next(piece[i:] for i in range(1, len(piece)) if piece[i:] in pieces and piece[:i] in pieces)
        merges.append((piece[: len(piece) - len(end)], end))
        pieces.append(piece)
    vocab = {piece: id for id, piece in enumerate(pieces)}
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token="\ufffd"))
    raw.decoder = tokenizers.decoders.Fuse()
    raw.add_special_tokens(list(SPECIAL))
    raw.save(str(folder / "tokenizer.json"))
    own = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    return len(pieces)


def _weights(size: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(seed)

    def normal(*shape: int, std: float = 0.15, mean: float = 0.0) -> np.ndarray:
        return (rng.standard_normal(shape) * std + mean).astype(np.float32)

    hidden, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    found = {"model.embed_tokens.weight": normal(size, hidden)}
    for layer in range(SHAPE["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for part, out in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2)):
            found[f"{at}.self_attn.{part}_proj.weight"] = normal(out, hidden)
            found[f"{at}.self_attn.{part}_proj.bias"] = normal(out, std=0.3)
        found[f"{at}.self_attn.o_proj.weight"] = normal(hidden, hidden)
        found[f"{at}.mlp.gate_proj.weight"] = normal(inner, hidden)
        found[f"{at}.mlp.up_proj.weight"] = normal(inner, hidden)
        found[f"{at}.mlp.down_proj.weight"] = normal(hidden, inner)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}.{norm}.weight"] = normal(hidden, std=0.2, mean=1.0)
    found["model.norm.weight"] = normal(hidden, std=0.2, mean=1.0)
    found["lm_head.weight"] = normal(size, hidden)
    return found
