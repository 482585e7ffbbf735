"""What the associative recall model is trained from by `plait train sft`: problems whose contexts are encoded
sequentially, and a model that knows nothing yet.

    python -m plait.rl.recall.samples data/recall      # data/recall/samples and data/recall/model
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...evals.benchmarks.rag.recall import INSTRUCTION, MOST_CONTEXTS, QUESTION, make
from ...runtime.cli.exit_status import exit_status
from ..countdown.samples import sample, save_samples
from ..countdown.tokenizer import BOS, PAD, save
from ..countdown.traces import EOS, Document
from ..samples import Sample
from .tokenizer import IDS, VOCABULARY, build

_EMBEDDING_STD = 0.12
MOST_QUESTIONS = 64
"""Of one document."""
_ALIKE = 1024
"""Tokens of documents of one size that come in a row, so that sizes have their shares of the tokens."""


def document(rng: random.Random, contexts: int) -> Document:
    """One problem's contexts, then up to 64 different questions with their answers; only answers are learnt."""
    problem = make(rng, contexts)
    pairs = [pair for context in problem.pairs for pair in context]
    made = Document()
    made.given(" ".join((INSTRUCTION, *problem.contexts)))
    asked = rng.sample(pairs, min(len(pairs), MOST_QUESTIONS))
    for number, (key, value) in enumerate(asked):
        # The first answer is as they are when the model serves: there it learns to end.
        made.given(f"{QUESTION} k{key}", instead=EOS if number == 1 else None)
        made.write(f"v{value}")
    made.write(EOS)
    return made


def samples(tokens: int, seed: int) -> Iterator[Sample]:
    """Until there are so many tokens; of all numbers of contexts, most of few: there the task is learnt first."""
    rng = random.Random(f"recall samples {seed}")
    while tokens > 0:
        contexts, left = int((MOST_CONTEXTS + 1) ** rng.random() ** 1.5), _ALIKE
        while left > 0:
            made = sample(document(rng, contexts), "recall", IDS)
            left -= len(made)
            tokens -= len(made)
            yield made


def save_untrained(folder: Path, seed: int) -> None:
    """A Llama model of transformers whose blocks begin with adding nothing: tokens are what attention sees first, which
    makes recall learnable."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=IDS[BOS],
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
            elif weight.dim() == 2:
                weight.normal_(std=_EMBEDDING_STD if "embed" in name else 0.6 * config.hidden_size**-0.5)
    model.save_pretrained(folder)
    save(build(), folder, config.max_position_embeddings)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    save_samples((one.row() for one in samples(args.tokens, args.seed)), args.out / "samples")
    save_untrained(args.out / "model", args.seed)


if __name__ == "__main__":
    sys.exit(exit_status(main))
