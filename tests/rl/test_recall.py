"""Training samples of the recall model, and what it begins as."""

from __future__ import annotations

import random

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from plait.rl.countdown.export import export
from plait.rl.recall.samples import document, samples, save_untrained
from plait.rl.recall.tokenizer import IDS, VOCABULARY, build


def test_answers_are_learnt_and_the_first_ends_there():
    for contexts in (1, 5, 64):
        made = document(random.Random(contexts), contexts)
        words = made.words
        asked = [i for i, word in enumerate(words) if word == "?"]
        contexts_told = " ".join(words[: asked[0]])
        assert words[0] == "recall" and contexts_told.count(":") == contexts and words[-1] == "<eos>"
        for i in asked:
            assert made.labels[i : i + 3] == ["<eos>" if i in asked[1:2] else None, None, words[i + 2]]
            assert f"{words[i + 1]} {words[i + 2]}" in contexts_told
        assert len({words[i + 1] for i in asked}) == len(asked)
        assert made.labels[: asked[0]] == [None] * asked[0]


def test_samples_are_seeded_and_of_all_sizes():
    first, again, other = (list(samples(30_000, seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(a.mask.token_ids, b.mask.token_ids) for a, b in zip(first, again, strict=True))
    assert first[0].mask.token_ids != other[0].mask.token_ids
    assert 30_000 <= sum(map(len, first)) < 30_000 + 1024 + max(map(len, first))
    contexts = {one.mask.token_ids.count(IDS[":"]) for one in first}
    assert min(contexts) == 1 and max(contexts) > 30 and len(contexts) > 8
    ends = [one.mask.token_ids.count(IDS["<eos>"]) for one in first]
    assert {*ends} == {1, 2}  # of two questions or more, the first ends beside the second


def test_the_untrained_model_says_its_embeddings_and_is_exported_as_served(tmp_path):
    save_untrained(tmp_path / "made", seed=1)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "made")
    ids = torch.tensor([[IDS[word] for word in ("<bos>", "recall", ":", "k3", "v4")]])
    x = model.model.embed_tokens(ids)
    expected = model.lm_head(model.model.norm(x))
    torch.testing.assert_close(model(ids).logits, expected)
    export(tmp_path / "made", tmp_path / "shipped")
    assert AutoTokenizer.from_pretrained(tmp_path / "shipped").encode("recall : k3")[1:] == [
        IDS[w] for w in ("recall", ":", "k3")
    ]
    shipped = LlamaForCausalLM.from_pretrained(tmp_path / "shipped", dtype=torch.bfloat16)
    assert shipped.config.vocab_size == len(VOCABULARY)
    for name, weight in shipped.named_parameters():
        assert torch.equal(weight, model.get_parameter(name).bfloat16()), name


def test_the_tokenizer_knows_every_word():
    assert build().encode("recall : k255 v31 ? k0", add_special_tokens=False).ids == [
        IDS[w] for w in "recall : k255 v31 ? k0".split()
    ]
