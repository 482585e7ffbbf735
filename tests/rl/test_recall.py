"""Training documents of the recall model."""

from __future__ import annotations

import itertools
import random

from plait.rl.countdown.batch import IGNORED
from plait.rl.recall.tokenizer import IDS, VOCABULARY, build
from plait.rl.recall.train import CONFIG, document, stream


def test_labels_are_the_answers_of_the_questions():
    for contexts in (1, 5, 64):
        inputs, labels = document(random.Random(contexts), contexts)
        words = [VOCABULARY[token] for token in inputs]
        text = " ".join(words)
        asked = [i for i, word in enumerate(words) if word == "?"]
        assert words[:2] == ["<bos>", "recall"] and words.count(":") == contexts
        for i in asked:
            assert VOCABULARY[labels[i + 1]] == words[i + 2]
            assert f"{words[i + 1]} {words[i + 2]}" in text[: text.index("?")]
        assert sum(label != IGNORED for label in labels) == 2 * len(asked)
        assert len({words[i + 1] for i in asked}) == len(asked)


def test_the_stream_is_seeded_and_sized():
    first, again = (list(itertools.islice(stream(random.Random(3), 1024), 20)) for _ in range(2))
    assert all((a.inputs == b.inputs).all() for a, b in zip(first, again, strict=True))
    assert all(batch.inputs.numel() <= 1024 for batch in first)
    assert len({batch.kind for batch in first}) > 3


def test_the_tokenizer_knows_every_word():
    assert build().encode("recall : k255 v31 ? k0", add_special_tokens=False).ids == [
        IDS[w] for w in "recall : k255 v31 ? k0".split()
    ]
    assert CONFIG.vocabulary == len(VOCABULARY) == len(IDS)
