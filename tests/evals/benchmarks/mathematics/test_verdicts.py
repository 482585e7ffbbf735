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


PRODUCTS = [r"\theta", r"\alpha", r"\sin x", r"\infty", "abc", "xyz", "mgh", "x", "pi"]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.sampled_from(PRODUCTS), st.sampled_from(["eggs", "miles per hour", r"\text{ eggs}"]))
def test_a_word_behind_a_number_is_its_unit_and_a_symbol_a_factor(grader, number, symbol, noun):
    assert grader.grade(str(number), None, rf"\boxed{{{number} {noun}}}").correct
    assert grader.grade(f"{number} {noun}", None, rf"\boxed{{{number}}}").correct
    assert not grader.grade(str(number), None, rf"\boxed{{{number} {noun} + 1}}").correct
    for factor in {symbol, symbol.removeprefix("\\")}:
        assert not grader.grade(str(number), None, rf"\boxed{{{number} {factor}}}").correct, factor
    assert grader.grade(f"{number}{symbol}", None, rf"\boxed{{{number} {symbol}}}").correct


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


UNITS = ["m", "g", "s", "L", "cm", "km/h", "m/s", "m/s^2", "miles per hour", "square feet", "in^3", "dollars", "people"]
AMOUNTS = ["or 97", "and 97", "or more", "squared", "factorial", "million", "dozen", "feet and 6 inches"]


@settings(max_examples=50, deadline=None)
@given(fractions(30, 4), st.sampled_from(UNITS), st.sampled_from(["text", "mathrm", "textbf"]), st.data())
def test_units_are_left_out_and_words_that_change_the_value_are_not(grader, value, unit, face, data):
    assume(value != 0)
    number = data.draw(numbers(value).filter(lambda text: "%" not in text))
    gold = data.draw(numbers(value).filter(lambda text: "%" not in text))
    given = rf"\boxed{{{number}\{face}{{ {unit}}}}}"
    assert grader.grade(gold, None, given).correct, given
    assert grader.grade(rf"{gold}\text{{ {unit}}}", None, rf"\boxed{{{number}}}").correct
    amount = data.draw(st.sampled_from(AMOUNTS))
    assert not grader.grade(gold, None, rf"\boxed{{{number}\{face}{{ {amount}}}}}").correct, amount


@given(st.integers(1, 99), st.sampled_from([("million", 10**6), ("thousand", 1000), ("dozen", 12)]))
def test_millions(grader, count, scale):
    word, factor = scale
    assert grader.grade(str(count * factor), None, rf"\boxed{{{count}\text{{ {word}}}}}").correct
    assert grader.grade(rf"\${count}\text{{ {word}}}", None, rf"\boxed{{\${count * factor:,}}}").correct
    assert grader.grade(rf"{count}\text{{ {word}}}", None, rf"\boxed{{{count}}}").correct
    assert not grader.grade(str(count), None, rf"\boxed{{{count}\text{{ {word}}}}}").correct


@st.composite
def intervals(draw):
    """An interval or what it leaves out, with the same said in inequalities."""
    a = draw(st.integers(-9, 8))
    b = draw(st.integers(a + 1, 9))
    open_a, open_b, is_outside = draw(st.tuples(*[st.booleans()] * 3))
    less = ["<" if one else draw(st.sampled_from([r"\le ", r"\leq", "≤"])) for one in (open_a, open_b)]
    more = [">" if one else draw(st.sampled_from([r"\ge ", r"\geqslant "])) for one in (open_a, open_b)]
    if is_outside:
        brackets = rf"(-\infty, {a}{')' if open_a else ']'} \cup {'(' if open_b else '['}{b}, \infty)"
        sides = [rf"x {less[0]} {a}", f"{b} {less[1]} x" if draw(st.booleans()) else f"x {more[1]} {b}"]
        joined = rf" \{draw(st.sampled_from(['text', 'mbox']))}{{ or }} ".join(draw(st.permutations(sides)))
        return (a, b, open_a, open_b, is_outside), brackets, joined
    chain = draw(
        st.sampled_from(
            [
                f"{a} {less[0]} x {less[1]} {b}",
                f"{b} {more[1]} x {more[0]} {a}",
                rf"x {more[0]} {a}\text{{ and }}x {less[1]} {b}",
                rf"\{{x \mid {a} {less[0]} x {less[1]} {b}\}}",
                rf"\{{x\in\mathbb{{R}} : {a} {less[0]} x {less[1]} {b}\}}",
            ]
        )
    )
    return (a, b, open_a, open_b, is_outside), f"{'(' if open_a else '['}{a}, {b}{')' if open_b else ']'}", chain


@settings(max_examples=25, deadline=None)
@given(intervals(), intervals())
def test_inequalities_are_the_sets_they_describe(grader, one, other):
    assert grader.grade(one[1], None, rf"\boxed{{{one[2]}}}").correct
    assert grader.grade(one[2], None, rf"\boxed{{{one[1]}}}").correct
    assert grader.grade(one[1], None, rf"\boxed{{{other[2]}}}").correct == (one[0] == other[0])


@st.composite
def entries(draw):
    if draw(st.booleans()):
        value = draw(fractions(9, 5))
        return value, draw(numbers(value).filter(lambda text: "," not in text and "%" not in text))
    a, b, c = draw(st.tuples(st.integers(1, 2), st.sampled_from([-1, 2]), st.sampled_from([2, 3])))
    return (a, b, c), draw(surds(a, b, c))


def again(draw, value):
    kind = numbers(value).filter(lambda text: "," not in text and "%" not in text)
    return draw(kind if isinstance(value, Fraction) else surds(*value))


MATRICES = [
    r"\begin{{pmatrix}}{}\end{{pmatrix}}",
    r"\begin{{bmatrix}} {} \\ \end{{bmatrix}}",
    r"\left[\begin{{matrix}}{}\end{{matrix}}\right]",
    r"\left( \begin{{array}}{{cc}}{}\end{{array}} \right)",
    r"\left[\begin{{array}}{{r|r}} {} \end{{array}}\right]",
]


@settings(max_examples=15, deadline=None)
@given(st.lists(entries(), min_size=4, max_size=4, unique_by=lambda entry: entry[0]), st.data())
def test_lists_tuples_and_matrices(grader, drawn, data):
    values = [value for value, _ in drawn]
    order = data.draw(st.permutations(values))

    def written(form, values):
        texts = [again(data.draw, value) for value in values]
        return form.format(r" \\ ".join((" & ".join(texts[:2]), " & ".join(texts[2:]))))

    matrix, *others = [written(data.draw(st.sampled_from(MATRICES)), part) for part in (values, values, order)]
    assert grader.grade(matrix, None, rf"\boxed{{{others[0]}}}").correct
    assert grader.grade(matrix, None, rf"\boxed{{{others[1]}}}").correct == (values == order)
    joined = [", ".join(again(data.draw, value) for value in part) for part in (values, order)]
    mark = data.draw(st.sampled_from([r"\text{ and }", r" \text{ or } ", ",", r"\text{, }"]))
    listed = mark.join(again(data.draw, value) for value in order)
    assert grader.grade(joined[0], None, rf"\boxed{{{listed}}}").correct, listed
    assert grader.grade(rf"\{{{joined[0]}\}}", None, rf"\boxed{{{listed}}}").correct, listed
    assert not grader.grade(joined[0], None, rf"\boxed{{{mark.join(listed.split(mark)[:-1])}}}").correct
    assert grader.grade(f"({joined[0]})", None, rf"\boxed{{\left({joined[1]}\right)}}").correct == (values == order)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6), st.sampled_from([2, 3, 5]), st.integers(2, 4))
def test_both_signs_are_two_values(grader, a, c, k):
    both = rf"\frac{{{a}\pm\sqrt{{{c}}}}}{{{k}}}"
    plus, minus = (rf"\frac{{{a}}}{{{k}}}{sign}\frac{{\sqrt{c}}}{k}" for sign in "+-")
    assert grader.grade(both, None, rf"\boxed{{{minus}\text{{ and }}{plus}}}").correct
    assert grader.grade(f"x={both}", None, rf"\boxed{{x={plus},x={minus}}}").correct
    assert grader.grade(f"{plus},{minus}, 7", None, rf"\boxed{{7, {both}}}").correct
    assert not grader.grade(both, None, rf"\boxed{{{plus}}}").correct
    assert not grader.grade(plus, None, rf"\boxed{{{both}}}").correct


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 89), st.sampled_from([("sin", "cos"), ("cos", "sin")]), st.booleans())
def test_degrees_of_a_sine_are_no_unit(grader, angle, names, bracketed):
    def written(name, size, degrees=r"^\circ"):
        return rf"\{name}({size}{degrees})" if bracketed else rf"\{name} {size}{degrees}"

    one, other = names
    assert grader.grade(written(one, angle), None, rf"\boxed{{{written(other, 90 - angle, '°')}}}").correct
    assert not grader.grade(written(one, angle), None, rf"\boxed{{{written(one, angle, '')}}}").correct
    assert not grader.grade(written(one, angle, ""), None, rf"\boxed{{{written(one, angle)}}}").correct
