"""Which of a text's answers counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.methods.hogwild.finishers import FINISHERS, find

BOX = "\\boxed{"


@pytest.mark.parametrize(
    ("text", "mathematics", "number"),
    [
        (BOX + "5}", "5", "5"),
        ("write \\boxed{answer here}.", None, None),
        ("\\boxed{7}, as in \\boxed{answer here}", "7", "7"),
        ("\\boxed{7} or \\boxed{ 8 }", "8", "8"),
        ("\\boxed{7} and \\boxed{8", "7", "7"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", None),
        ("\\boxed{x^2 + 1}", "x^2 + 1", None),
        ("\\boxed{(3, \\infty)}", "(3, \\infty)", None),
        ("\\boxed{\\text{blue and red}}", "\\text{blue and red}", None),
        ("\\boxed{12 apples}", "12 apples", None),
        ("\\boxed{12 big apples}", "12 big apples", None),
        ("\\boxed{big red apples}", None, None),
        ("\\boxed{...}", None, None),
        ("\\boxed{}", None, None),
        ("\\boxed{\\ldots}", None, None),
        ("\\boxed{answer}", None, None),
        ("\\boxed{1e3}", "1e3", "1e3"),
        ("\\boxed{inf}", "inf", "inf"),
        ("no box 5", None, None),
    ],
)
def test_the_rightmost_box_that_parses(text, mathematics, number):
    assert (find("boxed", text, "mathematics"), find("boxed", text, "number")) == (mathematics, number)


NOUNS = st.sampled_from(["answer", "Answer", "result", "ans", "final answer", "answer here", "number", "value"])
WRAPS = st.sampled_from(
    ["{}", "\\text{{{}}}", "\\textbf{{{}}}", "\\mathrm{{{}}}", "<{}>", "[{}]", "({})", "\\text{{{}}}."]
)


@given(
    st.sampled_from(["", "your ", "the ", "insert ", "my "]), NOUNS, WRAPS, st.sampled_from([" ", "\\ ", "\\_", "_"])
)
def test_words_that_stand_for_an_answer_are_none(before, noun, wrap, space):
    content = wrap.format(f"{before}{noun}".replace(" ", space))
    assert find("boxed", f"\\boxed{{7}}, in the end as \\boxed{{{content}}}", "mathematics") == "7"


@pytest.mark.parametrize(
    "content", ["\\pi", "-\\infty", "\\emptyset", "\\theta", "2\\pi", "\\text{none}", "a", "x_1", "A"]
)
def test_signs_and_letters_are_answers(content):
    assert find("boxed", f"So \\boxed{{{content}}}.", "mathematics") == content


@pytest.mark.parametrize(
    "content", ["\\dots", "\\text{...}", "\\square", "\\left(\\ldots\\right)", "\\text{}", "?", "\\_\\_"]
)
def test_blanks_are_no_answers(content):
    assert find("boxed", f"So \\boxed{{{content}}}.", "mathematics") is None


def test_any_box():
    assert find("boxed", "\\boxed{answer here} \\boxed{ }", "any") == "answer here"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```\nno:\n```python\nx = = 2\n```", "x = 1\n"),
        ("```py\nx = 1\n```\n```python\ny = 2\n```\n", "y = 2\n"),
        ("```cpp\nint x = 1;\n```", "int x = 1;\n"),
        ("  ```python\nx = '```'\n  ```", "x = '```'\n"),
        ("```python\nx = 1\n", None),
        ("```python\n\n```", None),
        ("x = 1", None),
        ("```python\n" + "(" * 5000 + ")" * 5000 + "\n```", None),
        ("```python\nx = '\\d'\n```", "x = '\\d'\n"),
        ("**Alice [3]:** ```python\nx = 1\n```\n\n", "x = 1\n"),
        ("```python\nx = 1\n```\n\n**Bob [2]:** ```python\ny = 2\n```\n\n", "y = 2\n"),
        ("**Bob [2]:** ```python\ny = 2\n```\nHere:\n```python\nz = 3\n```\n", "z = 3\n"),
        ("So the code is: ```\nx = 1\n```", "x = 1\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\r\n"),
        ("Never put ```\nx = 1\n```", None),
    ],
)
def test_the_last_block_that_compiles(text, code):
    assert find("code", text, "mathematics") == code


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{C}", "C"),
        ("\\boxed{\\text{B}}", "B"),
        ("\\boxed{(D)} or \\boxed{ A. }", "A"),
        ("The answer is (B). Not C.", "B"),
        ("Answer: D", "D"),
        ("\\boxed{A}. So the answer is E", "E"),
        ("answer is Bob", None),
        ("The final answer is **C**.", "C"),
        ("**Answer:** B", "B"),
        ("ANSWER: (E)", "E"),
        ("\\boxed{B) 42 m/s}", "B"),
        ("The answer is A because of it.", "A"),
        ("Let me check the answer I found.", None),
        ("answer: I think it is 4", None),
        ("The answer B has is wrong", None),
        ("The answer A: no. The answer (I) then", "I"),
        ("\\boxed{answer here}", None),
        ("answer is K", None),
        ("Answer: $B", "B"),
        ("Answer: $B$", "B"),
        ("**Answer: $(B)$**", "B"),
        ("\\boxed{$B$}", "B"),
        ("\\boxed{\\mathbf{B}}", "B"),
        ("\\boxed{(\\text{B})}", "B"),
        ("\\boxed{\\textbf{(C)}}", "C"),
        ("\\boxed{\\textbf{(C)} 42}", "C"),
        ("\\boxed{$B + C$}", None),
        ("the answer $A$ holds", "A"),
    ],
)
def test_the_last_letter_that_is_named(text, letter):
    assert find("choice", text, "mathematics") == letter


PIECES = st.sampled_from(
    [BOX, "{", "}", "```", "\n", "python", "\\text{", " ", "answer", "is", "(", "A", ")", "7", "x", "\\", ":", "\u0661"]
)


@given(st.lists(PIECES, max_size=40).map("".join), st.sampled_from(["mathematics", "number", "any"]))
def test_no_text_is_an_error(text, accepts):
    for kind in FINISHERS:
        found = find(kind, text, accepts)
        assert found is None or found.strip() in text


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", [BOX * 30_000, "answer " + " " * 200_000, "```\n" * 40_001, "\\boxed {\\text{" * 20_000, "a" * 200_000]
)
def test_long_texts_take_no_long_time(text):
    for kind in FINISHERS:
        find(kind, text, "mathematics")
