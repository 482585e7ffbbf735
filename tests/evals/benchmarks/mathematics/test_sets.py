"""GSM8K, LIMO and OlympiadBench: rows of their forms, prompts and judgements as published."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import InvalidInput, ScriptedEngine, TreeSearch, extract
from plait.evals import EvalConfig, parse_benchmark, run
from plait.evals.benchmarks.mathematics.grading import MathGrader
from plait.evals.benchmarks.mathematics.olympiadbench import OlympiadRow, instruction, within
from plait.evals.benchmarks.mathematics.word_problems.benchmark import WordProblems
from plait.evals.benchmarks.mathematics.word_problems.problems import problems
from plait.runtime.equality.process import MathProcess

GSM = [
    {"question": "Ann has 2 hens and buys 3. How many?", "answer": "She has 2+3=<<2+3=5>>5.\n#### 5"},
    {"question": "A car costs 900 dollars and 2 wheels 75 each. In all?", "answer": "900+2*75=1050\n#### 1,050"},
    {"question": "Half of 7?", "answer": "7/2=3.5\n#### 3.5"},
]


@pytest.fixture
def write(tmp_path):
    def of(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return of


def test_gsm8k(write):
    benchmark = parse_benchmark({"name": "gsm8k", "data": write(GSM)})
    samples = benchmark.load()
    assert [sample.reference for sample in samples] == ["5", "1050", "3.5"]
    fields = benchmark.prompt(samples[1], "sequential")
    assert fields["answer"] == "boxed" and fields["prompt"][0]["content"].startswith("A car costs")
    assert benchmark.grade(samples[1], "1,050", r"So \boxed{1,050}").correct
    assert not benchmark.grade(samples[1], "150", r"So \boxed{150}").correct


@pytest.mark.parametrize("answer", ["5", "#### ", 5, None])
def test_gsm8k_solutions_have_a_marked_answer(write, answer):
    with pytest.raises(InvalidInput, match=":1: answer: "):
        parse_benchmark({"name": "gsm8k", "data": write([{"question": "x", "answer": answer}])}).load()


def test_shots_are_contexts(write):
    asked = {**GSM[0], "question": GSM[0]["question"] + "\n"}
    train = write([asked, *GSM[1:]], "train.jsonl")
    benchmark = parse_benchmark({"name": "gsm8k", "data": write(GSM[:1]), "train": train, "shots": 2, "chat": False})
    sample = benchmark.load()[0]
    fields = benchmark.prompt(sample, "sequential")
    assert fields["prompt"] == "Question: Ann has 2 hens and buys 3. How many?\nAnswer:"
    assert fields["contexts"] == [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in GSM[1:]]
    assert fields["stop"] == ["Question:"]
    text = " 2+3=5\n#### 5\n\nAnother: 1+1=2\n#### 2"
    assert extract(fields["answer"], text) == "5"
    assert benchmark.grade(sample, "5", text).correct
    assert benchmark.grade(sample, "5.", "#### 5.").correct
    assert not benchmark.grade(sample, "2", text).correct
    assert benchmark.grade(sample, None, "it is 5").correct and not benchmark.grade(sample, None, "").correct
    benchmark.close()
    assert "answer" not in benchmark.prompt(sample, "apr")
    assert benchmark.inputs([sample]) == {"examples": fields["contexts"]}
    assert parse_benchmark({"name": "gsm8k", "data": benchmark.data}).inputs([sample]) == {}
    search = TreeSearch(**benchmark.prompt(sample, "tree_search"))
    assert (
        search.question == sample.question and search.finishes(" so\n#### $5\n\n") and not search.finishes("2 + 3 = 5")
    )
    assert extract(search.answer, " so\n#### $5\n\n") == "5"
    with pytest.raises(
        InvalidInput, match="there are 2 examples, not 3, that are none of the problems: ask fewer.*`count`.*`train`"
    ):
        parse_benchmark({"name": "gsm8k", "data": benchmark.data, "train": train, "shots": 3}).load()


def test_shots_of_the_file_that_is_asked_are_those_beyond_count(write):
    fields = {"name": "gsm8k", "data": write(GSM), "train": write(GSM, "train.jsonl"), "shots": 1}
    benchmark = parse_benchmark({**fields, "count": 1})
    (sample,) = benchmark.load()
    assert benchmark.prompt(sample, "sequential")["contexts"] == [
        f"Question: {GSM[1]['question']}\nAnswer: {GSM[1]['answer']}"
    ]
    with pytest.raises(InvalidInput, match="there are 0 examples, not 1"):
        parse_benchmark(fields).load()


def test_shots_are_not_the_problems_under_other_names_either():
    benchmark = WordProblems(split="train", count=2000, seed=2, shots=32)
    benchmark.load()
    asked = {problem.key for problem in problems("train", 2)}
    shown = "\n".join(benchmark.inputs([])["examples"])
    others = [problem for problem in problems("train", -3) if problem.question in shown]
    assert len(others) == 32 and not asked & {problem.key for problem in others}


async def test_in_context_learning_needs_no_data(tmp_path):
    """Our own word problems, with worked ones of the training split, in both encodings."""
    seen = []

    def student(context):
        seen.append(context)
        return " I see.\n#### 7\n\n"

    config = EvalConfig(
        benchmark={"name": "word_problems", "count": 2, "shots": 3, "chat": False},
        methods=[{"method": "sequential", "encoding": "sequential"}],
    )
    await run(config, tmp_path / "out", engine=ScriptedEngine(student, context_limit=4000))
    questions = {sample.question for sample in config.benchmark.load()}
    for context in seen:
        *examples, problem = context.strip().split("\n\n")
        assert len(examples) == 3 and all("\nAnswer: " in one and "\n#### " in one for one in examples)
        assert problem.endswith("\nAnswer:") and problem.removeprefix("Question: ").rpartition("\n")[0] in questions
        assert not any(question in one for one in examples for question in questions)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [unit["rows"][0]["extracted"] for unit in rows] == ["7", "7"]


def test_limo(write):
    row = {"question": "Find $x$ with $2x=3$.", "solution": "Divide.", "answer": "\\frac{3}{2}"}
    benchmark = parse_benchmark({"name": "limo", "data": write([row, {**row, "answer": 4}])})
    samples = benchmark.load()
    assert [sample.reference for sample in samples] == ["\\frac{3}{2}", "4"]
    assert benchmark.grade(samples[0], "1.5", r"\boxed{1.5}").correct
    benchmark.close()


@pytest.mark.parametrize("written", [3, "3", "Level 3"])
def test_levels(write, written):
    problem = {"problem": "Find $x$ with $2x=3$.", "answer": "1.5"}
    data = write([{**problem, "id": "a", "level": written}, {**problem, "id": "b", "level": "Level ?"}])
    (sample,) = parse_benchmark({"name": "math500", "data": data, "levels": [1, 3]}).load()
    assert sample.id == "a"
    with pytest.raises(InvalidInput, match=r"no problem of the levels \[4, 5\]"):
        parse_benchmark({"name": "math500", "data": data, "levels": [4, 5]}).load()
    with pytest.raises(InvalidInput, match="levels"):
        parse_benchmark({"name": "math500", "levels": [9]})


def olympiad(**changes):
    return {
        "id": 1606,
        "question": "Find the speed.",
        "solution": ["..."],
        "final_answer": ["$20$"],
        "context": None,
        "image_1": None,
        "modality": "Text-only",
        "difficulty": "Competition",
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        "question_type": "Open-ended",
        "subfield": "Mechanics",
        "subject": "Physics",
        "language": "English",
        **changes,
    }


def judged(text, **changes):
    benchmark = parse_benchmark({"name": "olympiadbench"})
    row = OlympiadRow.model_validate(olympiad(**changes))
    sample = type("Sample", (), {"data": row})
    try:
        return benchmark.grade(sample, None, text)
    finally:
        benchmark.close()


def test_olympiad_prompts():
    def of(**changes):
        return instruction(OlympiadRow.model_validate(olympiad(**changes)))

    plain = of()
    assert plain.startswith(
        "The following is an open-ended problem from an International Physics competition. "
        "The answer of The problem should be a numerical value. Please calculate the answer according to"
    )
    assert plain.endswith('"So the final answer is \\boxed{answer}." and give the result explicitly.')
    unit = of(unit="m")
    assert unit.endswith(
        '\\boxed{answer}(unit)." and give the result explicitly, note that the unit of the answer should not be '
        "included in \\boxed{}."
    )
    same = of(is_multiple_answer=True, answer_type="Expression")
    assert "The problem has multiple answers, each of them should be an expression. " in same
    assert "\\boxed{multiple answers connected with commas}" in same
    mixed = of(is_multiple_answer=True, answer_type="Numerical,Interval")
    assert "with the answers in order being a numerical value, an interval. " in mixed
    assert "should be" not in of(answer_type="Tuple").partition("Please")[0]


def test_olympiad_files(write):
    rows = [olympiad(context="A ball is thrown."), olympiad(id=1607, subject="Math", context="Not put.")]
    benchmark = parse_benchmark({"name": "olympiadbench", "data": write(rows)})
    physics, mathematics = benchmark.load()
    assert (physics.id, physics.reference) == ("1606", "20")
    assert (
        physics.data.answer == rows[0]["final_answer"]
    )  # as it stands there: the digest of the problems is made of it
    (message,) = benchmark.prompt(physics, "sequential")["prompt"]
    assert message["content"].split("\n")[1:] == ["A ball is thrown.", "Find the speed."]
    (message,) = benchmark.prompt(mathematics, "sequential")["prompt"]
    assert message["content"].split("\n")[1:] == ["Find the speed."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final_answer": None}, "final_answer: "),
        ({"final_answer": [" $ $ "]}, r"final_answer\[0\]: there is nothing in it"),
        ({"question": " "}, "question: there is nothing in it"),
        ({"error": "1e-3,-1e-3"}, "error: '-1e-3' is below 0"),
        ({"language": "Chinese"}, "language: "),
        ({"error": "small"}, "'small' is no number"),
        ({"error": "1e999999999"}, "'1e999999999' is no number"),
        ({"error": "1,2,3", "is_multiple_answer": True, "final_answer": ["1,2"]}, "3 tolerances of 2 numbers"),
    ],
)
def test_olympiad_rows_that_are_refused(write, changes, message):
    with pytest.raises(InvalidInput, match=message):
        parse_benchmark({"name": "olympiadbench", "data": write([olympiad(**changes)])}).load()


@pytest.mark.parametrize(
    ("text", "changes", "correct"),
    [
        (r"So the final answer is \boxed{20}.", {}, True),
        (r"So the final answer is \boxed{20.1}.", {}, False),
        (r"So the final answer is \boxed{20.1}.", {"error": "1e-1"}, True),
        (r"So the final answer is \boxed{20.11}.", {"error": "1e-1"}, False),
        (r"So the final answer is \boxed{0.2}.", {}, True),
        (r"\boxed{1.5708}", {"final_answer": [r"$\frac{\pi}{2}$"], "error": "1e-3"}, True),
        (r"\boxed{1.573}", {"final_answer": [r"$\frac{\pi}{2}$"], "error": "1e-3"}, False),
        (r"\boxed{\frac{\pi}{2}}", {"final_answer": ["$1.571$"], "error": "1e-3"}, True),
        (r"\boxed{1.41421356}", {"final_answer": [r"$\sqrt{2}$"]}, True),
        (r"\boxed{1.414213}", {"final_answer": [r"$\sqrt{2}$"]}, False),
        (r"\boxed{3, 1.41421356}", {"final_answer": [r"$\sqrt{2}, 3$"], "is_multiple_answer": True}, True),
        (r"\boxed{0.3333333333 a}", {"final_answer": ["$a/3$"]}, False),
        (r"\boxed{i}", {"final_answer": ["$1$"], "error": "5"}, False),
        (r"So the final answer is \boxed{2}.", {}, False),
        (r"\boxed{7} So the final answer is \boxed{20}. Or \boxed{8}?" + "\n\\boxed{9}", {}, False),
        ("So the final answer is \\boxed{20}.\nChecked: \\boxed{7} is too small.", {}, True),
        (r"\boxed{20}", {}, True),
        ("So the final answer is 20.", {}, True),
        ("", {}, False),
        (r"\boxed{1.61 \times 10^{-19}}", {"final_answer": [r"$1.6 \times 10^{-19}$"], "error": "2e-21"}, True),
        (r"\boxed{1.7 \times 10^{-19}}", {"final_answer": [r"$1.6 \times 10^{-19}$"], "error": "2e-21"}, False),
        (r"\boxed{3, 1}", {"final_answer": ["1,3"], "is_multiple_answer": True}, True),
        (r"\boxed{1, 1}", {"final_answer": ["1,3"], "is_multiple_answer": True}, False),
        (r"\boxed{100, 10000, 1}", {"final_answer": ["1,100,10000"], "is_multiple_answer": True}, True),
        (r"\boxed{1}, \boxed{3.4}", {"final_answer": ["1,3"], "is_multiple_answer": True, "error": ",0.5"}, True),
        (r"\boxed{1.4}, \boxed{3}", {"final_answer": ["1,3"], "is_multiple_answer": True, "error": ",0.5"}, False),
        (r"\boxed{\frac{x+x}{4}}", {"final_answer": [r"$\frac{x}{2}$"], "answer_type": "Expression"}, True),
        (r"\boxed{\frac{x}{3}}", {"final_answer": [r"$\frac{x}{2}$"], "answer_type": "Expression"}, False),
    ],
)
def test_olympiad_verdicts(text, changes, correct):
    verdict = judged(text, **changes)
    assert verdict.correct == correct, verdict
    assert (verdict.reason == "correct") == correct


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({"final_answer": ["$1.5$"]}, ["1.5", r"\frac{3}{2}", r"\sqrt{2.25}"]),
        ({"final_answer": [r"$\frac{\pi}{2}$"], "error": "1e-3"}, ["1.5708", r"\frac{\pi}{2}"]),
        ({"final_answer": ["$3,1$"], "is_multiple_answer": True}, ["3,1", "1, 3", r"\sqrt{9}, 1", r"\{1, 3\}"]),
        ({"final_answer": ["$2 x$"]}, ["2x", "x+x"]),
    ],
)
def test_right_answers_to_a_problem_look_equal(changes, answers):
    verdicts = [judged(rf"\boxed{{{answer}}}", **changes) for answer in answers]
    assert all(verdict.correct for verdict in verdicts), verdicts
    assert len({verdict.extracted for verdict in verdicts}) == 1, verdicts


@settings(max_examples=50, deadline=None)
@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000), st.integers(0, 500))
def test_olympiad_tolerance(right, given, tenths):
    verdict = judged(f"\\boxed{{{given}}}", final_answer=[str(right)], error=str(tenths / 10))
    hit = any(abs(given - right * scale) <= 1.01 * tenths / 10 + 1e-12 for scale in (1, 0.01, 100))
    assert verdict.correct == hit


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 4))
def test_olympiad_lists_are_right_in_some_order(data, size):
    """Beside all orders, one by one."""
    few = st.sampled_from([Fraction(n) for n in ("1", "1.5", "2", "50", "100", "102", "10000")])
    right, found = (data.draw(st.lists(few, min_size=size, max_size=size)) for _ in range(2))
    count = data.draw(st.sampled_from([1, size]))
    tolerances = data.draw(st.lists(st.sampled_from([Fraction(0), Fraction(1)]), min_size=count, max_size=count))

    def hits(one, number):
        allowed = Fraction("1.01") * tolerances[number % len(tolerances)]
        return any(abs(one - right[number] * Fraction(k)) <= allowed for k in ("1", "0.01", "100"))

    expected = any(all(hits(one, number) for number, one in enumerate(order)) for order in permutations(found))
    assert within(found, right, tolerances) == expected


def test_olympiad_answers_of_many_slow_terms_have_the_time_of_one(monkeypatch):
    asked = []

    def ask(self, request, seconds):
        asked.append(seconds)
        return {"value": None if "value" not in request else 1.0, "equal": False, "key": "1", "seconds": 2.0}

    monkeypatch.setattr(MathProcess, "ask", ask)
    gold = ", ".join([r"\sqrt{2}"] * 9)
    changes = {"final_answer": [gold], "is_multiple_answer": True}
    assert not judged("\\boxed{" + ", ".join(["\\pi"] * 9) + "}", **changes).correct
    assert asked == [5.0, 3.0, 1.0]


def test_olympiad_lists_of_another_length_are_not_valued(monkeypatch):
    asked = []
    monkeypatch.setattr(MathGrader, "value", lambda self, text, allowance: asked.append(text) or Fraction(1))
    changes = {"final_answer": [r"$\sqrt{2}, 3$"], "is_multiple_answer": True}
    assert not judged("\\boxed{" + ", ".join(["\\pi"] * 200) + "}", **changes).correct
    assert asked == [r"\sqrt{2}"]
