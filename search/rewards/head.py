"""`Head`: from the last hidden state at the end of a step to its score, in the conventions of published models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.engine import Tokenizer
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


def is_classifier(folder: Path) -> bool:
    """Does the checkpoint have a classification head in place of an output layer?"""
    return any(str(name).endswith(_CLASSIFIERS) for name in _config(folder).get("architectures") or [])


def load_head(folder: Path, tokenizer: Tokenizer, good: str, bad: str) -> Head:
    """The head of a process reward model.

    A token or sequence classifier brings it (`score.weight`, `score.bias`): one label is a logit, of several the last
    one speaks for the step. Of a causal language model it is the output layer's rows of the words `good` and `bad`, as
    in Math-Shepherd (arXiv 2312.08935). Raises `InvalidInput`.
    """
    if is_classifier(folder):
        weight = _tensor(folder, "score.weight")
        if weight is None:
            raise InvalidInput(f"{folder} says it is a classifier and lacks the tensor score.weight")
        bias = _tensor(folder, "score.bias")
        bias = np.zeros(len(weight), dtype=np.float32) if bias is None else bias
        return Head(weight, bias, len(weight) - 1)
    tied = bool(_config(folder).get("tie_word_embeddings"))
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    ids = []
    for word in (good, bad):
        tokens = tokenizer.encode(word)[len(tokenizer.prefix_ids) :]
        if len(tokens) != 1:
            raise InvalidInput(f"{folder}: {word!r} must be one token to tell good steps from bad, it is {len(tokens)}")
        ids.append(tokens[0])
    weight = _tensor(folder, name, ids)
    if weight is None:
        raise InvalidInput(f"{folder} lacks the tensor {name}")
    return Head(weight, np.zeros(2, dtype=np.float32))


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder}: no readable config.json: {error}") from None
    return config if isinstance(config, dict) else {}


def _tensor(folder: Path, name: str, rows: Sequence[int] | None = None) -> NDArray[np.float32] | None:
    """A tensor, or some of its rows, from whichever weight file has it."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():
                found = tensors.get_slice(name)
                picked = found[:] if rows is None else found[list(rows)]
                array: NDArray[np.float32] = picked.float().numpy()
                return array
    return None
