"""Questions over several documents: grading, the three encodings, calibration, and the shipped recall model."""

from __future__ import annotations

import json
import math
import random
import shutil

import pytest

import plait
from plait.evals.benchmarks.rag import calibrate, compare, recall
from plait.evals.benchmarks.rag import questions as rag
from plait.runtime.cli.main import main
from plait.runtime.engines.native.context_scaling import read_scaling, write_scaling
from plait.runtime.engines.registry import MODELS
from plait.runtime.engines.token_branch import TokenBranch
from plait.tests.data import SHARED
from plait.tests.runtime.methods.test_contexts import PARALLEL, Chat
from plait.tests.runtime.tools import run

DATA = SHARED / "rag_qa.jsonl"


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], True, 1.0),
        ("Paris, France", ["Paris"], False, 2 / 3),
        ("in the year 1999", ["1998", "year 1999"], False, 0.8),
        ("yes yes no", ["yes"], False, 0.5),
        ("", ["Paris"], False, 0.0),
        ("the", ["a"], True, 1.0),
        (" ", ["The The"], False, 0.0),
        ("the", [" "], False, 0.0),
        ("Paris", ["", "Paris"], True, 1.0),
    ],
)
def test_exact_match_and_f1_are_squads(answer, accepted, exact, f1):
    assert rag.exact_match(answer, accepted) is exact
    assert rag.f1(answer, accepted) == pytest.approx(f1)


def test_rows_are_read_and_wrong_ones_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    good = {"id": "a", "question": "q", "contexts": ["x", "y"], "answers": ["z"], "supporting": None}
    file.write_text(json.dumps(good) + "\n")
    assert rag.load(file) == [rag.Row(id="a", question="q", contexts=("x", "y"), answers=("z",))]
    file.write_text(json.dumps({**good, "answers": ["z", ""]}) + "\n")
    assert rag.load(file)[0].answers == ("z", "")  # as it stands there: the digest of the problems is made of it
    blank = {**good, "question": " "}, {**good, "answers": ["", " "]}
    for wrong in (*blank, {**good, "answers": []}, {**good, "contexts": [1]}, {"question": "q"}, [1], "{"):
        file.write_text(json.dumps(good) + "\n" + (wrong if isinstance(wrong, str) else json.dumps(wrong)) + "\n")
        with pytest.raises(plait.InvalidInput, match=":2:"):
            rag.load(file)
    with pytest.raises(plait.InvalidInput, match="cannot read"):
        rag.load(tmp_path / "none")


@pytest.mark.skipif(not DATA.exists(), reason="shared data not present")
def test_the_published_rows_fit():
    rows = rag.load(DATA)
    assert len(rows) > 300 and all(len(row.contexts) == 10 for row in rows)
    assert all(rag.f1(row.answers[0], row.answers) == 1 for row in rows)


async def test_an_engine_without_parallel_contexts_refuses_them():
    row = rag.Row(id="", question="who?", contexts=("doc one", "doc two"), answers=("me",))
    with pytest.raises(plait.UnsupportedByEngine, match="encoding='sequential'"):
        await run(rag.Style().method(row, encoding="parallel"), [])
    result, engine = await run(rag.Style().method(row), lambda text: " me\nmore")
    assert engine.prompts[0].endswith(f"{rag.INSTRUCTION}doc one\n\ndoc two\n\nQuestion: who?\nAnswer:")
    assert result.text == " me"
    assert result.details["contexts"]["encoding"] == "sequential"


# -- the shipped model -------------------------------------------------------------------------------------------------


def test_problems_ask_for_one_key_of_one_context():
    for seed in range(20):
        problem = recall.make(random.Random(seed), 1 + seed)
        keys = [key for context in problem.pairs for key, _ in context]
        assert len(problem.contexts) == 1 + seed
        assert len(set(keys)) == len(keys) and problem.asked in keys
        around = [text for text in problem.contexts if f"k{problem.asked} {problem.answer}" in text]
        assert len(around) == 1
    assert recall.rows(6, 0, recall.SIZES) == recall.rows(6, 0, recall.SIZES) != recall.rows(6, 1, recall.SIZES)


@pytest.mark.parametrize("size", [2, 64])
async def test_the_recall_model_keeps_its_accuracy_in_parallel(size):
    problems = recall.rows(20, 7, [size])
    async with plait.Runtime("recall") as runtime:
        right = {name: await recall.accuracy(runtime, problems, name) for name in recall.ENCODINGS}
        guess = [rag.Row(id="", question=row.question, contexts=row.contexts[:1], answers=("v99",)) for row in problems]
        wrong = await recall.accuracy(runtime, guess, "calibrated")
    assert right["sequential"] >= 19
    assert right["calibrated"] >= 0.95 * right["sequential"]
    assert wrong == 0


async def test_rag_compares_encodings():
    async with plait.Runtime("recall") as runtime:
        graded = await compare.compare(runtime, recall.rows(4, 3, [8]), recall.STYLE)
    lines = compare.summary(graded)
    assert [line["encoding"] for line in lines] == ["sequential", "parallel", "plain"]
    assert lines[0]["F1 %"] == 100 and lines[0]["retained %"] == 100


async def test_the_loss_of_an_answer_is_the_models():
    row = recall.rows(1, 5, [8])[0]
    async with plait.Runtime("recall") as runtime:
        method = recall.STYLE.method(row, encoding="parallel", context_temperature=0.7, context_scale=0.8)
        result = await (await runtime.submit(method.model_copy(update={"logprobs": True})))
        row = rag.Row(id="", question=row.question, contexts=row.contexts, answers=(result.text.strip(),))
        loss, count = await calibrate.answer_loss(runtime.engine, row, recall.STYLE, 0.7, 0.8)
    sampled = [piece for segment in result.trace.segments for piece in segment.pieces if piece.kind == "sampled"]
    assert count == 1
    assert sampled[0].logprobs == pytest.approx([-loss], abs=1e-5)


@pytest.mark.parametrize("chat", [False, True])
async def test_the_loss_is_that_behind_the_prompt_of_the_job(chat, monkeypatch):
    row = rag.Row(id="", question="who?", contexts=("one", "two"), answers=("me",))
    asked = []
    engine = plait.ScriptedEngine(lambda text: "me", tokenizer=Chat(), capabilities=PARALLEL)
    generate = TokenBranch.generate
    monkeypatch.setattr(TokenBranch, "generate", lambda self, *a: asked.append(self.tokens) or generate(self, *a))
    await calibrate.answer_loss(engine, row, rag.Style(chat=chat), 0.7, 0.8)
    async with plait.Runtime(engine=engine) as runtime:
        await (await runtime.submit(rag.Style(chat=chat).method(row, encoding="parallel")))
    text = engine.tokenizer.decode(asked[0])
    assert asked[0] == asked[1] and text.startswith("<s><user>Answer" if chat else "<s>Answer")


@pytest.mark.parametrize("by", ["perplexity", "answer"])
async def test_calibration_ranks_the_grid(by):
    async with plait.Runtime("recall") as runtime:
        points = await calibrate.calibrate(
            runtime, recall.rows(6, 1, [4]), recall.STYLE, by=by, temperatures=(0.9, 1.0), scales=(0.0, 1.0)
        )
        assert runtime.engine.block_usage().used == 0
    assert len(points) == 4 and all(math.isfinite(point.loss) for point in points)
    assert [point.loss for point in points] == sorted(point.loss for point in points)
    # Without any weight on the contexts nothing can be recalled.
    assert points[0].scale == 1.0 and points[-1].scale == 0.0
    with pytest.raises(plait.UnsupportedByEngine):
        await calibrate.calibrate(plait.Runtime(engine=plait.ScriptedEngine(["x"])), [], recall.STYLE)


def test_the_command_writes_what_the_engine_then_uses(tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "recall", folder)
    data = tmp_path / "rows.jsonl"
    rows = [{"question": r.question, "contexts": r.contexts, "answers": r.answers} for r in recall.rows(2, 1, [4])]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [str(folder), "--data", str(data), "--instruction", "recall", "--template", "{question}", "--write"]
    assert main(["calibrate-ape", *command]) == 0
    assert "nats" in capsys.readouterr().out
    assert main(["calibrate-ape", *command, "--dtype", "int3"]) == 1
    assert "unknown dtype" in capsys.readouterr().err
    best = read_scaling(folder)
    assert set(best) == {"context_temperature", "context_scale"}
    assert main(["calibrate-ape", str(folder), "--data", str(tmp_path / "none")]) == 1
    write_scaling(folder, 0.5, 0.25)
    assert read_scaling(folder) == {"context_temperature": 0.5, "context_scale": 0.25}
    for wrong in ("{", "[]", '{"temperature": 0, "scale": 1}', '{"temperature": 1}'):
        (folder / "ape.json").write_text(wrong)
        with pytest.raises(plait.InvalidInput, match=r"ape\.json"):
            read_scaling(folder)
