"""Tiny models with tokenizers, as folders that both transformers and plait load, and texts to train them on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from plait.rl.checkpoints import STAGING, checkpoints
from plait.rl.run_folder import CONFIG, write_config
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.errors import InvalidInput, PlaitError
from plait.runtime.spec import Spec
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.methods.multiverse.tools import Par, render
from plait.tests.test_full_disk import full_at

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
REWRITING = TEMPLATE.replace("{{ m.content }}", "{{ m.content if loop.last else '...' }}")
"""A template that shortens earlier turns."""
SIZE = 320
NUMBERS = ("1. one\n2. two\n 12. twelve", "def f(x):\n    return x + 12", "a   12\t 120")


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 4,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["Parallel Path Goal Outline Conclusion Think the plan so"] * 4, trainer)
    return tokenizer


def folder(path: Path, family: str = "llama", *, template: str = TEMPLATE, **overrides: Any) -> Path:
    """A model folder with a byte-level tokenizer."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer().to_str()), eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = template
    size = {"vocab_size": SIZE, "max_position_embeddings": 2048, "eos_token_id": 2, "pad_token_id": 0}
    model, _ = tiny(family, **{**size, **overrides})
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def splitting_digits(path: Path) -> Path:
    """A folder of SmolLM2's kind, whose tokens may hold digits."""
    data = json.loads((folder(path) / "tokenizer.json").read_text())
    for pair in (("\u0120", "1"), ("\u01201", "2"), ("1", "2")):
        data["model"]["vocab"]["".join(pair)] = len(data["model"]["vocab"])
        data["model"]["merges"].append(pair)
    (path / "tokenizer.json").write_text(json.dumps(data))
    return split_digits(path)


def split_digits(path: Path) -> Path:
    """Let the tokenizer.json of a folder split digits, and name a class that does not."""
    data = json.loads((path / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, data["pre_tokenizer"]]}
    (path / "tokenizer.json").write_text(json.dumps(data))
    own = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**own, "tokenizer_class": "GPT2Tokenizer"}))
    return path


def check_same_tokenizer(base: Path, published: Path) -> None:
    """What is published is read as its base is served, by transformers as well."""
    ids = [load_tokenizer(base).encode(text) for text in NUMBERS]
    assert [load_tokenizer(published).encode(text) for text in NUMBERS] == ids
    theirs = AutoTokenizer.from_pretrained(published)
    assert [theirs.encode(text) for text in NUMBERS] == ids


def learned_positions(path: Path, places: int) -> Path:
    """A folder of a GPT-2, which has a table of them."""
    folder(path)
    GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, n_positions=places, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        path
    )
    return path


def earlier_run(config: Spec, out: Path) -> dict[str, str]:
    """Make a folder look as if a run had ended in it; `files` of it."""
    for name, content in ((CONFIG, config.model_dump_json()), ("checkpoint-1/x", "x"), ("model/x", "x")):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content)
    return files(out)


def check_goes_on(train: Callable[..., Any], given: Spec, idle: Spec, out: Path, message: str) -> None:
    """A run that was begun with what does nothing, when that was not refused yet, goes on with it; to begin so is
    refused, and loses nothing. `given`: the run without it."""
    train(given, out)
    write_config(out, idle.model_dump(mode="json"))
    assert train(idle, out).is_finished
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InvalidInput, match=message):
        train(idle, out, fresh=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def train_loss(out: Path) -> float | None:
    """What a run says of all its steps, if it does."""
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    (told,) = [entry for entry in history if "train_runtime" in entry]
    return told.get("train_loss")


def files(out: Path) -> dict[str, str]:
    """What is in all files below."""
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}


def text(number: int) -> str:
    """A short Multiverse text."""
    rng = random.Random(number)
    paths = {str(i): [f" {rng.randrange(90)} and {rng.randrange(90)}"] for i in (1, 2)}
    return render(["<Think>\n", Par(paths, f"got {number}"), f"</Think>\n\nAnswer: {number}"])


def texts(path: Path, count: int = 6) -> Path:
    """JSON Lines of them, with what they are without blocks."""
    rows = [{"prompt": f"q{i}?", "text": text(i), "sequential": f"<Think>\nx{i}\n</Think>"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check_without_room(train):
    """A model of `train`, which gives its folder, that finds no room on the disk is one error, and the one before
    stays."""
    out = train()
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InvalidInput, match="cannot write .*out: "), full_at(len(before[out / "model.safetensors"]) - 1):
        train()
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert not (out.parent / STAGING).exists()


DIVERGING = {"learning_rate": 1e30, "save_steps": 1, "save_total_limit": 1}
"""Arguments of a trainer whose weights are finite still behind the first step, and in its checkpoint."""


def check_diverged(train: Callable[[Path], Any], out: Path, what: str, step: int = 2) -> None:
    """A run of `DIVERGING` is one error; the good checkpoint stays, and no model is published."""
    with pytest.raises(PlaitError, match=f"^step {step}: {what} not finite .* 1e[+]30; .*out/checkpoint-1$"):
        train(out)
    (last,) = checkpoints(out)
    assert all(weight.isfinite().all() for weight in load_file(last / "model.safetensors").values())
    assert not (out / "model").exists()
