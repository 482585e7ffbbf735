"""GPQA: shuffled choices, and letters read as published."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Hogwild, InvalidInput, ScriptedEngine, extract
from plait.evals import EvalConfig, parse_benchmark, run
from plait.evals.benchmarks.gpqa import Row, shuffled
from plait.runtime.methods.hogwild.finishers import find


def row(number, **changes):
    return {
        "Record ID": f"rec{number}",
        "Question": f"Which gas number {number} is noble?",
        "Correct Answer": "Argon",
        "Incorrect Answer 1": "Oxygen",
        "Incorrect Answer 2": "Fluorine",
        "Incorrect Answer 3": "Nitrogen",
        "High-level domain": "Chemistry",
        **changes,
    }


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "gpqa.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(8)))
    return path


def test_prompt(data):
    benchmark = parse_benchmark({"name": "gpqa", "data": data})
    sample = benchmark.load()[0]
    assert sample.id == "rec0" and sample.reference == f"{sample.data.right}) Argon"
    fields = benchmark.prompt(sample, "sequential")
    (message,) = fields["prompt"]
    first, blank, question, blank_too, *choices = message["content"].split("\n")
    assert first.startswith("Answer the following multiple choice question. The last line of your response should be")
    assert first.endswith("Think step by step before answering.") and not blank and not blank_too
    assert question == "Which gas number 0 is noble?"
    assert [line[:3] for line in choices] == ["A) ", "B) ", "C) ", "D) "]
    assert f"{sample.data.right}) Argon" in choices
    assert "answer" not in benchmark.prompt(sample, "apr")


def test_workers_are_asked_for_a_choice(data):
    benchmark = parse_benchmark({"name": "gpqa", "data": data})
    sample = benchmark.load()[0]
    method = Hogwild(**benchmark.prompt(sample, "hogwild"))
    assert method.answer == "choice" and "\\boxed{letter}" in method.messages[-1]["content"]
    verdict = benchmark.grade(sample, find(method.answer, f"So \\boxed{{{sample.data.right}}}.", method.accepts), "")
    assert verdict.correct


def test_choices_depend_on_seed_and_question_alone(data):
    load = {seed: parse_benchmark({"name": "gpqa", "data": data, "seed": seed}).load() for seed in (0, 1)}
    assert [s.data for s in load[0]] != [s.data for s in load[1]]
    lines = data.read_text().splitlines()
    data.write_text(lines[5] + "\n")
    assert parse_benchmark({"name": "gpqa", "data": data}).load()[0].data == load[0][5].data
    code = (
        "from plait.evals import parse_benchmark; "
        f"print(parse_benchmark({{'name': 'gpqa', 'data': {str(data)!r}}}).load()[0].data.right)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == load[0][5].data.right


def test_every_letter_is_right_equally_often():
    rows = [Row.model_validate(row(number)) for number in range(2000)]
    counts = Counter(shuffled(one, 0).right for one in rows)
    assert set(counts) == set("ABCD") and min(counts.values()) > 420  # 500 +- 4 standard deviations


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("Thus.\nAnswer: B", "B", "B"),
        ("ANSWER : $C$", "C", "C"),
        ("Answer: A? No.\nAnswer: D", "A", "D"),
        ("answer:\tB.", "B", "B"),
        ("the answer is B", None, None),
        ("Answer:\nB", None, None),
        ("Answer: E", None, None),
        ("Answer: b", "b", "b"),
        ("", None, None),
    ],
)
def test_letters(data, text, first, last):
    for match, letter in (("first", first), ("last", last)):
        benchmark = parse_benchmark({"name": "gpqa", "data": data, "match": match})
        sample = benchmark.load()[0]
        found = extract(benchmark.prompt(sample, "sequential")["answer"], text)
        assert found == letter
        for answer in (found, None, text):
            verdict = benchmark.grade(sample, answer, text)
            assert verdict.correct == (letter == sample.data.right)
            assert verdict.extracted == (letter if letter and letter.isupper() else None)


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_answer_has_a_verdict(answer, text):
    sample = parse_benchmark({"name": "gpqa"})._sample(Row.model_validate(row(1)), 1)
    verdict = parse_benchmark({"name": "gpqa"}).grade(sample, answer, text)
    assert not verdict.correct or sample.data.right in answer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Incorrect Answer 2": None}, ":1: Incorrect Answer 2: "),
        ({"Question": " "}, ":1: Question: "),
        ({"Incorrect Answer 3": "Argon "}, ":1: Incorrect Answer 3: it is the correct answer too"),
        ({"Incorrect Answer 1": " "}, ":1: Incorrect Answer 1: there is nothing in it"),
        ({"Correct Answer": ""}, ":1: Correct Answer: there is nothing in it"),
        ({"Correct Answer": ["Argon"]}, ":1: Correct Answer: "),
    ],
)
def test_wrong_rows(tmp_path, changes, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row(0, **changes)))
    with pytest.raises(InvalidInput, match=message):
        parse_benchmark({"name": "gpqa", "data": path}).load()


async def test_a_run(data, tmp_path):
    def student(context):
        letter = next(line[0] for line in context.splitlines() if line.endswith(") Argon"))
        return f"Noble gases ...\nAnswer: {letter}" if "number 3" not in context else "I do not know."

    config = EvalConfig(
        benchmark={"name": "gpqa", "data": str(data), "chat": False}, methods=[{"method": "sequential"}]
    )
    await run(config, tmp_path / "out", engine=ScriptedEngine(student))
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    found = {unit["key"]["sample"]: unit["rows"][0]["correct"] for unit in rows}
    assert found == {f"rec{number}": number != 3 for number in range(8)}
