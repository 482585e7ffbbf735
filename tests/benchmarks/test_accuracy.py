"""The comparison with transformers: its verdicts, votes and sampling, and its table for a small evaluation."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from transformers import GenerationConfig

from plait import ScriptedEngine
from plait.evals import EvalConfig, run

pytest.importorskip("math_verify")

from plait.benchmarks import accuracy
from plait.benchmarks.generated import Part, Theirs

PROBLEMS = [("What is 1/4 + 1/4?", r"\frac{1}{2}"), ("What is 3 + 4?", "7"), ("What is 5 + 6?", "11")]


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ([r"\frac{1}{2}", "0.5", "3", "3", r"\dfrac12"], True),
        (["3", "3", r"\frac{1}{2}"], False),
        (["3", r"\frac{1}{2}"], False),
        ([r"\frac{1}{2}", "3"], True),
        ([], False),
    ],
)
def test_votes(answers, right):
    texts = [f"So the answer is $\\boxed{{{answer}}}$." for answer in answers]
    verdicts = accuracy.Verdicts(r"\frac{1}{2}")
    assert verdicts.vote(["I do not know.", *texts]) == right
    assert all(verdicts.single(text) == ("3" not in text) for text in texts)


@pytest.fixture
async def folder(tmp_path):
    """An evaluation in which plait gets the first two of three problems right."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"problem": p, "answer": a}) + "\n" for p, a in PROBLEMS))

    def student(context):
        given = next(a for p, a in PROBLEMS if p in context)
        return f"It is $\\boxed{{{'12' if given == '11' else given}}}$."

    config = EvalConfig(
        benchmark={"name": "math500", "data": path, "chat": True},
        methods=[
            {"method": "sequential", "label": "one", "temperature": 0, "max_tokens": 64},
            {"method": "self_consistency", "label": "vote", "n": 3, "temperature": 0.7, "max_tokens": 64},
        ],
    )
    await run(config, tmp_path / "out", engine=ScriptedEngine(student))
    return tmp_path / "out"


def other_side(folder, path):
    """A file of rows that has all but the first problem right, with its first text as plait's."""
    found = accuracy.Folder(folder, None)
    with path.open("w") as file:
        for part in found.parts(None, None):
            for place, sample in enumerate(found.samples):
                ours = found.ours(part, sample)
                for row in ours.texts:
                    text = f"\\boxed{{{sample.reference if place else 999}}}"
                    ids = row.ids if place == 1 else [0]
                    row = {"text": text, "ids": ids, "prompt": row.prompt, "is_whole": place > 0, "number": row.number}
                    file.write(json.dumps({"label": part.label, "problem": sample.id, **row}) + "\n")


def table(folder, tmp_path, monkeypatch, capsys, *flags):
    """What is printed, and the cells of each method and side."""
    rows = tmp_path / "rows.jsonl"
    other_side(folder, rows)
    monkeypatch.setattr(sys, "argv", ["accuracy", str(folder), "--rows", str(rows), *flags])
    monkeypatch.setattr(accuracy, "Theirs", None)  # all rows are there: no model is loaded
    accuracy.main()
    out = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if "/" in line]
    return out, {(label, side): cells for label, side, *cells in lines}


async def test_the_table(folder, tmp_path, monkeypatch, capsys):
    out, figures = table(folder, tmp_path, monkeypatch, capsys)
    assert "one: prompts equal in 3 of 3 problems" in out and "one: texts equal in 1 of 3 problems" in out
    assert "vote: verdicts that differ: 2" in out
    assert len(figures) == 6
    for label, texts in (("one", 1), ("vote", 3)):
        assert figures[label, "plait"][:5] == [str(texts), "2/3", "66.7 %", "20.8 - 93.9 %", ""]
        assert figures[label, "plait's texts, math-verify"][:2] == [str(texts), "2/3"]
        assert figures[label, "transformers"][:2] == [str(texts), "2/3"]
        assert figures[label, "transformers"][4] == f"{2 * texts}/{3 * texts}"
        assert figures[label, "transformers"][6:] == [f"{texts}/{3 * texts}", "1.00"]


async def test_fewer_texts_of_the_other_side(folder, tmp_path, monkeypatch, capsys):
    """Votes of as many texts are what is compared."""
    _, figures = table(folder, tmp_path, monkeypatch, capsys, "--samples", "2")
    assert [figures["vote", side][0] for side in ("plait", "plait's texts, math-verify", "transformers")] == list("322")
    assert [figures["vote", side][-1] for side in ("plait", "plait's texts, math-verify")] == ["", ""]
    assert figures["vote", "transformers"][-1] == "1.00"
    assert figures["one", "plait's texts, math-verify"][-1] == "1.00"


async def test_fewer_samples_and_problems(folder, tmp_path):
    found = accuracy.Folder(folder, 2)
    one, vote = found.parts(2, None)
    assert (one.samples, vote.samples, len(found.samples)) == (1, 2, 2)
    assert len(found.ours(vote, found.samples[0]).texts) == 3
    assert found.ours(vote, found.samples[0]).sampling["temperature"] == 0.7


def test_sampling():
    theirs = object.__new__(Theirs)
    theirs.model = SimpleNamespace(generation_config=GenerationConfig(top_k=20, top_p=0.8))
    part = Part("vote", 8, 64, {"temperature": 0.7, "top_p": 1})
    expected = {"temperature": 0.7, "top_k": 20, "top_p": 1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert theirs.sampling(part) == expected
    greedy = Part("one", 1, 64, {"temperature": 0, "repetition_penalty": 1.1})
    assert theirs.sampling(greedy) == {"repetition_penalty": 1.1}
