import random
import re

import pytest

from plait.evals.benchmarks.countdown.problems import draw
from plait.evals.benchmarks.countdown.verify import verify
from plait.rl.countdown.paper import PaperSearch, Thread, draw_search
from plait.rl.countdown.serial import SerialSearch, conditioned
from plait.runtime.methods.apr.dialect import Joined
from plait.runtime.methods.apr.paper import PaperDialect
from plait.runtime.methods.search_path import final_path, operations

DIALECT = PaperDialect()


def search(seed, **options):
    rng = random.Random(seed)
    problem = draw(rng, 4)
    return problem, PaperSearch(target=problem.target, rng=rng, **options).run(problem.nums)


def replay(prompt: str, thread: Thread) -> str:
    """The thread's last context, built by the dialect from what the thread and its children wrote."""
    call = thread.main_calls[0]
    assert call.startswith(prompt + "\n")
    for children, after in zip(thread.rounds, thread.main_calls[1:], strict=True):
        spawn = DIALECT.spawn(call, 0)
        assert spawn is not None
        assert len(spawn.children) == len(children)
        texts = [replay(child.prompt or "", written) for child, written in zip(spawn.children, children, strict=True)]
        joined = [Joined(child=c, result=DIALECT.result(text)) for c, text in zip(spawn.children, texts, strict=True)]
        assert all(entry.result is None or DIALECT.verify(entry.child, entry.result) for entry in joined)
        context = call[: spawn.keep] + DIALECT.join(joined, 0)
        assert after.startswith(context), "the dialect's join section differs from the written one"
        call = after
    assert DIALECT.spawn(call, 0) is None
    return call


@pytest.mark.parametrize("seed", range(12))
def test_the_dialect_runs_what_the_solver_wrote(seed):
    problem, thread = search(seed, beam=1 + seed % 5, child_beam=3 + seed % 6)
    final = replay(DIALECT.root_prompt(problem.nums, problem.target), thread)
    path = DIALECT.result(final)
    assert (path is None) == final.endswith("No solution found.\n")
    if path is not None:
        steps = re.findall(r"Exploring Operation: (\S+), ", path)
        assert verify(problem.nums, problem.target, ", ".join(steps))


def test_wide_searches_mostly_succeed_and_spawn():
    threads = [search(seed, beam=10, child_beam=15)[1] for seed in range(100, 115)]
    assert sum("Goal Reached" in thread.main_calls[-1] for thread in threads) >= 11
    assert sum(bool(thread.rounds) for thread in threads) >= 11


def test_traces_are_seeded():
    assert search(3)[1] == search(3)[1]


def test_without_spawning_there_is_one_call():
    _, thread = search(4, spawn_chance=0.0)
    assert len(thread.main_calls) == 1
    assert thread.rounds == []


def test_every_call_and_every_child_is_a_sequence_and_only_the_root_is_told_its_budget():
    _, thread = search(1, beam=3, child_beam=3)
    assert len(thread.rounds) == 1
    children = [child.main_calls[0] for child in thread.rounds[0]]
    assert list(thread.sequences()) == [*thread.main_calls, *children]
    told = [f"Sub Call Budget: {len(children)} {call}" for call in thread.main_calls]
    assert list(thread.sequences(conditioned=True)) == [*told, *children]
    assert next(search(4, spawn_chance=0.0)[1].sequences(conditioned=True)).startswith("Sub Call Budget: 0 Moving")


def test_published_parameters():
    drawn = [draw_search(24, random.Random(seed)) for seed in range(200)]
    assert {d.beam for d in drawn} == set(range(1, 11)) and max(d.child_beam for d in drawn) == 15
    assert all(d.beam <= d.child_beam for d in drawn)


@pytest.mark.parametrize("seed", range(10))
def test_a_search_in_one_line_solves_what_it_says(seed):
    rng = random.Random(seed)
    problem = draw(rng, 4)
    text = SerialSearch(target=problem.target, rng=rng, beam=5).run(problem.nums)
    assert text.startswith(DIALECT.serial_prompt(problem.nums, problem.target) + "\n")
    path = final_path(text)
    assert (path is None) == ("equal: Goal Reached" not in text)
    assert path is None or verify(problem.nums, problem.target, ", ".join(operations(path)))
    assert text.count("Start Sub Search") == text.count("Exit Sub Search")
    assert conditioned(text, 513).startswith(DIALECT.serial_prompt(problem.nums, problem.target, 1024) + "\n")
    assert conditioned(text, 9000).startswith("Token Budget: 4096 ")
