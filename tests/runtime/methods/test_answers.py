"""Answer rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput
from plait.runtime.methods.answers import boxes, check_rule, extract, majority

CASES = [
    ("text", "  hi \n", "hi"),
    ("text", " \n", None),
    ("boxed", r"so \boxed{42}.", "42"),
    ("boxed", r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ("boxed", r"\boxed{1} and \boxed{2", "1"),
    ("boxed", r"\boxed{}", None),
    ("boxed", "nothing", None),
    ("countdown", "apr 24 : 8 3 ; answer none ; answer 8 * 3 = 24", "8 * 3 = 24"),
    ("countdown", "answer 8 * 3 = 24 answer none", None),
    ("countdown", "answers 8", None),
    ("countdown", "answer", None),
    (r"regex:\d+", "1 and 23", "23"),
    (r"regex:x=(\d+)", "x=1, x=2", "2"),
    (r"regex:x=(\d+)?", "x=", None),
    ("regex:z", "abc", None),
]


@pytest.mark.parametrize(("rule", "text", "answer"), CASES)
def test_extract(rule, text, answer):
    assert extract(check_rule(rule), text) == answer


@pytest.mark.parametrize("rule", ["", "box", "regex:(", "regex:*"])
def test_unknown_rules(rule):
    with pytest.raises(InvalidInput):
        check_rule(rule)


@given(st.sampled_from(["text", "boxed", "countdown", "regex:a(b)?"]), st.text("ab{}\\boxed answer ", max_size=40))
def test_any_text_has_an_answer_or_none(rule, text):
    answer = extract(rule, text)
    assert answer is None or answer in " ".join(text.split()) or answer in text


def spans(text):
    """The plain reading of the rule: count braces from every `\\boxed{`."""
    for start in (i for i in range(len(text)) if text.startswith("\\boxed{", i)):
        depth, begin = 1, start + len("\\boxed{")
        for end in range(begin, len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                yield begin, end
                break


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "1", "\\"]), max_size=14).map("".join))
def test_boxes_are_those_found_by_counting_braces(text):
    assert boxes(text) == list(spans(text))


@pytest.mark.parametrize("part", ["\\boxed{", "\\boxed{}", "{", "}"])
@pytest.mark.timeout(10)
def test_a_megabyte_of_braces_is_no_trouble(part):
    assert extract("boxed", r"\boxed{7}" + part * (1_000_000 // len(part))) in ("7", None)


def test_the_majority_is_the_first_of_the_most_frequent():
    assert majority(["b", None, "a", "a", "b", None, None]) == ("b", {"b": 2, "a": 2})
    assert majority([None]) == (None, {})
