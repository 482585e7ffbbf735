"""The end of a turn among several ends of a text, against where the template itself puts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.rl.config import DataConfig
from plait.rl.texts import chat_samples, read_samples
from plait.rl.turn_end import turn_end
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.tests.rl.tools import REWRITING, TEMPLATE, folder

USERS = TEMPLATE.replace("<|end|>", "{{ '<|end|>' if m.role == 'user' else '<|pad|>' }}")
"""A template in which the assistant's turns end otherwise than the user's."""
BARE = TEMPLATE.replace("<|end|>", "")
REFUSING = "{% for m in messages %}{{ raise_exception('no') if m.role == 'assistant' else m.content }}{% endfor %}"


def tokenizer(path: Path, template: str, ends: list[int]) -> HFTokenizer:
    folder(path, template=template)
    file = path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": ends}))
    return load_tokenizer(path)


@pytest.mark.parametrize(
    ("template", "ends", "found"),
    [
        (TEMPLATE, [1, 0, 2], 2),
        (TEMPLATE, [1], 1),
        (REWRITING, [0, 2], 2),
        (USERS, [1, 2, 0], 0),
        # What the tokenizer calls its end, if it is one of them.
        (BARE, [0, 2], 2),
        (REFUSING, [0, 2], 2),
        (BARE, [0, 5], 0),
    ],
)
def test_a_turn_ends_as_the_template_ends_it(template, ends, found, tmp_path):
    assert turn_end(tokenizer(tmp_path, template, ends)) == (found,)


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> HFTokenizer:
    return tokenizer(tmp_path_factory.mktemp("model"), TEMPLATE, [1, 0, 2])


@settings(deadline=None, max_examples=25)
@given(contents=st.lists(st.text("ab \n", min_size=1), min_size=2, max_size=6))
def test_a_chat_is_trained_as_the_template_writes_it(contents, several):
    """One sequence, whose tokens are the template's own up to the end of the last answer."""
    contents = contents[: len(contents) // 2 * 2]
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    (sample,) = chat_samples(several, messages)
    whole = several.decode(several.chat(messages))
    assert whole.startswith(several.decode(sample.mask.token_ids))
    last = [sample.mask.token_ids[at] for at in sample.target[sample.is_trained] if sample.mask.token_ids[at] < 3]
    assert last == [2] * (len(messages) // 2)


@pytest.mark.parametrize("kind", ["texts", "chat"])
def test_texts_and_completions_end_so_too(kind, several, tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "q?", "text": "so", "completion": "so"}))
    (sample,) = read_samples(DataConfig(kind=kind, paths=(str(tmp_path / "one.jsonl"),)), several, 99).parallel
    assert sample.mask.token_ids[-1] == 2 and sample.target[-2] == len(sample) - 1
