"""The vocabulary of the recall model and its tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer

from ...evals.benchmarks.rag.recall import CONTEXT, INSTRUCTION, NUM_KEYS, NUM_VALUES, QUESTION
from ..countdown.tokenizer import SPECIAL, UNKNOWN, word_level

VOCABULARY = (
    *SPECIAL,
    *(INSTRUCTION, CONTEXT, QUESTION),
    *(f"k{i}" for i in range(NUM_KEYS)),
    *(f"v{i}" for i in range(NUM_VALUES)),
)
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def build() -> Tokenizer:
    """One token per word."""
    return word_level(VOCABULARY, SPECIAL, UNKNOWN)
