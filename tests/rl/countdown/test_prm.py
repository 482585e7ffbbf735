"""The documents of the reward model: labels against brute force, and a little training."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.evals.benchmarks.countdown.problems import is_validation
from plait.evals.benchmarks.countdown.solver import reachable
from plait.rl.countdown import train_prm
from plait.rl.countdown.model import ModelConfig
from plait.rl.countdown.prm import BAD, GOOD, Samples, can_reach, draw_steps, foreign, labelled, moves
from plait.rl.countdown.train import TrainConfig, Trainer
from plait.runtime.methods.apr import compact as lang

numbers = st.lists(st.integers(1, 120), min_size=1, max_size=4)


@given(numbers, st.integers(10, 100))
def test_reach_equals_trying_everything(nums, target):
    def tried(left):
        return left == [target] if len(left) == 1 else any(tried(list(rest)) for _, rest in moves(left))

    assert can_reach(nums, target) == tried(nums)
    if can_reach(nums, target):
        assert target in reachable(nums, lang.CAP)


def test_moves_are_the_dialects():
    found = dict(moves([6, 3, 1]))
    assert found[6, "/", 3, 2] == (2, 1) and found[6, "-", 1, 5] == (5, 3)
    assert (6, "/", 1, 6) not in found and all(r > 0 for *_, r in found)
    assert not [step for step, _ in moves([999, 999]) if step[1] in "+*-"]


def judged(document):
    """(text up to the end of each step, label), read from the words alone."""
    for k, label in enumerate(document.labels):
        if label is not None:
            yield document.words[:k], label


@pytest.mark.parametrize("seed", range(60))
def test_labels_say_whether_the_target_is_in_reach(seed):
    rng = random.Random(seed)
    document = Samples(rng).make()
    prompt = lang.read_prompt(document.words)
    assert not is_validation(prompt.nums, prompt.target)
    for words, label in judged(document):
        left = list(prompt.nums)
        legal = True
        for step in " ".join(words[prompt.length :]).replace("<eos>", ";").split(" ;"):
            if not step.strip():
                continue
            equation, _, rest = step.partition(":")
            steps = lang.read_steps(equation.strip())
            (a, op, b, c) = steps[0]
            known = sorted(left, reverse=True)
            options = {s: sorted(after, reverse=True) for s, after in moves(left)}
            legal = legal and (a, op, b, c) in options
            left = options.get((a, op, b, c), known)
            told = [int(n) for n in rest.split()]
            legal = legal and told == (left if len(left) > 1 else [])
        assert label == (GOOD if legal and can_reach(left, prompt.target) else BAD), words


def test_labels_are_balanced():
    samples = Samples(random.Random(0))
    labels = [label for _ in range(600) for _, label in judged(samples.make())]
    assert 0.3 < labels.count(GOOD) / len(labels) < 0.7


def test_a_spoilt_step_and_what_follows_are_bad():
    rng = random.Random(1)
    steps = next(s for s in (draw_steps([63, 9, 5, 2], 24, rng) for _ in itertools.count()) if all(a for _, a in s))
    assert [label for _, label in judged(labelled([63, 9, 5, 2], 24, steps, None, rng))] == [GOOD] * 3
    for k in range(3):
        spoilt = [label for _, label in judged(labelled([63, 9, 5, 2], 24, steps, k, rng))]
        assert spoilt == [GOOD] * k + [BAD] * (3 - k)


@pytest.mark.parametrize("seed", range(20))
def test_what_follows_a_number_that_is_not_there_is_bad(seed):
    rng = random.Random(seed)
    steps = next(s for s in (draw_steps([63, 9, 5, 2], 24, rng) for _ in itertools.count()) if all(a for _, a in s))
    for first in range(3):
        found = list(judged(foreign([63, 9, 5, 2], 24, steps, first, rng)))
        assert [label for _, label in found[: first + 1]] == [GOOD] * first + [BAD]
        assert all(label == BAD for _, label in found[first:])
        words = found[-1][0]
        assert words[:8] == ["step", "24", ":", "63", "9", "5", "2", ";"] and words[-1] in (";", "<eos>")


def test_excluded_problems_are_never_drawn():
    key = ((1, 2, 3), 11)
    first = Samples(random.Random(5))
    drawn = [first.draw(3) for _ in range(20)]
    excluded = {(tuple(sorted(nums)), target) for nums, target in drawn[:5]} | {key}
    again = Samples(random.Random(5), excluded)
    assert all((tuple(sorted(nums)), target) not in excluded for nums, target in (again.draw(3) for _ in range(20)))


def test_training_learns_something(tmp_path):
    config = TrainConfig(out=tmp_path, tokens=6000, micro_tokens=512, accumulate=2, warmup_steps=2)
    trainer = Trainer(config, train_prm.stream(), ModelConfig(hidden=64, layers=2, heads=2, intermediate=64))
    trainer.run()
    found = train_prm.judge(trainer.model.eval(), 4, 30)
    assert list(found) == ["3", "2", "1"] and found["3"]["steps"] == 30
    assert all(
        0 <= row[name] <= 1 for row in found.values() for name in ("accuracy", "auc", "spoilt", "foreign", "good")
    )
