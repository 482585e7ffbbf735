"""`math`: classes of answers are an equivalence, exact, and the same in any order."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from contextvars import copy_context

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait.runtime.equality import mathematics
from plait.runtime.equality.mathematics import classes
from plait.runtime.equality.process import ABANDONED, Allowance, MathProcess, MathUnavailable
from plait.tests.runtime.equality.written import fractions, numbers, surds, wrapped

pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def process():
    process = MathProcess()
    yield process
    process.close()


def partition(answers, process):
    """Place of the first equal answer, for each."""
    labels = classes(answers, process)
    return [labels.index(label) for label in labels]


@st.composite
def answers(draw):
    """(value, text); numbers among a + b sqrt(c) may equal none of these."""
    if draw(st.booleans()):
        value = draw(fractions(3, 2))
        return value, draw(wrapped(draw(numbers(value))))
    a, b, c = draw(st.tuples(st.integers(0, 2), st.sampled_from([-2, -1, 1, 2]), st.sampled_from([2, 3])))
    return (a, b, c), draw(surds(a, b, c))


@settings(max_examples=40, deadline=None)
@given(st.lists(answers(), max_size=6))
def test_classes_are_those_of_the_values(process, drawn):
    values, texts = [value for value, _ in drawn], [text for _, text in drawn]
    assert partition(texts, process) == [values.index(value) for value in values], texts


@pytest.mark.parametrize(
    ("answers", "places"),
    [
        (["(1,2)", "1,2", "2,1", "(2,1)", r"\{2,1\}", "[1,2]"], [0, 1, 1, 3, 1, 5]),
        (["x=5", "5", "y=5", r"5\%", "0.05", r"5^\circ", "5 cm"], [0, 0, 0, 3, 3, 0, 0]),
        (["(x+1)^2", "x^2+2x+1", "x^2+2x+2", "1+x(x+2)"], [0, 0, 2, 0]),
        (["A", "(A)", r"\text{A}", "B", r"\text{Evelyn}", r"\text{evelyn}"], [0, 0, 0, 3, 4, 4]),
        (["Carla", r"\text{Carla}", "Debra", "carla", "ab", "ba"], [0, 0, 2, 0, 4, 4]),
        (["ab", "ba", r"\text{ab}"], [0, 1, 0]),
        (["52_8", "52_{8}", "52", "42", "52_9", r"52_{\text{eight}}"], [0, 0, 2, 3, 4, 0]),
        (["1/2004!", "1/2006!", r"\frac{1}{2004!}", "0"], [0, 1, 0, 3]),
        (["1", "e^{1/2004!}", "0.999999999999"], [0, 1, 2]),
        ([r"\cos^2 x", r"1-\sin^2 x", "R^2", "r^2"], [0, 0, 2, 3]),
        ([r"1\pm\sqrt2", r"1-\sqrt2, 1+\sqrt{2}", r"\sqrt2"], [0, 0, 2]),
        (["x \\in [0,1]", "[0,1]", "[0,1)"], [0, 0, 2]),
        (["2i", "(1+i)^2", "1+i", "i+1"], [0, 0, 2, 2]),
        (["x^2+1=0", "x^2+2=0"], [0, 1]),
        (["2I+A", "A+2I", "2i+A", "A+i+i", "I_1", "I_2"], [0, 0, 2, 2, 4, 5]),
        (["1..2", "1.2", "0.333...", r"0.333\ldots", "0.333", "5e1", "1e5"], [0, 1, 2, 2, 4, 5, 6]),
        (["1:2", "2:4", "1/2", "1:2, 3:4"], [0, 0, 0, 3]),
        (
            ["y'=2x", r"\frac{dy}{dx} = 2x", "2x", "f^{-1}(x)=x+x", r"\frac{dy}{dx}", r"\frac{dx}{dy}"],
            [0, 0, 0, 0, 4, 5],
        ),
        (["x \\in A", "x=A", "A"], [0, 1, 1]),
        ([r"A\cup B", r"B\cup A", r"A\cap B", r"B \cap A", r"A\setminus B"], [0, 0, 2, 2, 4]),
        (["0<x<1", "1>x>0", "0<x<2", "0>x>1"], [0, 0, 2, 3]),
        (["10^-3", "0.001", "10^{-3}", "10-3"], [0, 0, 0, 3]),
        ([r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1&2\end{bmatrix}^\top"], [0, 0]),
        ([r"\begin{pmatrix}1/2\\0\end{pmatrix}", r"\begin{bmatrix} \frac12 \\ 0 \end{bmatrix}", "1/2"], [0, 0, 2]),
        (["9^{9^{9^9}}", "1", "9^{9^{9^{9}}}", "}", "}", "\x00", "\ud800", "\ud800"], [0, 1, 0, 3, 3, 5, 6, 6]),
    ],
)
def test_partitions(process, answers, places):
    assert partition(answers, process) == places
    back = partition(answers[::-1], process)
    last = len(answers) - 1
    assert {frozenset(last - i for i, p in enumerate(back) if p == q) for q in back} == {
        frozenset(i for i, p in enumerate(places) if p == q) for q in places
    }


MARKS = [
    "",
    "'",
    "''",
    r"^{\prime\prime\prime}",
    "^T",
    r"^{\ast}",
    "!",
    "!!",
    "^{(2)}",
    "^{2}",
    "_{1}",
    "_{2}",
    r"\ldots",
]
LETTERS = ["A", "x", "I", "i", "f(x)", r"\mathcal{F}", r"\mathfrak{F}", r"\mathbb{F}"]
marked = st.tuples(st.sampled_from(LETTERS), st.sampled_from(MARKS))


def in_lower_case(pair):
    """A letter by itself is a word, whose case says nothing."""
    return pair[0].lower(), pair[1]


@settings(max_examples=40, deadline=None)
@example(pairs=[("I", ""), ("i", "")], form="2{}")
@example(pairs=[("f(x)", "^{2}"), ("f(x)", "^{(2)}")], form="{}")
@given(
    pairs=st.lists(marked, min_size=2, max_size=4, unique_by=in_lower_case),
    form=st.sampled_from(["{}", "2{}", "{}+1", "{}B"]),
)
def test_a_letter_with_another_mark_is_another_symbol(process, pairs, form):
    answers = [form.format(letter + mark) for letter, mark in pairs]
    assert partition(answers, process) == list(range(len(answers)))
    assert partition([answer.replace("'", r"^{\prime}") + " " for answer in answers] + answers, process) == [
        *range(len(answers)),
        *range(len(answers)),
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=3, max_size=4), st.data())
def test_ratios_of_several_numbers_have_an_order(process, parts, data):
    other = data.draw(st.permutations(parts))
    ratios = [":".join(map(str, parts)), r"\colon ".join(map(str, other))]
    assert (partition(ratios, process) == [0, 0]) == (parts == other)


def test_numbers_words_and_equal_answers_start_no_process(monkeypatch):
    monkeypatch.setattr(MathProcess, "_start", lambda self: pytest.fail("started"))
    classes([r"\frac12", "0.5", "3", r"\text{east}", "52_8", "A", "B"])
    classes([r"\sqrt{2}", r"\sqrt 2"])


def test_comparisons_end(process, monkeypatch):
    monkeypatch.setattr(mathematics, "VOTE_SECONDS", 1.0)
    start = time.perf_counter()
    hostile = [rf"{k}^{{{k}^{{{k}^{k}}}}}" for k in range(5, 10)]
    assert partition(["7", *hostile, "7.0"], process) == [0, 1, 2, 3, 4, 5, 0]
    assert time.perf_counter() - start < 10
    assert partition(["a" * 1_000_000, "1", "a" * 1_000_000], process) == [0, 1, 0]


def test_waiting_for_the_process_takes_no_time_of_a_vote(monkeypatch):
    start = MathProcess._start

    def late(process):
        time.sleep(mathematics.VOTE_SECONDS)
        start(process)

    monkeypatch.setattr(mathematics, "VOTE_SECONDS", 2.0)
    monkeypatch.setattr(MathProcess, "_start", late)
    process = MathProcess()
    assert partition(["x^2+2x+1", "(x+1)^2", "x^3"], process) == [0, 0, 2]
    process.close()


def test_a_vote_that_takes_too_long_again_and_again_is_over(monkeypatch):
    starts = []
    start = MathProcess._start
    monkeypatch.setattr(mathematics, "SECONDS", 0.2)
    monkeypatch.setattr(MathProcess, "_start", lambda process: starts.append(start(process)))
    process = MathProcess()
    hostile = [rf"9^{{9^{{9^{{9^{k}}}}}}}+x" for k in range(8)]
    assert partition([*hostile, "7", "7.0"], process) == [*range(9), 8]
    assert len(starts) == 3
    process.close()


def test_a_request_that_nobody_waits_for_is_not_made(monkeypatch):
    monkeypatch.setattr(MathProcess, "_start", lambda self: pytest.fail("started"))
    abandoned = threading.Event()
    abandoned.set()
    context = copy_context()
    context.run(ABANDONED.set, abandoned)
    assert context.run(MathProcess().ask, {"read": "x"}, 60) is None


@pytest.mark.parametrize("seconds", [1e9, math.inf])
def test_any_limit_is_taken(process, seconds):
    assert process.ask({"read": "x"}, seconds) is not None


def test_requests_that_share_their_seconds(process, monkeypatch):
    monkeypatch.setattr("plait.runtime.equality.process.PATIENCE", 200.0)  # It is the processor's time that ends it.
    assert process.ask({"read": "x"}, 60) is not None
    running = process._process
    allowance = Allowance(process, 60)
    reply = allowance.ask({"read": "x+1"})
    assert reply is not None and allowance.seconds == 60 - reply["seconds"] < 60
    allowance.seconds = 0.0
    assert allowance.ask({"read": "x"}) is None
    assert process._process is running and running.poll() is None
    allowance.seconds = 1.0
    assert allowance.ask({"read": "9^{9^{9^9}}"}, 0.5) is None and allowance.seconds == 0.5
    assert process._process is None and running.poll() == -signal.SIGPROF


def test_a_process_that_computes_nothing_is_waited_for_in_vain(process, monkeypatch):
    assert process.ask({"read": "x"}, 60) is not None
    monkeypatch.setattr("plait.runtime.equality.process.PATIENCE", 0.1)
    os.kill(process._process.pid, signal.SIGSTOP)
    assert process.ask({"read": "x+2"}, 1.0) is None and process._process is None


@pytest.mark.parametrize("is_started", [True, False])
def test_a_request_that_is_interrupted_leaves_no_reply_to_the_next(is_started, monkeypatch):
    def interrupt(*given):
        raise KeyboardInterrupt

    process = MathProcess()
    if is_started:
        assert process.ask({"read": "x"}, 60) is not None
    with monkeypatch.context() as patch:
        patch.setattr("plait.runtime.equality.process.select.select", interrupt)
        with pytest.raises(KeyboardInterrupt):
            process.ask({"gold": "x+1", "answer": "1+x"}, 60)
    assert partition([r"\sqrt{2}", r"\sqrt{3}", r"2^{\frac12}"], process) == [0, 1, 0]
    process.close()


def test_nothing_in_the_working_folder_is_run(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('this is run')")
    monkeypatch.chdir(tmp_path)
    process = MathProcess()
    assert partition(["x+1", "1+x"], process) == [0, 0]
    process.close()


def test_a_process_that_does_not_start_says_why(monkeypatch):
    monkeypatch.setattr("plait.runtime.equality.process.__package__", "plait.runtime.nowhere")
    with pytest.raises(MathUnavailable, match=r"does not start: .*No module named 'plait\.runtime\.nowhere'\)$"):
        classes([r"\sqrt{2}", "x"], MathProcess())


def test_a_process_that_the_system_does_not_start_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MathUnavailable, match=r"does not start: .*'/nowhere/python'$"):
        classes([r"\sqrt{2}", "x"], MathProcess())


def test_a_process_that_does_not_start_says_what_to_install(monkeypatch):
    monkeypatch.setattr("plait.runtime.equality.process.__package__", "plait.runtime.nowhere")
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MathUnavailable, match=r"pip install 'plait\[evals\]'"):
        classes([r"\sqrt{2}", "x"], MathProcess())
