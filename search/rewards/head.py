"""`Head`: from the last hidden state at the end of a step to its score, in the conventions of published models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.engine import Completion, SamplingParams, Tokenizer
from ...runtime.engines.native.checkpoint import Checkpoint, open_checkpoint
from ...runtime.engines.native.config import HEADLESS, ModelConfig
from ...runtime.errors import InvalidInput
from .frames import HeadKind

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weight (O, I) and bias (O,)."""


@dataclass(frozen=True, slots=True)
class Head:
    """Linear layers with ReLUs between them, then `softmax(logits)[good]`; with a single logit `sigmoid`."""

    layers: tuple[Layer, ...]
    good: int = 0
    """The logit that speaks for the step."""
    cap: float | None = None
    """c: logits s become c * tanh(s / c), as the model's own do."""

    @property
    def params(self) -> SamplingParams:
        """What to ask of the engine at the end of a step."""
        return SamplingParams(max_tokens=0, hidden_state=True)

    def score(self, completion: Completion) -> float:
        """NaN without a hidden state."""
        if completion.hidden_state is None:
            return float("nan")
        x = np.asarray(completion.hidden_state, dtype=np.float32)
        for place, (weight, bias) in enumerate(self.layers):
            x = weight @ (np.maximum(x, 0) if place else x) + bias
        if self.cap is not None:
            x = self.cap * np.tanh(x / self.cap)
        logits = x if len(x) > 1 else np.append(x, np.float32(0))
        shares = np.exp(logits - logits.max())
        return float(shares[self.good] / shares.sum())


def has_own_head(path: Path) -> bool:
    """Does the checkpoint have another head than an output layer?"""
    return any(architecture.endswith(HEADLESS) for architecture in architectures(path))


def architectures(path: Path) -> list[str]:
    """What the checkpoint calls itself."""
    return [str(name) for name in open_checkpoint(path).config.get("architectures") or []]


def load_head(path: Path, tokenizer: Tokenizer, good: str = "+", bad: str = "-", kind: HeadKind = "words") -> Head:
    """The head of a process reward model, in a folder or a GGUF file.

    A classifier brings it: `score`, one layer or two with a ReLU (Qwen2.5-Math-PRM), or a value head `v_head`
    (Skywork). One label is a logit, of several the last one speaks for the step. Of a causal language model it is the
    output layer's rows of the words `good` and `bad`, as in Math-Shepherd (arXiv 2312.08935), or the mean of its rows
    (`kind="mean"`), as in Llemma's reward model. Raises `InvalidInput`.
    """
    checkpoint = open_checkpoint(path)
    if has_own_head(path):
        for names in (("score",), ("score.0", "score.2"), ("v_head.summary",)):
            layers = [_layer(checkpoint, name) for name in names]
            if found := tuple(layer for layer in layers if layer is not None):
                if len(found) < len(names):
                    raise InvalidInput(f"{path} has a part of the head {', '.join(names)}")
                return Head(found, len(found[-1][0]) - 1)
        raise InvalidInput(f"{path} says it is a classifier and lacks the tensors score.weight, score.0 or v_head")
    config = ModelConfig.from_hf(checkpoint.config)
    if kind == "mean" and config.logit_cap is not None:
        raise InvalidInput(f"{path} caps its logits, of which the mean is then no layer's")
    name = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
    ids = None if kind == "mean" else [_word(path, tokenizer, word) for word in (good, bad)]
    weight = _tensor(checkpoint, name, ids)
    if weight is None:
        raise InvalidInput(f"{path} lacks the tensor {name}")
    if kind == "mean":
        weight = weight.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
    return Head(((weight, np.zeros(len(weight), dtype=np.float32)),), cap=config.logit_cap)


def _word(path: Path, tokenizer: Tokenizer, word: str) -> int:
    tokens = tokenizer.encode(word)[len(tokenizer.prefix_ids) :]
    if len(tokens) != 1:
        raise InvalidInput(f"{path}: {word!r} must be one token to tell good steps from bad, it is {len(tokens)}")
    return tokens[0]


def _layer(checkpoint: Checkpoint, name: str) -> Layer | None:
    weight, bias = _tensor(checkpoint, f"{name}.weight"), _tensor(checkpoint, f"{name}.bias")
    if weight is None:
        return None
    return weight, np.zeros(len(weight), dtype=np.float32) if bias is None else bias


def _tensor(checkpoint: Checkpoint, name: str, rows: Sequence[int] | None = None) -> NDArray[np.float32] | None:
    """A tensor, or some of its rows."""
    try:
        array: NDArray[np.float32] = checkpoint.tensor(name, torch.float32, rows).numpy()
    except KeyError:
        return None
    return array
