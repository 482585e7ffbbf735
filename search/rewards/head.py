"""`Head`: from the last hidden state at the end of a step to its score, in the conventions of published models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.engine import Tokenizer
from ...runtime.engines.native.checkpoint import Checkpoint, open_checkpoint
from ...runtime.errors import InvalidInput

_CLASSIFIERS = ("ForTokenClassification", "ForSequenceClassification")


@dataclass(frozen=True, slots=True)
class Head:
    """`softmax(weight @ h + bias)[good]`; with a single row `sigmoid`."""

    weight: NDArray[np.float32]
    """(L, C)."""
    bias: NDArray[np.float32]
    """(L,)."""
    good: int = 0
    """The row that speaks for the step."""

    def score(self, hidden_state: Sequence[float]) -> float:
        logits = self.weight @ np.asarray(hidden_state, dtype=np.float32) + self.bias
        others = logits if len(logits) > 1 else np.append(logits, 0.0)
        others = np.exp(others - others.max())
        return float(others[self.good] / others.sum())


def is_classifier(path: Path) -> bool:
    """Does the checkpoint have a classification head in place of an output layer?"""
    return any(str(name).endswith(_CLASSIFIERS) for name in open_checkpoint(path).config.get("architectures") or [])


def load_head(path: Path, tokenizer: Tokenizer, good: str, bad: str) -> Head:
    """The head of a process reward model, in a folder or a GGUF file.

    A token or sequence classifier brings it (`score.weight`, `score.bias`): one label is a logit, of several the last
    one speaks for the step. Of a causal language model it is the output layer's rows of the words `good` and `bad`, as
    in Math-Shepherd (arXiv 2312.08935). Raises `InvalidInput`.
    """
    checkpoint = open_checkpoint(path)
    if is_classifier(path):
        weight = _tensor(checkpoint, "score.weight")
        if weight is None:
            raise InvalidInput(f"{path} says it is a classifier and lacks the tensor score.weight")
        bias = _tensor(checkpoint, "score.bias")
        bias = np.zeros(len(weight), dtype=np.float32) if bias is None else bias
        return Head(weight, bias, len(weight) - 1)
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    ids = []
    for word in (good, bad):
        tokens = tokenizer.encode(word)[len(tokenizer.prefix_ids) :]
        if len(tokens) != 1:
            raise InvalidInput(f"{path}: {word!r} must be one token to tell good steps from bad, it is {len(tokens)}")
        ids.append(tokens[0])
    weight = _tensor(checkpoint, name, ids)
    if weight is None:
        raise InvalidInput(f"{path} lacks the tensor {name}")
    return Head(weight, np.zeros(2, dtype=np.float32))


def _tensor(checkpoint: Checkpoint, name: str, rows: Sequence[int] | None = None) -> NDArray[np.float32] | None:
    """A tensor, or some of its rows."""
    try:
        array: NDArray[np.float32] = checkpoint.tensor(name, torch.float32, rows).numpy()
    except KeyError:
        return None
    return array
