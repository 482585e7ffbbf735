"""One form for what TeX sets the same, and another for what it does not."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from plait.runtime.equality.tex import typeset

LEAVES = ["1", "7", "23", "450", "x", "y", r"\pi", r"\alpha", r"\infty"]

trees = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.tuples(st.just("frac"), inner, inner),
        st.tuples(st.just("sqrt"), inner),
        st.tuples(st.just("power"), st.sampled_from(["x", "y", "e"]), inner),
        st.tuples(st.just("brackets"), inner),
        st.tuples(st.just("sum"), inner, inner),
    ),
    max_leaves=8,
)


def write(tree, draw):
    """The formula, in a way that `draw` chooses."""
    pick = lambda *forms: draw(st.sampled_from(forms))  # noqa: E731
    gap = pick("", " ", r"\,", r"\;", "\n", r"\!")
    if isinstance(tree, str):
        return pick(tree, f"{{{tree}}}", f" {tree} ", rf"\mathbf{{{tree}}}")
    kind, *parts = tree
    parts = [write(part, draw) for part in parts]
    if kind == "sum":
        return f"{parts[0]}{gap}+{gap}{parts[1]}"
    if kind == "brackets":
        left, right = pick(("(", ")"), (r"\left(", r"\right)"), (r"\bigl (", r"\bigr )"))
        return f"{left}{gap}{parts[0]}{gap}{right}"
    bare = tree[-1] if isinstance(tree[-1], str) and len(tree[-1]) == 1 else None
    last = pick(f"{{{parts[-1]}}}", *([bare, f" {bare}"] if bare else []))
    if kind == "power":
        return f"{tree[1]}^{last}"
    if kind == "frac" and draw(st.integers(0, 4)) == 0:
        return rf"{{{parts[0]}{gap}\over {parts[1]}}}"
    if kind == "sqrt":
        return rf"\sqrt {last}"
    return pick(r"\frac", r"\dfrac", r"\tfrac") + f"{{{parts[0]}}}{gap if gap.isspace() else ''}{last}"


@given(trees, st.data())
def test_ways_to_write_a_formula_have_one_form(tree, data):
    assert typeset(write(tree, data.draw)) == typeset(write(tree, data.draw))


@given(trees, trees, st.data())
def test_formulas_that_look_different_keep_different_forms(one, other, data):
    assert (typeset(write(one, data.draw)) == typeset(write(other, data.draw))) == (flat(one) == flat(other))


def flat(tree):
    """Sums are written without brackets."""
    if isinstance(tree, str):
        return (tree,)
    kind, *parts = tree
    return flat(parts[0]) + ("+",) + flat(parts[1]) if kind == "sum" else ((kind, *map(flat, parts)),)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", ".5"), (r"\frac{1}{23}", r"\frac{12}{3}"), ("12", "1 2"), ("12", r"1\ 2"), ("x^{2}y", "x^{2y}"),
        ("e^{x+1}", "e^{x}+1"), ("x_{12}", "x_{1}2"), (r"\sqrt{2}3", r"\sqrt{23}"), ("3,500", "3, 500"), ("X", "x"),
        ("(3,500)", "(3500)"), ("11 5/6", "115/6"), ("1,2", "1.2"), (r"\{1\}", "1"), ("0.5", "0 5"), ("5!", "5"),
        ("1 .5", "1.5"), (r"1\hspace{1em}2", "12"), ("√12", r"\sqrt{1}2"), ("x₁₂", "x₁2"),
        ("0.3...", "0.3"), (r"\sqrt[3]{2}", r"\sqrt{2}"), (r"\text{a b}", r"\text{ab}"), ("2^{10}", "2^{1}0"),
    ],
)  # fmt: skip
def test_what_differs(one, other):
    assert typeset(one) != typeset(other)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (r"11,\! 111,\! 111,\! 100", "11111111100"), ("58,500", "58500"), (r"10{,}080", "10080"), ("10 080", "10080"),
        (r"1\,234\,567", "1234567"), ("1,2345", "1, 2345"), ("1,234,5", "1, 234, 5"), ("5 123/456", "5 123/456"),
        (r"0.\dot6", r"0.\overline{6}"), (r".0\dot{1}2\dot3x", r".0\overline{123}x"), (r"x.(3)", "x.(3)"),
        (r"\dot x", r"\dot{x}"), (r"x\not = 5", r"x\neq5"), (r"x \not\in A", r"x\notin A"), (r"\not<5", r"\not<5"),
        ("90°", r"90^{\circ}"), ("−½", r"-\frac{1}{2}"), (r"\text{(C)}", "(C)"), 
        (r"1 \text{ and } 2", "1, 2"), (r"\left. x \right|", "x|"), (r"\lbrace 1 \rbrace", r"\{1\}"),
        (r"x<1\text{ or }x>2", r"x<1\lor x>2"), (r"\text{1, 2, and 3}", "1, 2, 3"), (r"x=1\text{ or }x>2", "x=1,x>2"),
        (r"1,\,2{,}000", "1, 2000"),
        (r"3\text{ m}", r"3\text{m}"), (r"3\text{x}", "3x"), (r"\text{m}", "m"), (r"{n \choose k}", r"\binom{n}{k}"),
        ("2⅔", r"2\frac{2}{3}"), ("⅞", r"\frac{7}{8}"), ("1⁄2", "1/2"), ("∛8", r"\sqrt[3]{8}"), ("√12x", r"\sqrt{12}x"),
        ("（1，2）", "(1, 2)"), ("50％", "50%"), ("1\u2009000", "1000"), ("1\u202f000", "1000"), ("1\u200b2", "12"),
        (r"1\hspace{1em}2", "1 2"), (r"1\phantom{0}2", "1 2"), (r"1\kern3pt2", "1 2"), (r"x^\prime", "x'"),
        (r"x^{\prime\prime}", "x''"), ("1,2,...", r"1, 2,\ldots"), (r"7\,\mathrm{m\,s^{-1}}", r"7\text{m\,s^-1}"),
        (r"\mbox{ two  words }", r"\text{two words}"), ("", ""), ("}", "}"),
        (r"\begin{pmatrix} 1 \\[4pt] 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"\frac", r"\frac"),
    ],
)  # fmt: skip
def test_forms(text, form):
    assert typeset(text) == form


FACES = [
    r"\mathtt",
    r"\mathcal",
    r"\mathfrak",
    r"\mathbb",
    r"\mathscr",
    r"\boldmath",
    r"\textsl",
    r"\textsc",
    r"\textup",
    r"\tt",
]
FACES += [
    r"\sf",
    r"\sl",
    r"\normalfont",
    r"\bfseries",
    r"\itshape",
    r"\ttfamily",
    r"\footnotesize",
    r"\scriptsize",
    r"\smash",
]
NO_INK = [
    "",
    r"\mathstrut",
    r"\vphantom{|}",
    r"\hspace*{1em}",
    r"\mspace{3mu}",
    r"\kern3pt ",
    r"\mkern-2mu",
    r"\tag*{1}",
    "\u200b",
]


@given(st.sampled_from(["7", "23", "(1,2)", r"\frac{1}{2}"]), st.sampled_from(FACES), st.sampled_from(NO_INK))
def test_fonts_sizes_and_what_has_no_ink_change_no_number(number, face, nothing):
    for text in (
        f"{face}{{{number}}}",
        f"{{{face}{{{number}}}}}",
        f"{nothing}{number}",
        f"{nothing}{face}{{{number}}}",
    ):
        assert typeset(text) == typeset(number)


def test_letters_of_other_alphabets_are_other_letters():
    faces = ["{}", r"\mathcal{{{}}}", r"\mathfrak{{{}}}", r"\mathbb{{{}}}", r"\mathscr{{{}}}"]
    assert len({typeset(face.format("R")) for face in faces}) == len(faces)
    assert typeset(r"\mathbb R") == typeset("ℝ") == r"\mathbb{R}"


RAISED, LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"


@given(st.integers(-120, 120), st.integers(0, 120))
def test_indices_of_unicode(power, index):
    raised = "".join("⁻" if char == "-" else RAISED[int(char)] for char in str(power))
    lowered = "".join(LOWERED[int(char)] for char in str(index))
    assert typeset(f"x{lowered}{raised}+1") == typeset(f"x_{{{index}}}^{{{power}}}+1")
    if power >= 0:
        assert typeset(f"{raised}⁄{lowered}") == typeset(rf"\frac{{{power}}}{{{index}}}")


PIECES = [*"{}[]^_1x .,$()", r"\frac", r"\text{a b}", r"\left", r"\sqrt", "22", r"\,", r"\{", r"\begin", r"\boxed"]


@example(r"^^\boxed1")
@example("x_...")
@example("{^}1")
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_a_form_is_its_own(text):
    form = typeset(text)
    assume(not re.search(r"\d \d{3}", form))  # thousands apart, which come together only as they are written
    assert typeset(form) == form


@given(st.text(max_size=30))
def test_any_text_has_a_form(text):
    assert isinstance(typeset(text), str)


PARTS = [*"{}^(", "{}", "\\frac", "\\text{", "1,234", "1 ", "\\sqrt[", "\x00", "\ud800", "\\left"]


@pytest.mark.parametrize("part", PARTS)
def test_a_thousand_characters_take_no_time(part):
    start = time.perf_counter()
    typeset(part * (1000 // len(part)))
    assert time.perf_counter() - start < 1
