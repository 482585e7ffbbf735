"""The configurations of tree search run: the paper's on random models of its family, ours on a real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import plait
from plait.evals.config import EvalConfig, read_toml
from plait.evals.runner import run
from plait.search import embeddings
from plait.tests.real import folder as real
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.search.test_frames import SPECIAL, save_tokenizer

CONFIGS = Path(plait.__file__).parent / "evals" / "configs"
PROBLEMS = [
    {"id": "a", "problem": "What is $1 + 1$?", "answer": "2", "level": 1},
    {"id": "b", "problem": "What is $10 + 10$?", "answer": "20", "level": 5},
    {"id": "c", "problem": "What is $2 + 2$? The answer is", "answer": "4", "level": 3},
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, PROBLEMS)))
    return path


def rows(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def llama(seed):
    """Llemma's architecture, with a tokenizer that has the step tag."""
    _, path = tiny("llama", vocab_size=256 + len(SPECIAL), num_key_value_heads=4, tie_word_embeddings=False, seed=seed)
    save_tokenizer(path)
    return str(path)


async def test_the_papers_configuration_runs(data, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "find_spec", lambda name: name)
    monkeypatch.setattr(embeddings, "_load", lambda model: lambda texts: [[len(text), 1.0] for text in texts])
    config = read_toml(CONFIGS / "papers" / "ets.toml")
    assert {method["label"] for method in config["methods"]} == {"ETS", "REBASE", "beam", "DVTS"}
    config |= {"model": llama(0), "engine": {"kv_tokens": 16384}}
    config["benchmark"] |= {"data": str(data), "count": 2}
    reward = {"reward": "prm", "model": llama(1), "format": "llemma", "options": {"kv_tokens": 16384}}
    for method in config["methods"]:
        assert method["width"] == [16, 64, 256] and "Llemma" in method["reward"]["model"]
        method |= {"width": [2, 4], "reward": reward, "step_tokens": 6, "max_tokens": 18}
    built = EvalConfig(**config)
    await run(built, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) == 2 * 4 * 2
    assert not any(row["error"] for unit in found for row in unit["rows"])


def test_the_papers_rules_find_what_its_policy_writes():
    config = read_toml(CONFIGS / "papers" / "ets.toml")
    config["benchmark"]["data"] = str(CONFIGS)
    method = EvalConfig(**config).methods[0]
    search = plait.TreeSearch(prompt="q", **method.fields)
    assert search.finishes("\nStep 3: 2 + 2 = 4. The answer is: 4 ки") and not search.finishes("\nStep 3: 4 ки")
    for text in ("Step 1: so ки\nStep 2: 4. The answer is: 4 ки", "The answer is: 4", "the final answer is 4\n"):
        assert plait.runtime.methods.answers.extract(search.answer, text) == "4"
    assert search.strategy.cost == "nodes" and search.step_embedding.startswith("sentence-transformers:math-similarity")


async def test_a_search_on_mathematics_needs_no_second_model(data, tmp_path):
    """Ours, on one problem; what it gives to the rest is the benchmark's."""
    config = read_toml(CONFIGS / "tree_search.toml")
    config |= {"model": str(real("smol135")), "engine": {"kv_tokens": 8192}}
    config["benchmark"] |= {"data": str(data), "count": 1}
    for method in config["methods"]:
        assert method["width"] == 16 and method["reward"] == "self_certainty"
        method |= {"width": 3, "max_tokens": 48, "step_tokens": 24}
    await run(EvalConfig(**config), tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) == 4 and not any(row["error"] for unit in found for row in unit["rows"])


def test_levels_are_counted_after_choosing(data):
    config = read_toml(CONFIGS / "tree_search.toml")
    config["benchmark"] |= {"data": str(data), "count": 2}
    built = EvalConfig(**config)
    samples = built.benchmark.load()
    assert [sample.id for sample in samples] == ["a", "c"]
    method = built.methods[1].build(built.benchmark, samples[0], None)
    assert method.question == "What is $1 + 1$?" and method.finishes(r"so \boxed{2}") and method.answer == "boxed"
    assert not method.finishes("so 2")
