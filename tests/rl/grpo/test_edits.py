"""The reward is the tests: a model learns from edits of a tiny repository, each tried out in a sandbox."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Literal

import pytest
import torch
from tokenizers import decoders
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from plait.evals.benchmark import Sample, register_benchmark
from plait.evals.benchmarks.repairs.benchmark import Repairs
from plait.evals.benchmarks.repairs.problems import Problem
from plait.rl.checkpoints import checkpoints
from plait.rl.countdown.tokenizer import BOS, UNKNOWN, save, word_level
from plait.rl.grpo.config import GRPOConfig
from plait.rl.grpo.train import train
from plait.tests.rl.tools import TEMPLATE

LETTERS = "abcdefgh"
EDIT = '<edit>\n<file path="pick.py">\nLETTER = "{}"\n</file>\n</edit>'
TEST = """\
import unittest

import pick


class TestPick(unittest.TestCase):
    def test_vowel(self):
        self.assertIn(pick.LETTER, "ae")
"""


@register_benchmark
class Picks(Repairs):
    """One file that is to hold a vowel."""

    name: Literal["test_picks"] = "test_picks"  # type: ignore[assignment]
    """What configurations call it."""

    def load(self) -> list[Sample]:
        problem = partial(
            Problem, project="pick", kind="wrong letter", files={"pick.py": 'LETTER = "x"\n'},
            fixed={"pick.py": 'LETTER = "a"\n'}, hidden={"test_pick.py": TEST},
        )  # fmt: skip
        issues = ["LETTER must be a vowel", "x is no vowel"]
        problems = [problem(name=f"pick{number}", issue=issue) for number, issue in enumerate(issues)]
        return [Sample(id=one.name, question=one.issue, data=one) for one in problems]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model that hardly has anything to say but edits: each is one token."""
    path = tmp_path_factory.mktemp("editor")
    words = [BOS, "<eos>", "<pad>", UNKNOWN, "LETTER", "vowel", *(EDIT.format(letter) for letter in LETTERS)]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )
    )  # fmt: skip
    model.save_pretrained(path)
    words_of = word_level(words, words[:4], UNKNOWN)
    words_of.decoder = decoders.Fuse()  # lines of an edit begin where they begin
    save(words_of, path, 2048)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


def test_edits_that_pass_the_tests_are_reinforced(folder, tmp_path):
    method = {
        "method": "code_monkeys", "n": 1, "test_calls": 0, "edit_calls": 1, "selection_calls": 0, "edits": "files",
        "files": ["pick.py"], "max_tokens": 1,
    }  # fmt: skip
    config = GRPOConfig(
        model=str(folder),
        benchmark={"name": "test_picks", "cache": str(tmp_path / "cache"), "sandbox": "local"},
        method=method,
        group=8,
        prompts=2,
        steps=3,
        learning_rate=2e-2,
        concurrency=4,
        engine={"kv_tokens": 32768},
        traces_every=1,
        trainer={"disable_tqdm": True, "save_steps": 3},
    )
    train(config, tmp_path / "out")
    state = json.loads((checkpoints(tmp_path / "out")[-1] / "trainer_state.json").read_text())
    steps = [line for line in state["log_history"] if "loss" in line]
    assert len(steps) == 3 and all(math.isfinite(line["loss"]) for line in steps)
    assert any(line["grad_norm"] > 0 for line in steps)
    assert all(line["importance/gap_max"] < 1e-4 for line in steps)
    assert 0 < steps[0]["accuracy"] < 1
    # The tests' verdicts reach the weights: what passes them becomes likelier.
    assert steps[-1]["accuracy"] > steps[0]["accuracy"]
