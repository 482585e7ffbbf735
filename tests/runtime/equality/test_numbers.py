"""Exact values of numbers, however they are written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.runtime.equality.numbers import classes, key, read
from plait.tests.runtime.equality.written import fractions, numbers, wrapped


@settings(max_examples=400)
@given(fractions(3000, 40), st.data())
def test_every_way_to_write_a_number_has_its_value(value, data):
    text = data.draw(wrapped(data.draw(numbers(value))))
    assert read(text).value == value, text
    assert key(text) == str(value)


@given(st.lists(fractions(4, 3), max_size=8), st.data())
def test_classes_are_those_of_the_values(values, data):
    labels = classes([data.draw(numbers(value)) for value in values])
    assert [labels.index(label) for label in labels] == [values.index(value) for value in values]


NOUNS = ["eggs", "gallons", "cup", "students total", "miles per hour", "cups of tea", "Square  meters", "books a week."]


@given(fractions(3000, 40), st.sampled_from(NOUNS), st.sampled_from([" ", "  ", "~", r"\ ", r"\, "]), st.data())
def test_words_behind_a_number_are_its_unit(value, noun, space, data):
    number = data.draw(numbers(value).filter(lambda text: text[-1].isdigit() or text[-1] == "}"))
    for text in (f"{number}{space}{noun}", f"${number}${space}{noun}", f"x = {number}{space}{noun}"):
        assert read(text).value == value, text


LETTERS = st.sets(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=3, max_size=6).map(
    lambda s: "".join(sorted(s))
)
UNITS = ("deg", "degs", "cms", "dms", "kms", "ins", "hrs", "cent")
NO_UNITS = [
    "sin", "cos x", "log", "theta", "sqrt", "infinity", "squared", "factorial", "or more", "or 3", "over 5",
    "and a half", "base two", "mod seven", "choose two", "fourths", "twentieths", "hundredths", "quarter", "plus three",
    "over five", "eggs or more", "eggs and 2 more", "times theta", "to 5", "and two thirds", "tenths", "Thousandths",
    "sixths", "base eight", "out of ten", "negative", "tens",
]  # fmt: skip
NO_UNITS_AS_TEXT = [*NO_UNITS, "pi", "a million", "hundred thousand", "million and a half"]
NO_UNITS += ["xyz", "mgh"]
OTHERS = st.sampled_from([f" {words}" for words in NO_UNITS] + [rf"\text{{ {words}}}" for words in NO_UNITS_AS_TEXT])


@given(st.integers(1, 50), OTHERS | LETTERS.filter(lambda letters: letters not in UNITS).map(" {}".format))
def test_what_belongs_to_the_value_is_no_unit(number, rest):
    text = f"{number}{rest}"
    assert read(text).value is None and key(text) != str(number)


def test_long_answers_of_words_are_read_at_once():
    assert read("1 egg " * 160 + "x").value is None and read("1 " + "egg " * 240).value == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\$32,\!348", "32348"), (r"-\$5", "-5"), (r"5.4 \text{ cents}", "5.4"), (r"864 \mbox{ inches}^2", "864"),
        ("90^\\circ", "90"), ("10 sq cm", "10"), ("10 degrees", "10"), ("x = 25", "25"), (r"x_{1}=\frac12", "1/2"),
        (r"0.\overline{3}", "1/3"),
        (r"0.\dot{1}4285\dot7", "1/7"), ("2.(6)", "8/3"), ("2(6)", None), (r"0.\dot{3}5", None),
        (r".1\overline{6}", "1/6"), ("025", "25"), ("12 percent", "0.12"), ("+3", "3"),
        (r"\frac{270}7\text{ degrees}", "270/7"), ("((-2))", None), ("(-2)", "-2"), ("1/0", None), ("1 2", None),
        ("3r", None), ("2t", None), ("5c", None), ("1,2", None), ("x=y=5", None), ("--5", None), ("52_8", None),
        (r"7\,\mathrm{m\,s^{-1}}", "7"), (r"7\ \mathrm{kg\cdot m}", "7"), (r"7\,\mathrm{kg\,m^2\,s^{-2}}", "7"),
        (r"7\,\mathrm{x\,s}", None), (r"7\text{ sec}", "7"), (r"7\text{ million dollars}", "7000000"),
        (r"7\text{ inches of rain}", "7"), ("=7", "7"), ("x = = 7", None), ("2⅔", "8/3"), ("x=⅛", "1/8"),
        ("1 234", "1234"),
        ("", None), ("(1,000)", None), ("1.2.3", None), ("1e5", "100000"), ("1e-5", None), ("e5", None), ("2e5x", None),
        (r"\text{USD }5", "5"), ("-EUR 2.5", "-2.5"), ("USD", None), ("USD x", None), ("Answer:", None),
        ("-1.5E3", "-1500"), ("1E2/3", "100/3"), ("2E-3", "1/500"), ("2E", None), ("9" * 2000, None),
    ],
)  # fmt: skip
def test_values(text, value):
    assert read(text).value == (None if value is None else Fraction(value)) if len(text) < 1000 else key(text) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_as_programs_print_them(number):
    assert read(repr(number)).value == Fraction(repr(number))


@given(
    st.integers(0, 10**6), st.sampled_from(["USD", "EUR", "GBP"]), st.sampled_from(["", "Answer: ", "Final answer: "])
)
def test_a_code_of_money_stands_on_either_side(number, code, label):
    assert read(f"{label}{code} {number}").value == read(f"{label}{number} {code}").value == number


@given(st.text(max_size=30) | st.text("0123456789./\\{}frac,-%x= ", max_size=15))
def test_any_text_has_a_key_that_is_its_own(text):
    assert key(key(text)) == key(text)
