"""Word problems: their solutions computed anew, their texts read for the numbers, splits that never meet."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest

from plait import InvalidInput
from plait.evals import parse_benchmark
from plait.evals.benchmarks.mathematics.word_problems.problems import MOST, TEMPLATES, problems, split_of
from plait.evals.benchmarks.mathematics.word_problems.story import LARGEST, an, plural, some

WORDS = {
    "half": [2],
    "twice": [2],
    "rectangular": [2],
    "third of": [1, 3],
    "thirds of": [2, 3],
    "one third": [1, 3],
    "two thirds": [2, 3],
    "quarter": [1, 4],
    "three quarters": [3],
    "fifth": [1, 5],
    "two fifths": [2],
    "three times": [3],
    "four times": [4],
    "of four": [4],
    "one teacher": [1],
    "dozen": [12],
    "week": [7],
    "hours": [60],
    "kilometres": [1000],
    "%": [100],
    ".": [100],
}
"""Numbers that a text gives in words, or that everybody knows."""


@pytest.fixture(scope="module")
def thousand():
    return list(islice(problems("validation", 0), 1000))


def evaluate(expression):
    """Products before sums, from left to right, in fractions."""
    total = Fraction(0)
    for sign, term in re.findall(r"([+-]?)([\d*/]+)", expression):
        value, *rest = re.split(r"([*/])", term)
        product = Fraction(value)
        for mark, factor in zip(rest[::2], rest[1::2], strict=True):
            product = product * int(factor) if mark == "*" else product / int(factor)
        total += -product if sign == "-" else product
    return total


def written(question):
    """The numbers that stand in a text in digits; amounts with cents in cents."""
    cents = [int(a + b) for a, b in re.findall(r"\$(\d+)\.(\d\d)", question)]
    return cents + [int(n) for n in re.findall(r"\d+", re.sub(r"\$\d+\.\d\d", "", question))]


def test_the_evaluator_of_this_test():
    assert evaluate("48/2") == 24 and evaluate("3+4*5-6/4") == Fraction(43, 2) and evaluate("7*2/3") == Fraction(14, 3)


def test_solutions_are_right(thousand):
    for problem in thousand:
        known = set(Counter(written(problem.question)) - Counter(problem.spare))
        known |= {n for word, numbers in WORDS.items() if word in problem.question.lower() for n in numbers}
        used = set()
        assert 2 <= len(problem.steps) <= 6
        for step in problem.steps:
            expression, result = step.split("=")
            assert evaluate(expression) == int(result), problem
            assert 1 <= int(result) <= LARGEST, problem
            operands = {int(n) for n in re.findall(r"\d+", expression)}
            assert operands <= known, (problem, operands - known)
            used |= operands
            known.add(int(result))
        assert problem.answer == int(result)
        # Whatever stands in the text is either used or known not to matter.
        assert set(written(problem.question)) <= used | set(problem.spare) | {1}, problem


def test_every_result_but_the_last_is_used(thousand):
    for problem in thousand:
        results = [int(step.split("=")[1]) for step in problem.steps]
        operands = [int(n) for step in problem.steps for n in re.findall(r"\d+", step.split("=")[0])]
        assert set(results[:-1]) <= set(operands), problem


def test_texts_are_whole(thousand):
    for problem in thousand:
        text = problem.question
        assert text.isascii() and text[0].isupper() | text[0].isdigit() and text.count("?") == 1 and text.endswith("?")
        assert not re.search(r"[{}<>_\[\]]|None|  | [.,?;]|\.\.|\b([Aa]|[Tt]he|an) \1\b", text), text
        assert not re.search(r"\b(a [aeio]|an [^aeiou](?!our))", text, re.IGNORECASE), text
        # One thing, several things.
        assert not re.search(r"\b1 \w+s\b|\b(?:[2-9]|\d\d+) (?:more )?(?:hour|box|metre|litre|day|week)\b", text), text
        for sentence in re.split(r"(?<=[.?]) ", text):
            assert sentence[0].isupper() or sentence[0].isdigit(), text


def test_they_vary(thousand):
    assert len({problem.question for problem in thousand}) == len({problem.key for problem in thousand}) == 1000
    counts = Counter(problem.template for problem in thousand)
    assert set(counts) == set(TEMPLATES) and len(TEMPLATES) >= 25
    assert max(counts.values()) < 1000 / 15
    assert len({problem.answer for problem in thousand}) > 250
    assert sum(bool(problem.spare) for problem in thousand) > 200


def test_seeds_decide(thousand):
    assert thousand[:50] == list(islice(problems("validation", 0), 50))
    assert thousand[:50] != list(islice(problems("validation", 1), 50))
    # What is published is about the problems of seed 0.
    assert (thousand[0].template, thousand[0].numbers) == ("journey", (75, 3, 35, 3, 19))


def test_splits_never_meet(thousand):
    train = list(islice(problems("train", 0), 1000))
    assert {split_of(problem.key) for problem in train} == {"train"}
    assert {split_of(problem.key) for problem in thousand} == {"validation"}
    assert not {problem.question for problem in train} & {problem.question for problem in thousand}
    with pytest.raises(ValueError, match="no split"):
        next(problems("test", 0))


def test_there_are_as_many_as_one_may_ask_for():
    assert len({problem.key for problem in problems("validation", 7)}) == MOST


def test_words():
    assert [plural(noun) for noun in ("box", "cherry", "toy", "bunch", "loaf", "glue stick")] == [
        "boxes",
        "cherries",
        "toys",
        "bunches",
        "loaves",
        "glue sticks",
    ]
    assert (some(1, "more hour"), some(2, "more hour"), an("apron"), an("bag")) == (
        "1 more hour",
        "2 more hours",
        "an apron",
        "a bag",
    )


def test_as_a_benchmark():
    benchmark = parse_benchmark({"name": "word_problems", "count": 5, "seed": 3})
    samples = benchmark.load()
    assert [sample.id for sample in samples] == [f"validation-3-{i}" for i in range(5)]
    assert len(parse_benchmark({"name": "word_problems"}).load()) == 200
    for sample in samples:
        (message,) = benchmark.prompt(sample, "sequential")["prompt"]
        assert message["content"].startswith(sample.question) and "\\boxed{}" in message["content"]
        assert benchmark.grade(sample, sample.reference, f"So it is \\boxed{{{sample.reference}}}.").correct
        assert not benchmark.grade(sample, None, f"\\boxed{{{int(sample.reference) + 1}}}").correct
        for box in ("\\boxed{\\$%s}", "\\boxed{%s\\text{ dollars}}", "\\boxed{%s.00}"):
            assert benchmark.grade(sample, None, box % sample.reference).correct, box
    benchmark.close()


def test_of_a_file(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "How many legs have two dogs?", "answer": 8}\n')
    (sample,) = parse_benchmark({"name": "word_problems", "data": path}).load()
    assert (sample.id, sample.reference) == ("1", "8")


@pytest.mark.parametrize("fields", [{"count": 0}, {"count": MOST + 1}, {"split": "test"}, {"seed": "x"}])
def test_wrong_fields(fields):
    with pytest.raises(InvalidInput, match=next(iter(fields))):
        parse_benchmark({"name": "word_problems", **fields})
