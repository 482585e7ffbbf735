"""Judges of Countdown: what children of the paper's solver and paths of Multiverse tell, against brute force."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.evals.benchmarks.countdown.benchmark import as_sample
from plait.evals.benchmarks.countdown.problems import Problem
from plait.evals.benchmarks.countdown.solver import reachable, solve
from plait.rl.countdown.paper import PaperSearch
from plait.rl.countdown.traces import path
from plait.rl.grpo.judges import Thread, countdown
from plait.rl.grpo.rewards import told
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.methods.apr import compact
from plait.runtime.methods.apr.paper import PaperDialect
from plait.tests.runtime.methods.apr import test_apr

SAMPLE = as_sample("", Problem((3, 5, 7, 2), 62))
DIALECT = PaperDialect()


def child(nums, target, *, beam, seed=0) -> Thread:
    """A search as the solver writes it; a narrow one may miss what there is."""
    search = PaperSearch(target=target, rng=random.Random(seed), child_beam=beam, beam=beam, spawn_chance=0.0)
    (call,) = search.run(nums).main_calls
    prompt = DIALECT.root_prompt(nums, target)
    return Thread(label="0", prompt=prompt, text=call.removeprefix(prompt))


NUMBERS = st.lists(st.integers(1, 20), min_size=1, max_size=3)


@given(NUMBERS, st.integers(2, 60), st.integers(1, 12), st.integers(0, 99))
def test_a_search_in_the_papers_language_is_true_where_brute_force_agrees(nums, target, beam, seed):
    thread = child(nums, target, beam=beam, seed=seed)
    found = "Goal Reached" in thread.text
    is_true = found or target not in reachable(nums)
    # A lone number is no search: the solver does not look whether it is the target.
    assert len(nums) == 1 or countdown(SAMPLE, thread) == float(is_true)


FOUND = child([3, 5, 7], 56, beam=12)
NONE = child([3, 5, 7], 58, beam=12)


@pytest.mark.parametrize(
    ("thread", "verdict"),
    [
        (FOUND, 1.0),
        (NONE, 1.0),
        (Thread(label="0", prompt=FOUND.prompt, text=NONE.text), 0.0),  # denies what there is
        (Thread(label="0", prompt=NONE.prompt, text=FOUND.text), 0.0),  # a path to something else
        (Thread(label="0", prompt=FOUND.prompt, text=FOUND.text.replace("=56", "=57")), 0.0),
        (Thread(label="0", prompt=NONE.prompt, text=NONE.text[:-9]), 0.0),  # cut off, so it tells nothing
        (Thread(label="0", prompt=NONE.prompt, text=""), 0.0),
        (Thread(label="0", prompt="Moving to Node #0", text=NONE.text), None),
        (child([1, 1, 1, 1, 2], 58, beam=1), None),  # more numbers than the problem has
    ],
)
def test_what_a_child_in_the_papers_language_told(thread, verdict):
    assert countdown(SAMPLE, thread) == verdict


@pytest.mark.parametrize(("good", "verdict"), [(test_apr.FOUND, 1.0), (test_apr.FAILED, 0.0)])
async def test_children_of_a_run_are_judged_by_what_they_were_asked_and_wrote(good, verdict):
    """53 and 18 do not make 27, and one child says so; 31 - 4 does, which the other finds, or denies."""
    result, _ = await test_apr.solve(test_apr.model(good=good))
    found = told(as_sample("", Problem((22, 4, 53, 31), 27)), result.trace, CharTokenizer(), countdown)
    assert {branch: one.verdict for branch, one in found.items()} == {"1.0.0": 1.0, "1.1.0": verdict}


@given(st.lists(st.integers(1, 99), min_size=4, max_size=4), st.integers(10, 100), st.integers(1, 6))
def test_a_path_as_the_shipped_model_learns_it_is_true_and_its_contrary_is_not(nums, target, index):
    """A path tries all results of its row, so what it tells is what brute force finds."""
    text, end, steps = path(nums, target, index)
    a, b, rest = compact.pairs(nums)[index - 1]
    assert bool(steps) == any(solve((r, *rest), target, compact.CAP) for r in compact.results(a, b) if r is not None)
    prompt = f" {compact.prompt(nums, target, 'mv')}"
    other = compact.NONE if steps else f"{compact.ANSWER} {index}: {a} + {b} = {a + b}"
    for said, verdict in ((end, 1.0), (other, 0.0), (compact.ANSWER, 0.0)):
        thread = Thread(label=str(index), prompt=prompt, text=f"<Path> {index}: {text} {said} </Path>")
        assert countdown(SAMPLE, thread) == verdict
