"""Right answers in many forms, and answers meant to break the grader."""

from __future__ import annotations

import json
import re
import sys
import time
from fractions import Fraction

import pytest

from plait.evals.benchmarks.mathematics.grading import MathGrader, find_answer
from plait.runtime.equality.numbers import MAX_CHARS, read
from plait.runtime.equality.process import MathProcess, MathUnavailable
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
        (r"\boxed{ \fbox{\boxed{5}} }", "5"),
        (r"\boxed{x = \boxed{5}}", "5"),
        (r"\boxed{\text{So it is } \boxed{-5}.}", "-5"),
        (r"\boxed{\boxed{4}+1}", r"\boxed{4}+1"),
        (r"\boxed{\frac{\boxed{4}}{y}}", r"\frac{\boxed{4}}{y}"),
        (r"\boxed{\boxed{A}\text{ or }\boxed{B}}", "A, B"),
        (r"\fbox{6}, then \fbox{7}", "7"),
        (r"\boxed{7", None),
        (r"\boxed{}", None),
        (r"\boxed{7} \boxed{ }", None),
        (r"\boxed{5} $\boxed{5}$", "5"),
        (r"\boxed {73}", "73"),
        (r"\boxed{1}, no: \boxed\frac12.", r"\frac12"),
        (r"\boxed 2, no: \boxed{3}", "3"),
        ("\\boxed\n{73}", "73"),
        (r"\\boxed{\\frac{1}{2}}", r"\\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right.}", r"\left\{1, 2\right."),
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
        ("73", r"\color{red}73"),
        ("73", r"\textcolor{red}{\mathbf{73}}"),
        ("71/6", "11 5/6"),
        (r"\frac{71}{6}", r"11\ \frac56"),
        ("137 \\frac{1}{2}", "137.5"),
        ("52_8", "52_{8}"),
        ("52_8", r"52_{\text{eight}}"),
        ("52_8", "52"),
        (r"10,\!080", "10 080"),
        ("100, 200", "200,100"),
        ("0.15", r"15\%"),
        (r"15\%", "15"),
        (r"\$32,\!348", "32348"),
        ("864 \\mbox{ inches}^2", "864 square inches"),
        (r"\text{(C)}", r"\textbf{C}"),
        (r"\text{even}", "Even"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
        (r"x \in [-2,7]", r"-2 \leq x \leq 7"),
        (r"\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ 2.0 \end{bmatrix}"),
        ("5x - 7y + 4 = 0", "-10x+14y=8"),
        ("y = 2x + 3", "2x+3"),
        ("1024", "2^10"),
        ("8", "2**3"),
        ("2i", "(1+i)^2"),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
        (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
        (r"2\pi", "2pi"),
        (r"\frac{3}{2}", r"\frac{6}{4} = \frac32"),
        ("1/2004!", r"\frac{1}{2004!}"),
        ("1, 0.5", r"\frac12, 1"),
        ("1.5x^{0.5}", r"\frac32\sqrt x"),
        ("x", r"\frac{2x}{2}"),
        ("73", r"\color[rgb]{1,0,0}73"),
        ("73", r"\fcolorbox{red}{white}{$73$}"),
        ("73", r"\underline{\mathbf{73}}"),
        ("73", r"\text{The answer is }73"),
        ("73", r"x \approx 73"),
        ("73", "73\\\\"),
        ("90", r"90^{\text{o}}"),
        ("18", r"18^{\text{th}}"),
        ("50", r"50\text{¢}"),
        ("10", r"{5\choose 2}"),
        (r"\emptyset", r"\varnothing"),
        (r"\frac13", r"0.\bar3"),
        (r"\text{June 20}", "June 20"),
        (r"\text{(B)}", r"\textbf{(B) }5"),
        (r"2\pi\text{ cm}", r"2\pi"),
        ("1,2,3", r"3, 2, \text{ and } 1"),
        ("(-1,2),(1,2)", r"(\pm1,2)"),
        ("5", r"\boxed{4}+1"),
        ("(1000, 2000)", r"(1{,}000,\,2{,}000)"),
        (r"\text{red, blue}", r"\text{red and blue}"),
        ("5", "5\\ "),
        ("f'(x)", r"f^\prime(x)"),
        ("2(x+1)", "f'(x) = 2x+2"),
        (r"f'(x)=\sqrt{2}x", r"f'(x)=x\sqrt2"),
        (r"\frac{x-3}{2}", r"f^{-1}(x)=\frac{x}{2}-\frac{3}{2}"),
        ("A^T B", r"A^{\mathsf{T}}B"),
        ("3:1:2", r"3\colon 1\colon 2"),
        ("1:2", "2:4"),
        ("7", "=7"),
        ("(1/3, 2)", r"(0.\dot{3}, 2)"),
        (r"\frac{\pi}{3}", r"0.\overline{3}\pi"),
        (r"\begin{pmatrix}5/3\\0\end{pmatrix}", r"\begin{pmatrix}1.(6)\\0\end{pmatrix}"),
        (r"A\cup B\cup C", r"C\cup A\cup B"),
        (r"A\cap B", r"B\cap A"),
        ("0<x<1", "1>x>0"),
        (r"-1\le x\le 1", r"1\ge x\ge -1"),
        ("a<b<c", "c>b>a"),
        (r"x>5", r"(5,\infty)"),
        ("1500", "1.5E3"),
        ("1000", "1e3"),
        ("6.02e23", r"6.02\times 10^{23}"),
        ("1000", "USD 1000"),
        ("x+1", "Answer: $1+x$"),
        (r"3\times 10^{-5}", "3E-5"),
        ("10^6", "1E6"),
        ("(1000,2)", "(1E3,2)"),
        (r"y=\frac32\cdot 2^x", "y=1.5(2)^x"),
        ("5", r"5\text{ dogs and cats}"),
        ("5", r"5.\text{ cm}"),
        ("1/3", r"0.(3)\text{ m}"),
        ("1/3", r"0.(3)^\circ"),
        ("0.001", "10^-3"),
        (r"\frac12", "2**-1"),
        ("x^{-2}", "x^-2"),
        ("e^{-x}", "e^-x"),
        ("0.0003", r"3\times 10^-4"),
        ("1/1024", "2^-10"),
        ("0.1", "100^-0.5"),
        ("(1,2)", "(1.,2.)"),
        (r"x\ne 5", r"x\not= 5"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1.\\2.\end{pmatrix}"),
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
        ("5", ".5"),
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        ("12", "1 2"),
        ("3", "1 2"),
        ("x^{2}y", "x^{2y}"),
        ("e^{x+1}", "e^{x}+1"),
        ("1/2004!", "1/2006!"),
        ("1", "e^{1/2004!}"),
        ("x+1/2004!", "x+1/2006!"),
        ("1/3", "0.333333"),
        ("1", "0.9999999999"),
        (r"\cos(\pi/7)", "0.9009688679"),
        ("3R^2", "3r^2"),
        ("52_8", "52_9"),
        ("52", "52_8"),
        ("x=5", "y=5"),
        ("2k", "2"),
        ("10", "0.1"),
        (r"10\%", r"0.1\%"),
        (r"\text{(C)}", "D"),
        (r"\text{east}", "seat"),
        ("x^2+1=0", "x^2+2=0"),
        ("(2,12) \\cup (12,102)", "(2,102)"),
        ("p - q", "q-p"),
        (r"\text{(B)}", "(B), (C)"),
        ("e", "E"),
        (r"p \lor q", "p, q"),
        (r"(-\infty,-1)\cup(1,\infty)", r"x<-1\text{ and }x>1"),
        ("3m", "3"),
        ("f'(x)", "f(x)"),
        ("2x'", "2x"),
        ("5'6''", "56"),
        ("A^T B", "AB"),
        ("3:1:2", "3:2:1"),
        ("3+4i", "3+4I"),
        ("1..2", "1.2"),
        ("5!!", "120!"),
        ("1,2", r"1,2,\dots"),
        (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
        (r"f'(x)=\sqrt2x", r"f(x)=\sqrt{2}x"),
        (r"\ln(pot)", r"\lnot p"),
        ("(1/3, 2)", r"(0.\overline{4}, 2)"),
        (r"A\cup B", r"A\cap B"),
        (r"A\setminus B", r"B\setminus A"),
        (r"A\cup B\cap C", r"C\cup B\cap A"),
        ("0<x<1", r"1>x\ge 0"),
        ("a<b<c", "a>b>c"),
        ("2E", "E+3E3"),
        ("2^{-1}0", "2^-10"),
        ("e^{-xy}", "e^-x y"),
        ("10-3", "10^-3"),
        ("0", r"0.\dot{6}"),
        (r"0.\dot{3}", r"0.\dot{4}"),
        ("0", "0.x"),
        ("0", "0.abc"),
        ("0", r"0.\hat{3}"),
        ("0.6", "0.6\u0307"),
        ("0.6", "0.1(6)"),
        ("7.5", "2.5(3)"),
        (r"\frac{64}{225}", "0.5(3)^2"),
        ("3", "0.(3)"),
        ("3", r"3\text{ and a half}"),
        ("5", r"\not= 5"),
        ("5", r"\not\approx 5"),
        ("x<5", r"x\not<5"),
        ("[0,1]", r"x\not\in[0,1]"),
        ("5", r"5\text{ thousandths}"),
        ("3x", r"3\text{ and a half}x"),
        ("7", r"\text{minus }7"),
        (r"2\pi", r"2\pi\text{ out of ten}"),
    ],
)
def test_wrong_answers(grader, gold, answer):
    verdict = grader.grade(gold, None, rf"\boxed{{{answer}}}")
    assert not verdict.correct and verdict.reason != "correct"


EMPTY = [r"\boxed{5} or rather \boxed{}", r"\boxed{5}, \boxed{ }", "\\boxed {\n}", r"\boxed{}"]


@pytest.mark.parametrize("text", EMPTY)
def test_the_last_box_counts_also_if_it_is_empty(grader, text):
    verdict = grader.grade("5", None, text)
    assert (verdict.correct, verdict.extracted, verdict.reason) == (False, None, "the last box is empty")


def test_equal_wrong_answers_look_equal(grader):
    """What cons@k counts."""
    for same in (
        [r"\frac12", "0.5", "2/4", r"50\%"],
        [r"\sqrt8", r"2\sqrt{2}", r"\frac{4}{\sqrt2}"],
        [r"\sqrt9", "3", "3.0"],
        ["(x+1)^2", "x^2+2x+1"],
        ["1,2", "2, 1"],
    ):
        verdicts = [grader.grade("7", None, rf"\boxed{{{answer}}}") for answer in same]
        assert not any(verdict.correct for verdict in verdicts)
        assert len({verdict.extracted for verdict in verdicts}) == 1
    for right in ("7.0", r"\frac{14}2", r"\sqrt{49}"):
        assert grader.grade("7", None, rf"\boxed{{{right}}}").extracted == "7"


HOSTILE = {
    "exponents": r"\boxed{9^{9^{9^{9}}}}",
    "plain exponents": "the answer is 9**9**9**9",
    "factorials": r"\boxed{((10!)!)!}",
    "a long sum": r"\boxed{\sum_{n=1}^{10^{12}} \frac{1}{n^n}}",
    "a megabyte in a box": r"\boxed{" + "1" * 1_000_000 + "}",
    "a megabyte without one": "1" * 1_000_000,
    "a megabyte of boxes": r"\boxed{" * 140_000,
    "a megabyte of boxes in a box": r"\boxed{" + r"\boxed{}x" * 110_000 + "5}",
    "a megabyte of braces": r"\boxed{1}" + "{" * 1_000_000,
    "unbalanced": r"\boxed{25",
    "nested": r"\boxed{" + r"\frac{1}{" * 90 + "2" + "}" * 90 + "}",
    "a tower of brackets": r"\boxed{" + "(" * 400 + "25" + ")" * 400 + "}",
    "backtracking": "answer" + " 1,1" * 240,
    "code": r"\boxed{__import__('os').abort()}",
    "more code": "the answer is (1).__class__.__base__.__subclasses__()",
    "control characters": "\\boxed{\x00\x1b[2J\ud800}",
    "a nest of fractions": r"\boxed{" + r"\frac" * 190 + "}",
    "huge numbers": r"\boxed{10^{10^6} - 10^{10^{6}} + 25.5}",
    "a long fraction": r"\boxed{" + "1" * 900 + "/7}",
    "thousands": r"\boxed{" + "1,234" * 190 + "}",
    "a NUL": "\\boxed{25\x00}",
    "line ends": "\\boxed{2\n}\n{\r\u2028}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_within_the_limit(grader, name):
    grader.grade("2", None, r"\boxed{3}")  # The process is there.
    start = time.perf_counter()
    verdict = grader.grade("26", None, HOSTILE[name])
    assert not verdict.correct
    assert time.perf_counter() - start < LIMIT + 20  # a new process has to start, on a busy machine too
    assert verdict.extracted is None or len(verdict.extracted) <= MAX_CHARS
    assert grader.grade("1/2", None, r"\boxed{0.5}").correct


def test_the_process_is_replaced_and_ended():
    grader = MathGrader(LIMIT)
    grader.grade("2", None, r"\boxed{\sqrt4}")
    first = grader._process._process
    verdict = grader.grade("2", None, HOSTILE["exponents"])
    assert verdict.reason == "not judged within 2 s"
    assert first.poll() is not None
    assert grader.grade("2", None, r"\boxed{\sqrt4}").correct
    second = grader._process._process
    assert second is not first
    grader.close()
    grader.close()
    assert second.poll() is not None


def test_waiting_for_the_process_takes_no_time_of_a_judgement(monkeypatch):
    start = MathProcess._start

    def late(process):
        time.sleep(LIMIT)
        start(process)

    monkeypatch.setattr(MathProcess, "_start", late)
    grader = MathGrader(LIMIT)
    assert grader.grade(r"\{100,200\}", "100,200", "").correct  # the second way to read it
    grader.close()


def test_a_process_that_dies_is_replaced(grader):
    grader.grade("2", None, r"\boxed{\sqrt4}")
    grader._process._process.kill()
    grader._process._process.wait()
    assert not grader.grade("2", None, r"\boxed{\sqrt4}").correct
    assert grader.grade("2", None, r"\boxed{\sqrt4}").correct


def test_without_math_verify_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("plait.runtime.equality.process.__package__", "plait.runtime.nowhere")
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MathUnavailable, match=r"pip install 'plait\[evals\]'"):
        MathGrader().grade("2", None, r"\boxed{\sqrt4}")


def spellings(gold):
    """A MATH-500 answer as models write it."""
    yield rf"\boxed{{{gold}}}"
    yield rf"Thus $x=1$ and the answer is $\boxed{{ {gold} }}$."
    yield rf"\boxed{{0}} was wrong; \[\boxed{{{re.sub('[dt]?frac', 'dfrac', gold)}}}\]"
    yield rf"\boxed {{\color{{red}}{gold}.}}"
    yield rf"\boxed{{{gold.replace('text', 'mathrm') if 'text' in gold else gold.replace(' ', '')}}}"
    yield rf"\boxed{{{gold.replace('(', chr(92) + 'left (').replace('pmatrix', 'bmatrix')}}}"


def test_every_published_answer_is_right_and_the_next_one_is_not(grader):
    math500 = rows("math500.jsonl")
    for row, other in zip(math500[::2], [*math500[2::2], math500[0]], strict=True):
        gold = row["answer"]
        for text in spellings(gold):
            assert grader.grade(gold, None, text).correct, (row["id"], text)
        if read(other["answer"]).form != read(gold).form:
            assert not grader.grade(gold, None, rf"\boxed{{{other['answer']}}}").correct, (gold, other["answer"])


@pytest.mark.parametrize("name", ["aime24.jsonl", "aime25.jsonl"])
def test_aime_answers(grader, name):
    for row in rows(name):
        gold = str(row["answer"])
        assert grader.grade(gold, None, rf"\boxed{{{row['answer']:03d}}}").correct
        assert grader.grade(gold, None, rf"it is ${Fraction(row['answer']) * 2}/2$").correct
        assert not grader.grade(gold, None, rf"\boxed{{{row['answer'] + 1}}}").correct
