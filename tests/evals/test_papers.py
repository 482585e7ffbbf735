"""The configurations of papers: what is compared runs alike; that of Multiverse runs on a tiny model of its family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

import plait
from plait.evals import EvalConfig, run
from plait.evals.config import read_toml
from plait.evals.export import records
from plait.runtime.methods.multiverse.dialects import DIALECTS
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.tokenizer_kinds import BOS, EOS, raw

CONFIGS = Path(plait.__file__).parent / "evals" / "configs"
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}<s>assistant\n"


@pytest.fixture(scope="module")
def folders():
    """A tiny random Qwen2.5 with the tags of each dialect as tokens, and one with none."""
    found = {}
    for name in ("multiverse", "npr", ""):
        tokenizer = Tokenizer.from_str(raw("byte-level, digits by three").to_str())
        tags = DIALECTS[name].tags if name else ()
        tokenizer.add_special_tokens([AddedToken(tag, special=True) for tag in tags])
        size = tokenizer.get_vocab_size()
        _, path = tiny("qwen2", vocab_size=size, max_position_embeddings=2048)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, chat_template=TEMPLATE)
        fast.save_pretrained(path)
        found[name] = path
    return found


def shrunk(name, model, data, tokens):
    found = read_toml(CONFIGS / name)
    found |= {"model": str(model), "engine": {"device": "cpu", "kv_tokens": 16384}}
    found["benchmark"] |= {"data": str(data), "count": 2}
    for method in found["methods"]:
        method |= {"max_tokens": tokens}
        if "attempts" in method:
            method["attempts"] = 2
    return found


@pytest.fixture
def problems(tmp_path):
    rows = [{"problem": "What is 17 * 23?", "answer": "391"}, {"problem": "What is 2 + 2?", "answer": "4"}]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("name", "method", "varied"),
    [("hogwild", "hogwild", {"label", "attempts", "layout"}), ("ets", "tree_search", {"label", "strategy"})],
)
def test_what_a_paper_compares_differs_in_nothing_else(name, method, varied):
    methods = read_toml(CONFIGS / "papers" / f"{name}.toml")["methods"]
    first, *others = ({k: v for k, v in m.items() if k not in varied} for m in methods if m["method"] == method)
    assert others and all(other == first for other in others)


@pytest.mark.parametrize("dialect", ["multiverse", "npr"])
async def test_multiverse(folders, problems, tmp_path, dialect):
    data = read_toml(CONFIGS / "papers" / "multiverse.toml")
    assert [(m["attempts"], m["temperature"], m["top_p"], m["max_tokens"]) for m in data["methods"]] == [
        (8, 0.6, 0.95, 32000)
    ] * 2
    data = shrunk("papers/multiverse.toml", folders[dialect], problems, 48)
    for method in data["methods"]:
        method["dialect"] = dialect
    await run(EvalConfig(**data), tmp_path / "out")
    found = list(records(tmp_path / "out"))
    assert len(found) == 2 * 2 * 2 and not any(row["failed"] for row in found)
    assert all(row["total_tokens"] > 0 for row in found)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "# parallel" in report and "Multiverse-zero" in report


async def test_multiverse_with_another_models_tags(folders, problems, tmp_path):
    data = shrunk("papers/multiverse.toml", folders["npr"], problems, 48)
    with pytest.raises(plait.InvalidInput, match="has the tags of npr: give dialect='npr'"):
        await run(EvalConfig(**data), tmp_path / "out")


async def test_guided(folders, problems, tmp_path):
    data = shrunk("guided.toml", folders[""], problems, 96)
    await run(EvalConfig(**data), tmp_path / "out")
    found = list(records(tmp_path / "out"))
    assert [row["method"] for row in found].count("Multiverse, guided") == 2 and not any(row["failed"] for row in found)
