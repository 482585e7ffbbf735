import json
import random

import pytest

from plait.evals.benchmarks.countdown.benchmark import Countdown
from plait.evals.benchmarks.countdown.problems import TARGETS, Problem, draw, is_validation, load, training, validation
from plait.evals.benchmarks.countdown.solver import is_solvable, reachable, solutions, solve
from plait.evals.benchmarks.countdown.verify import verify
from plait.runtime.errors import InvalidInput
from plait.tests.data import SHARED


def shared_rows(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip("shared evaluation data is not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("size", [3, 4, 5])
def test_drawn_problems_are_solvable_and_in_range(size):
    rng = random.Random(size)
    for _ in range(40):
        problem = draw(rng, size)
        assert len(problem.nums) == size
        assert all(1 <= n <= 99 for n in problem.nums)
        assert TARGETS[0] <= problem.target <= TARGETS[1]
        assert solve(problem.nums, problem.target) is not None


def test_solvable_means_that_the_solver_finds_something():
    rng = random.Random(1)
    seen = set()
    for size in (1, 2, 3, 3, 3, 4):
        for _ in range(25):
            nums, target = [rng.randint(1, 12) for _ in range(size)], rng.randint(1, 60)
            seen.add(is_solvable(nums, target))
            assert is_solvable(nums, target) == (solve(nums, target) is not None)
    assert seen == {True, False}


def test_validation_problems_are_different_reproducible_and_in_their_split():
    problems = validation(4, count=100)
    assert problems == validation(4, count=100)
    assert problems != validation(4, count=100, seed=1)
    assert len({problem.key for problem in problems}) == 100
    assert all(is_validation(problem.nums, problem.target) for problem in problems)


@pytest.mark.parametrize("drawn", [validation, training])
def test_asking_for_more_problems_than_there_are_is_refused(drawn, monkeypatch):
    for name, value in {"TARGETS": (10, 12), "LARGEST": 8, "_PATIENCE": 50}.items():
        monkeypatch.setattr(f"plait.evals.benchmarks.countdown.problems.{name}", value)
    with pytest.raises(InvalidInput, match=r"1,000 problems of 2 numbers: hardly more than \d+ are different"):
        drawn(2, 1000)


def test_training_problems_are_different_and_none_of_them_is_held_out():
    problems = training(4, 40)
    assert len({p.key for p in problems}) == 40 and training(4, 20) == problems[:20] != training(4, 20, seed=1)
    assert not any(is_validation(p.nums, p.target) for p in problems)
    samples = Countdown(split="train", count=3).load()
    assert [sample.data for sample in samples] == problems[:3] and samples[0].id == "train-4-0-0"


def test_split_does_not_depend_on_the_order_of_the_numbers():
    rng = random.Random(0)
    for _ in range(200):
        problem = draw(rng, 4)
        turned = tuple(reversed(problem.nums))
        assert is_validation(turned, problem.target) == is_validation(problem.nums, problem.target)
        assert Problem(turned, problem.target).key == problem.key


def test_load_reads_numbers_and_target(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "a", "nums": [3, 5, 9], "target": 24}\n\n')
    assert load(path) == [Problem((3, 5, 9), 24)]


@pytest.mark.parametrize("name", ["countdown_4num.jsonl", "countdown_3num.jsonl"])
def test_solver_and_verifier_agree_with_published_solutions(name):
    for row in shared_rows(name)[:300]:
        assert verify(row["nums"], row["target"], ", ".join(row["solution"]))
    for row in shared_rows(name)[:40]:
        steps = solve(row["nums"], row["target"])
        assert steps is not None
        assert verify(row["nums"], row["target"], ", ".join(steps))


def test_every_solution_verifies_and_nothing_else_is_reachable():
    rng = random.Random(1)
    for _ in range(15):
        problem = draw(rng, 3)
        found = list(solutions(problem.nums, problem.target))
        assert found
        assert all(verify(problem.nums, problem.target, ", ".join(steps)) for steps in found)
        values = reachable(problem.nums)
        assert problem.target in values
        for target in range(10, 30):
            assert (target in values) == (solve(problem.nums, target) is not None)


def test_the_cap_limits_intermediate_results():
    assert solve([40, 40, 16], 100) == ("40*40=1600", "1600/16=100")
    assert solve([40, 40, 16], 100, cap=999) is None
    assert max(reachable([40, 40, 2], cap=999)) <= 999 < max(reachable([40, 40, 2]))
