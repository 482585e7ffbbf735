"""Answer rules."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput
from plait.runtime.equality.registry import text
from plait.runtime.methods.answers import boxes, check_rule, extract, majority

CASES = [
    ("text", "  hi \n", "hi"),
    ("text", " \n", None),
    ("boxed", r"so \boxed{42}.", "42"),
    ("boxed", r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ("boxed", r"\boxed{1} and \boxed{2", "1"),
    ("boxed", r"\boxed{}", None),
    ("boxed", r"\boxed{1} \boxed{}", None),
    ("boxed", "\\boxed {73}", "73"),
    ("boxed", r"\boxed{\left\{1, 2\right.}", r"\left\{1, 2\right."),
    ("boxed", r"\\boxed{\\frac{1}{2}}", r"\\frac{1}{2}"),
    ("boxed", r"\boxed5.", "5"),
    ("boxed", r"\boxed{1} or \boxed -73", "-73"),
    ("boxed", r"\boxed 1,024.5, say", "1,024.5"),
    ("boxed", r"\boxed\frac12", r"\frac12"),
    ("boxed", r"\boxed\dfrac{1}{23}", r"\dfrac{1}{23}"),
    ("boxed", r"\boxed\sqrt2", r"\sqrt2"),
    ("boxed", r"\boxed B", "B"),
    ("boxed", r"\boxed 2 is wrong: \boxed{3}", "3"),
    ("boxed", r"in \boxed format, \boxed\text{x}", None),
    ("boxed", "nothing", None),
    ("countdown", "apr 24 : 8 3 ; answer none ; answer 8 * 3 = 24", "8 * 3 = 24"),
    ("countdown", "answer 8 * 3 = 24 answer none", None),
    ("countdown", "answers 8", None),
    ("countdown", "answer", None),
    (r"regex:\d+", "1 and 23", "23"),
    (r"regex:x=(\d+)", "x=1, x=2", "2"),
    (r"regex:x=(\d+)?", "x=", None),
    ("regex:z", "abc", None),
    (r"regex:answer is:?([^\n]*)", "The answer is: \n", None),
    ("regex:a*", "b", None),
    (
        "path",
        "Goal Reached\nExploring Operation: 8-3=5, Resulting Numbers: [2, 5]\n"
        "Exploring Operation: 5-2=3, Resulting Numbers: [3]\n3,3 equal: Goal Reached\n",
        "8-3=5, 5-2=3",
    ),
    ("path", "Exploring Operation: 8-3=5, Resulting Numbers: [5]\nGoal Reached", None),
    ("path", "nothing", None),
]


@pytest.mark.parametrize(("rule", "text", "answer"), CASES)
def test_extract(rule, text, answer):
    assert extract(check_rule(rule), text) == answer


@pytest.mark.parametrize("rule", ["", "box", "regex:(", "regex:*"])
def test_unknown_rules(rule):
    for told in (check_rule, lambda rule: extract(rule, "box")):
        with pytest.raises(InvalidInput, match="answer rule"):
            told(rule)


@given(
    st.sampled_from(["text", "boxed", "countdown", "regex:a(b)?", "regex:a([ b]*)"]),
    st.text("ab{}\\boxed answer ", max_size=40),
)
def test_any_text_has_an_answer_or_none(rule, text):
    answer = extract(rule, text)
    assert answer is None or answer.strip() and (answer in " ".join(text.split()) or answer in text)


def spans(text):
    """The plain reading of the rule: count braces from every `\\boxed{`; what follows a backslash is no brace."""
    starts = {match.start(): match.end() for match in re.finditer(r"\\boxed\s*\{", text)}
    at, opened, found = 0, [], []
    while at < len(text):
        doubled = at + 1 in starts and text[at] == "\\"
        if at in starts or doubled:
            at = starts[at + doubled]
            opened.append(at)
            continue
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == "{":
            opened.append(None)
        if text[at] == "}" and opened and (begin := opened.pop()) is not None:
            found.append((begin, at))
        at += 1
    return sorted(found)


PIECES = ["\\boxed{", "\\boxed \n{", "\\boxed", "{", "}", "1", "x", "\\"]
NESTED = st.recursive(
    st.sampled_from(["", "1", "x"]),
    lambda inner: st.tuples(inner, inner, inner).map(lambda parts: "{}\\boxed{{{}}}{}".format(*parts)),
    max_leaves=8,
)


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | NESTED)
def test_boxes_are_those_found_by_counting_braces(text):
    kept = []
    for begin, end in spans(text):
        if not kept or begin > kept[-1][1]:
            kept.append((begin, end))
        elif "1" not in text[kept[-1][0] : begin] + text[end : kept[-1][1]]:
            kept[-1] = (begin, end)  # the outer box holds no more than the inner
    assert boxes(text) == kept


@pytest.mark.parametrize("part", ["\\boxed{", "\\boxed{}", "{", "}"])
@pytest.mark.timeout(10)
def test_a_megabyte_of_braces_is_no_trouble(part):
    assert extract("boxed", r"\boxed{7}" + part * (1_000_000 // len(part))) in ("7", None)


def test_the_majority_is_the_first_of_the_most_frequent():
    assert majority(["b", None, "a", "a", "b", None, None]) == ("b", {"b": 2, "a": 2})
    assert majority([None]) == (None, {})


def test_equal_numbers_vote_for_one():
    answers = [r"\frac{1}{2}", r"\dfrac{1}{2}", "0.5", "3", "3"]
    assert majority(answers) == (r"\frac{1}{2}", {r"\frac{1}{2}": 3, "3": 2})
    assert majority(answers, text)[0] == "3"
    assert majority(["1/2", "0.5", "0.5"]) == ("0.5", {"0.5": 3})


def test_a_pattern_without_an_end_gives_no_answer():
    """A job's pattern on a model's text may take for ever; another job is not made to wait for it."""
    start = time.process_time()
    assert extract(check_rule(r"regex:(a|a)+b"), "a" * 40_000 + "!") is None
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "pattern", ["(" * 900 + ")" * 900, "a{99999999999}", "(", "a" * 2001, "[", "(?<=a+)" + "(" * 500]
)
def test_patterns_that_cannot_be(pattern):
    with pytest.raises(InvalidInput, match="answer rule") as caught:
        check_rule(f"regex:{pattern}")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["1" * 200_000, "1 " * 100_000, "1+" * 100_000, "1+1=" * 50_000, "1" + " " * 200_000])
def test_equations_are_found_in_time_linear_in_the_text(text):
    start = time.process_time()
    extract("equations", text)
    assert time.process_time() - start < 3


def test_equations():
    assert extract("equations", "so 12 + 3=15 and 7*8 = 56, 1=1, 10-4-3=3") == "12 + 3=15 , 7*8 = 56 , 4-3=3"
