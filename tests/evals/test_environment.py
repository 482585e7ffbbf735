"""Fingerprints of what an evaluation ran: they change with it, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from plait.evals.benchmark import Sample
from plait.evals.environment import model_digest, samples_digest

MIB = 1 << 20


@pytest.mark.parametrize("scheme", ["", "native:", "vllm:"])
@pytest.mark.parametrize("name", ["m.gguf", "folder"])
def test_another_model_in_the_same_place_is_another(tmp_path, scheme, name):
    path = tmp_path / name
    file = path
    if name == "folder":
        path.mkdir()
        file = path / "m.gguf"
    digests = []
    for content in (b"one", b"two", b"longer", b"a" + bytes(3 * MIB), b"b" + bytes(3 * MIB), bytes(3 * MIB) + b"b"):
        file.write_bytes(content)
        digests.append(model_digest(f"{scheme}{path}"))
        assert digests[-1] is not None and model_digest(f"{scheme}{path}") == digests[-1]
    assert len({*digests}) == len(digests)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin", "tokenizer.model", "config.json", "model.safetensors", "chat_template.jinja", "merges.txt",
        "additional_chat_templates/tool_use.jinja",
    ],
)  # fmt: skip
def test_every_file_of_a_folder_that_makes_the_model_counts(tmp_path, name):
    found = []
    for text in ("one", "two"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        found.append(model_digest(str(tmp_path)))
        (tmp_path / "README.md").write_text(text)
        assert model_digest(str(tmp_path)) == found[-1]
    assert found[0] != found[1]


def test_what_is_not_on_this_disk_has_no_digest():
    for model in ("org/name", "org/name:FILE.gguf", "openai:http://127.0.0.1:1/v1", "", "x" * 5000, "replay:none"):
        assert model_digest(model) is None, model
    assert model_digest("countdown") == model_digest("native:countdown") is not None


@dataclass
class Given:
    numbers: list[int]
    known: frozenset[str]


PLAIN = [None, 3, 2.5, "x", [1, (2, "y")], {"a": {"b": [1]}, 3: None}, Path("a/b")]
UNSTABLE = [
    {"word", "other", "third", "fourth"},
    {("a", 1): {"x"}, ("b", 2): Given([3], frozenset("abcdef"))},
    object(),
    lambda: None,
    threading.Lock(),
    (n for n in range(3)),
]


def digest(data):
    return samples_digest([Sample(id="a", question="?", reference=None, data=data)])


@pytest.mark.parametrize("data", PLAIN, ids=repr)
def test_problems_of_plain_data_are_known_by_what_json_says_of_them(data):
    """So evaluations that were begun earlier go on."""
    rows = [astuple(Sample(id="a", question="?", reference=None, data=data))]
    assert digest(data) == hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()[:16]


def test_problems_are_the_same_in_every_process():
    ask = "from plait.tests.evals.test_environment import *; print(*map(digest, UNSTABLE))"
    # This one's seed is drawn, so its sets are in another order.
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.check_output([sys.executable, "-c", ask], env=env, text=True)
    assert told.split() == [*map(digest, UNSTABLE)]


def test_other_data_is_another_problem():
    others = [
        {1, 2},
        {1, 3},
        {(1, 2): 3},
        {(1, 2): 4},
        {(1, 3): 3},
        Given([1], frozenset("a")),
        Given([1], frozenset("b")),
    ]
    assert len({*map(digest, others)}) == len(others)
