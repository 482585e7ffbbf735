"""Right answers in many forms, and answers meant to break the grader."""

from __future__ import annotations

import json
import time
from fractions import Fraction

import pytest

from plait.evals.benchmarks.mathematics.grading import MAX_CHARS, GradingFailed, MathGrader, canonical, find_answer
from plait.tests.data import SHARED

LIMIT = 2.0


@pytest.fixture(scope="module")
def grader():
    grader = MathGrader(LIMIT)
    yield grader
    grader.close()


def rows(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip("shared evaluation data is not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{7}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{-2}", "1, -2"),
        (r"$\boxed{1}$, $\boxed{-2}$ or $\boxed{3}$", "1, -2, 3"),
        (r"\boxed{4}. Then \boxed{1}, \boxed{2}", "1, 2"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{7", None),
        (r"\boxed{}", None),
        ("7", None),
    ],
)
def test_find_answer(text, answer):
    assert find_answer(text) == answer


FORMS = [
    r"\boxed{{{}}}",
    r"so the answer is $\boxed{{{}}}$.",
    r"\boxed{{ {} }}",
    r"\[\boxed{{\text{{{}}}}}\]",
    r"I thought \boxed{{1234567}} first. But it is \boxed{{{}}}, which is final.",
    r"\boxed{{\left({}\right)}}",
    r"**Answer:** \boxed{{{}.}}",
    r"therefore $x = \boxed{{{}}}$",
    r"The final answer is ${}$.",
    r"The answer is {}",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gold", ["25", "0", "-3", r"\frac{3}{4}"])
def test_ten_ways_to_say_it(grader, form, gold):
    text = form.format(gold)
    assert grader.grade(gold, None, text).correct, text
    assert not grader.grade(gold, None, form.format("26")).correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("25", "025"),
        ("25", "25.0"),
        ("25", r"\frac{50}{2}"),
        ("25", r"5^2"),
        ("25", r"25^\circ"),
        ("25", "x = 25"),
        ("1000", "1,000"),
        (r"\frac{3}{4}", "3/4"),
        (r"\frac{3}{4}", "0.75"),
        (r"\frac{3}{4}", r"\dfrac{3}{4}"),
        (r"\frac{3}{4}", r"\frac34"),
        ("10", r"10\text{ cm}"),
        ("10", r"10\%"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("1,-2", "-2, 1"),
        (r"\{1,-2\}", r"\{-2,1\}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        (r"\text{Evelyn}", "Evelyn"),
        ("p - q", "-q+p"),
        ("[0,1)", "[0, 1)"),
    ],
)
def test_other_forms_of_the_same(grader, gold, answer):
    assert grader.grade(gold, None, rf"\boxed{{{answer}}}").correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("25", "-25"),
        ("25", "52"),
        ("25", ""),
        ("25", "25, 26"),
        (r"\frac{3}{4}", r"\frac{4}{3}"),
        ("1,-2", "1"),
        ("[0,1)", "[0,1]"),
        (r"\text{Evelyn}", "Evan"),
        ("(3,4)", "(4,3)"),
        ("25", r"\text{the number of my house}"),
    ],
)
def test_wrong_answers(grader, gold, answer):
    verdict = grader.grade(gold, None, rf"\boxed{{{answer}}}")
    assert not verdict.correct and verdict.reason != "correct"


HOSTILE = {
    "exponents": r"\boxed{9^{9^{9^{9}}}}",
    "plain exponents": "the answer is 9**9**9**9",
    "factorials": r"\boxed{((10!)!)!}",
    "a long sum": r"\boxed{\sum_{n=1}^{10^{12}} \frac{1}{n^n}}",
    "a megabyte in a box": r"\boxed{" + "1" * 1_000_000 + "}",
    "a megabyte without one": "1" * 1_000_000,
    "a megabyte of boxes": r"\boxed{" * 140_000,
    "a megabyte of braces": r"\boxed{1}" + "{" * 1_000_000,
    "unbalanced": r"\boxed{25",
    "nested": r"\boxed{" + r"\frac{1}{" * 90 + "2" + "}" * 90 + "}",
    "a tower of brackets": r"\boxed{" + "(" * 400 + "25" + ")" * 400 + "}",
    "backtracking": "answer" + " 1,1" * 240,
    "code": r"\boxed{__import__('os').abort()}",
    "more code": "the answer is (1).__class__.__base__.__subclasses__()",
    "control characters": "\\boxed{\x00\x1b[2J\ud800}",
    "line ends": "\\boxed{2\n}\n{\r\u2028}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_within_the_limit(grader, name):
    grader.grade("2", None, r"\boxed{3}")  # The process is there.
    start = time.perf_counter()
    verdict = grader.grade("26", None, HOSTILE[name])
    assert not verdict.correct
    assert time.perf_counter() - start < LIMIT + 3
    assert verdict.extracted is None or len(verdict.extracted) <= MAX_CHARS
    assert grader.grade("1/2", None, r"\boxed{0.5}").correct


def test_the_process_is_replaced_and_ended():
    grader = MathGrader(LIMIT)
    grader.grade("2", None, r"\boxed{4/2}")
    first = grader._process
    verdict = grader.grade("2", None, HOSTILE["exponents"])
    assert verdict.reason == "not judged within 2 s"
    assert first.poll() is not None
    assert grader.grade("2", None, r"\boxed{4/2}").correct
    second = grader._process
    assert second is not first
    grader.close()
    grader.close()
    assert second.poll() is not None


def test_a_process_that_dies_is_replaced(grader):
    grader.grade("2", None, r"\boxed{4/2}")
    grader._process.kill()
    grader._process.wait()
    assert not grader.grade("2", None, r"\boxed{4/2}").correct
    assert grader.grade("2", None, r"\boxed{4/2}").correct


def test_without_math_verify_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("plait.evals.benchmarks.mathematics.grading.__package__", "plait.evals.nowhere")
    with pytest.raises(GradingFailed, match=r"pip install 'plait\[evals\]'"):
        MathGrader().grade("2", None, r"\boxed{4/2}")


def spellings(gold):
    """A MATH-500 answer as models write it."""
    yield rf"\boxed{{{gold}}}"
    yield rf"Thus $x=1$ and the answer is $\boxed{{ {gold} }}$."
    yield rf"\boxed{{0}} was wrong; \[\boxed{{{gold.replace('frac', 'dfrac')}}}\]"


def test_every_published_answer_is_right_and_the_next_one_is_not(grader):
    math500 = rows("math500.jsonl")
    for row, other in zip(math500[::5], [*math500[5::5], math500[0]], strict=True):
        gold = row["answer"]
        for text in spellings(gold):
            assert grader.grade(gold, None, text).correct, (row["id"], text)
        if canonical(other["answer"]) != canonical(gold):
            assert not grader.grade(gold, None, rf"\boxed{{{other['answer']}}}").correct, (gold, other["answer"])


@pytest.mark.parametrize("name", ["aime24.jsonl", "aime25.jsonl"])
def test_aime_answers(grader, name):
    for row in rows(name):
        gold = str(row["answer"])
        assert grader.grade(gold, None, rf"\boxed{{{row['answer']:03d}}}").correct
        assert grader.grade(gold, None, rf"it is ${Fraction(row['answer']) * 2}/2$").correct
        assert not grader.grade(gold, None, rf"\boxed{{{row['answer'] + 1}}}").correct
