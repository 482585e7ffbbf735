"""Questions over documents in a grid of encodings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import plait
from plait import InvalidInput, ScriptedEngine
from plait.evals import EvalConfig, parse_benchmark, run
from plait.evals.config import read_toml
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.search.test_frames import SPECIAL, save_tokenizer

ROWS = [
    {"id": "q1", "question": "Who?", "contexts": ["Ada wrote it.", "Bob read it."], "answers": ["Ada", "Ada Byron"]},
    {"id": "q2", "question": "Where?", "contexts": ["In the old town."], "answers": ["old town"]},
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rag.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


async def test_encodings_as_methods(data, tmp_path):
    def reader(context):
        assert "wrote it" in context or "old town" in context
        return " The Ada.\nMore" if "Who?" in context else " in the big old town"

    config = EvalConfig(
        benchmark={"name": "rag", "data": str(data), "chat": False},
        methods=[
            {"label": "sequential", "method": "sequential", "encoding": "sequential"},
            {"label": "sampled", "method": "self_consistency", "n": 2, "encoding": "sequential"},
        ],
    )
    await run(config, tmp_path / "out", engine=ScriptedEngine(reader))
    units = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    found = {(u["key"]["method"], u["key"]["sample"]): u["rows"][0] for u in units}
    assert len(found) == 4
    for (_, sample), row in found.items():
        assert row["correct"] == (sample == "q1"), row
        assert row["reason"] == ("correct" if sample == "q1" else "no exact match, F1 0.67")
        assert row["extracted"] == ("ada" if sample == "q1" else "in big old town")
        assert row["extra"]["numbers"] == {"F1": 1.0 if sample == "q1" else pytest.approx(2 / 3), "recall": 1.0}


async def test_the_papers_configuration_runs(data, tmp_path):
    """On a random model of the paper's family, that has a chat template."""
    _, folder = tiny("llama", vocab_size=256 + len(SPECIAL), max_position_embeddings=1024)
    save_tokenizer(folder)
    config = read_toml(Path(plait.__file__).parent / "evals" / "configs" / "papers" / "ape.toml")
    config |= {"model": str(folder), "engine": {"kv_tokens": 8192}}
    config["benchmark"] |= {"data": str(data), "count": 2, "max_tokens": 4}
    await run(EvalConfig(**config), tmp_path / "out")
    units = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [unit["key"]["method"] for unit in units].count("APE") == 2 and len(units) == 6
    assert not any(row["error"] for unit in units for row in unit["rows"])
    traces = [plait.Trace.load(tmp_path / "out" / unit["rows"][0]["trace"]) for unit in units]
    scaling = {
        unit["key"]["method"]: (details.get("temperature"), details.get("scale"))
        for unit, trace in zip(units, traces, strict=True)
        if (details := trace.end["details"]["contexts"])
    }
    assert scaling == {"sequential": (None, None), "parallel": (1.0, 1.0), "APE": (0.9, 0.9)}


def test_only_texts_without_structure_end_at_the_first_line(data):
    benchmark = parse_benchmark({"name": "rag", "data": data})
    (sample, _) = benchmark.load()
    for method, stop in {"sequential": ["\n"], "self_consistency": ["\n"], "hogwild": None, "multiverse": None}.items():
        fields = benchmark.prompt(sample, method)
        assert fields.get("stop") == stop and fields["contexts"] == ROWS[0]["contexts"]
        assert plait.parse_method({**fields, "method": method}).messages[-1]["role"] == "user"


def test_it_needs_data(tmp_path):
    with pytest.raises(InvalidInput, match="--data"):
        parse_benchmark({"name": "rag"}).load()
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(InvalidInput, match="no problems"):
        parse_benchmark({"name": "rag", "data": empty}).load()
