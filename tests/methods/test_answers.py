"""Answer rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput
from plait.runtime.methods.answers import check_rule, extract

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
