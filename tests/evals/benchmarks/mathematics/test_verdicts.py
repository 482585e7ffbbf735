"""Verdicts against values that are known by construction, written in many and in similar ways."""

from __future__ import annotations

from fractions import Fraction
from math import factorial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plait.evals.benchmarks.mathematics.grading import MathGrader
from plait.tests.runtime.equality.written import fractions, numbers, surds, wrapped


@pytest.fixture(scope="module")
def grader():
    grader = MathGrader(5)
    yield grader
    grader.close()


@st.composite
def drawn(draw):
    """(value, text); the same value often comes again."""
    if draw(st.integers(0, 3)):
        value = draw(st.one_of(fractions(4, 3), fractions(2000, 1)))
        return value, draw(wrapped(draw(numbers(value))))
    a, b, c = draw(st.tuples(st.integers(0, 2), st.sampled_from([-1, 1, 2]), st.sampled_from([2, 3])))
    return (a, b, c), draw(surds(a, b, c))


@settings(max_examples=150, deadline=None)
@given(drawn(), st.data())
def test_the_same_value_in_other_ways(grader, gold, data):
    value, text = gold
    again = data.draw(numbers(value).flatmap(wrapped) if isinstance(value, Fraction) else surds(*value))
    assert grader.grade(text, None, rf"\boxed{{{again}}}").correct, again


@settings(max_examples=250, deadline=None)
@given(drawn(), drawn())
def test_verdicts_are_those_of_the_values(grader, gold, given):
    # A percent sign may be the unit: 10% for 10 is no other answer.
    assume(gold[0] == given[0] or "%" not in gold[1] + given[1])
    assert grader.grade(gold[1], None, rf"\boxed{{{given[1]}}}").correct == (gold[0] == given[0])


FORMS_OF_DIGITS = [
    ("{0}{1}{2}", lambda a, b, c: 100 * a + 10 * b + c),
    (r"\frac{{{0}}}{{{1}{2}}}", lambda a, b, c: Fraction(a, 10 * b + c)),
    (r"\frac{{{0}{1}}}{{{2}}}", lambda a, b, c: Fraction(10 * a + b, c)),
    (r"\frac{0}{1}^{{{2}}}", lambda a, b, c: Fraction(a, b) ** c),
    ("{0}{1}/{2}", lambda a, b, c: Fraction(10 * a + b, c)),
    ("{0} {1}/{2}", lambda a, b, c: a + Fraction(b, c)),
    (r"{0}\frac{{{1}}}{{{2}}}", lambda a, b, c: a + Fraction(b, c)),
    ("{0}.{1}{2}", lambda a, b, c: a + Fraction(10 * b + c, 100)),
    (".{0}{1}{2}", lambda a, b, c: Fraction(100 * a + 10 * b + c, 1000)),
    ("{0}{1}.{2}", lambda a, b, c: 10 * a + b + Fraction(c, 10)),
    ("{0}^{{{1}{2}}}", lambda a, b, c: Fraction(a) ** (10 * b + c)),
    ("{0}^{{{1}}}+{2}", lambda a, b, c: Fraction(a) ** b + c),
    ("{0}^{{{1}+{2}}}", lambda a, b, c: Fraction(a) ** (b + c)),
    ("{0}^{{-{1}}}-{2}", lambda a, b, c: Fraction(a) ** -b - c),
    (r"{0}{1}\cdot {2}", lambda a, b, c: (10 * a + b) * c),
    (r"{0}\cdot {1}{2}", lambda a, b, c: a * (10 * b + c)),
    ("({0}+{1}){2}", lambda a, b, c: (a + b) * c),
    ("{0}+{1}({2})", lambda a, b, c: a + b * c),
    (r"\frac{{1}}{{{0}{1}!}}+{2}", lambda a, b, c: Fraction(1, factorial(10 * a + b)) + c),
    ("{0}({1}!)+{2}", lambda a, b, c: a * factorial(b) + c),
]


@st.composite
def written_digits(draw):
    write, value = draw(st.sampled_from(FORMS_OF_DIGITS))
    digits = draw(st.tuples(*[st.integers(1, 4)] * 3))
    return write.format(*digits), value(*digits)


@settings(max_examples=250, deadline=None)
@given(written_digits(), written_digits())
def test_the_same_digits_written_in_similar_ways(grader, gold, given):
    assert grader.grade(gold[0], None, rf"\boxed{{{given[0]}}}").correct == (gold[1] == given[1])
