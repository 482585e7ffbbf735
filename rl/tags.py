"""Control tags as tokens of their own: in the tokenizer, in the embedding, in the saved folder.

Rows of new tokens are the mean of the rows of the tag's word pieces, without its angle brackets if there is more to it,
in the embedding and in an untied head; the vocabulary is padded to a multiple of 64 (arXiv 2506.09991, released
training code).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..runtime.methods.multiverse.grammar import TAGS

MULTIPLE = 64
"""Rows of the embedding are padded to it."""


def add_tags(model: Any, tokenizer: Any, tags: Sequence[str] = TAGS) -> list[int]:
    """Make each tag one token of a model and tokenizer of transformers; the ids of all tags.

    Those that are tokens already stay as they are, so that it does nothing the second time.
    """
    new = [tag for tag in tags if tag not in tokenizer.get_vocab()]
    # A tokenizer of words may know no piece of a tag: then the mean of all rows.
    known = list(range(len(tokenizer)))
    encode = partial(tokenizer.encode, add_special_tokens=False)
    pieces = {tag: encode(tag.strip("<>")) or encode(tag) or known for tag in new}
    if new:
        tokenizer.add_tokens(new, special_tokens=True)
        # The rows that transformers makes up are all written over below.
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=MULTIPLE, mean_resizing=False)
    tables = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0].weight:
        tables.append(head)
    with torch.no_grad():
        for table in tables:
            for tag, ids in pieces.items():
                table.weight[tokenizer.convert_tokens_to_ids(tag)] = table.weight[ids].float().mean(0)
            if new:  # Nobody is to sample what only fills the table up.
                table.weight[len(tokenizer) :] = table.weight[: len(tokenizer)].float().mean(0)
    return [int(tokenizer.convert_tokens_to_ids(tag)) for tag in tags]


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """A folder that `plait.Runtime` loads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def merge(model: Any) -> Any:
    """A model without its adapter: what that has learnt is in the weights."""
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    merged.config.use_cache = True
    return merged
