"""AIME and MATH-500 end to end: recorded and played back, by a random model, and from the hub's data sets."""

from __future__ import annotations

import json
import re
import sys
from types import ModuleType

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from plait import InvalidInput, Recorder, ScriptedEngine
from plait.evals import EvalConfig, parse_benchmark, run
from plait.tests.data import SHARED
from plait.tests.runtime.engines.native.helpers import tiny

FILES = {"aime24": "aime24.jsonl", "math500": "math500.jsonl"}
COUNT = 8


@pytest.fixture(params=FILES)
def problems(request):
    """(benchmark's name, file of problems, rows)."""
    path = SHARED / FILES[request.param]
    if not path.exists():
        pytest.skip("shared evaluation data is not here")
    return request.param, path, [json.loads(line) for line in path.read_text().splitlines()][:COUNT]


def config(problems, *, model="countdown", chat=True, **fields):
    name, path, _ = problems
    return EvalConfig(
        benchmark={"name": name, "data": str(path), "count": COUNT, "chat": chat},
        model=model,
        methods=[{"method": "sequential", **fields}, {"method": "self_consistency", "n": 2, **fields}],
    )


def results(folder):
    units = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {(u["key"]["method"], u["key"]["sample"]): u["rows"][0] for u in units}


async def test_recorded_and_replayed(problems, tmp_path):
    _, _, rows = problems
    wrong = {row["id"] for row in rows[::3]}

    def student(context):
        row = next(row for row in rows if row["problem"] in context)
        answer = "-123456" if row["id"] in wrong else row["answer"]
        return rf"First I thought \boxed{{7777}}. Let me see ... So the answer is $\boxed{{ {answer} }}$."

    engine = ScriptedEngine(student, context_limit=20_000)
    await run(config(problems), tmp_path / "live", engine=Recorder(engine, tmp_path / "recording"))
    live = results(tmp_path / "live")
    assert len(live) == 2 * COUNT
    for (_, sample), row in live.items():
        assert row["correct"] == (sample not in wrong), (sample, row)
        assert sample in wrong or row["reason"] == "correct"
        assert "boxed" in " ".join(thread[5] for thread in row["threads"])

    await run(config(problems, model=f"replay:{tmp_path / 'recording'}"), tmp_path / "replayed")
    replayed = results(tmp_path / "replayed")
    for key, row in live.items():
        assert {**row, "measured": None} == {**replayed[key], "measured": None}


def random_model():
    """A folder with a random model that reads and writes bytes."""
    _, folder = tiny(vocab_size=258)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate(["<bos>", "<eos>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


async def test_a_random_model(problems, tmp_path):
    model = str(random_model())
    report = await run(config(problems, model=model, chat=False, max_tokens=24, temperature=1.0), tmp_path / "out")
    found = results(tmp_path / "out")
    assert len(found) == 2 * COUNT and report.exists()
    for row in found.values():
        assert row["finish"] in ("length", "prompt_too_long", "context", "eos")
        assert not row["correct"] and row["error"] is None


@pytest.fixture
def hub(monkeypatch):
    """A `datasets` module whose data sets have the columns of the hub's."""
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if name.startswith("math-ai"):
            raise ConnectionError("no network")
        column = "Question" if "1983" in name else "problem"
        return [{"ID": "1983-1", column: "What is 1 + 1?", "Answer": "2"}]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


@pytest.mark.parametrize("name", ["aime", "aime24", "math500"])
def test_problems_come_from_the_hub(hub, name):
    (sample,) = parse_benchmark({"name": name}).load()
    assert (sample.id, sample.question, sample.reference) == ("1983-1", "What is 1 + 1?", "2")
    assert len(hub) == 1 and "/" in hub[0][0]


def test_what_cannot_be_loaded_is_said(hub, monkeypatch, tmp_path):
    with pytest.raises(InvalidInput, match="--data FILE: no network"):
        parse_benchmark({"name": "aime25"}).load()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidInput, match="pip install"):
        parse_benchmark({"name": "aime25"}).load()
    for text, message in [
        ("", "no problems"),
        ("[1]\n", ": item 1: "),
        ('{"problem": "x"}\n', "'answer'"),
        ("{\n", ":1: "),
    ]:
        file = tmp_path / "data.jsonl"
        file.write_text(text)
        with pytest.raises(InvalidInput, match=re.escape(message)):
            parse_benchmark({"name": "aime25", "data": str(file)}).load()


@pytest.mark.parametrize("name", ["aime", "aime25"])
def test_other_files(name):
    path = SHARED / {"aime": "aime_train.jsonl"}.get(name, f"{name}.jsonl")
    if not path.exists():
        pytest.skip("shared evaluation data is not here")
    samples = parse_benchmark({"name": name, "data": path}).load()
    assert len(samples) == {"aime": 975, "aime25": 30}[name] == len({sample.id for sample in samples})
    assert all(0 <= int(sample.data) <= 999 for sample in samples)


def test_prompts():
    benchmark = parse_benchmark({"name": "aime24", "chat": False, "instruction": "Box it."})
    sample = type("Sample", (), {"question": "1 + 1?"})
    assert benchmark.prompt(sample, "sequential") == {"prompt": "1 + 1?\n\nBox it.\n", "answer": "boxed"}
    assert benchmark.prompt(sample, "apr") == {"prompt": "1 + 1?\n\nBox it.\n"}
    chat = parse_benchmark({"name": "aime24"}).prompt(sample, "multiverse")
    assert [message["role"] for message in chat["prompt"]] == ["user"]
    assert "\\boxed{}" in chat["prompt"][0]["content"] and chat["answer"] == "boxed"
