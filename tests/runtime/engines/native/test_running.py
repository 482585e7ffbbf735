"""Who is served first, whatever came and went: the order that sorting all of them gives."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from plait.runtime.engines.native.running import Running


def generation(rng: random.Random, sequence: int) -> Any:
    branch = SimpleNamespace(
        job=rng.choice("abc"), priority=rng.choice([0, 0, 1]), deadline=rng.choice([5.0, 7.0]),
        gang=rng.choice([None, None, ("a", "g")]), view=SimpleNamespace(own=None),
    )  # fmt: skip
    if rng.random() < 0.9:
        branch.view.own = SimpleNamespace(pending=rng.choice([0, 1, 1, 2, 9]))
    return Standing(sequence=sequence, sampled=[1] * rng.randrange(2), wants_logits=rng.random() < 0.8, branch=branch)


class Standing:
    """Stands for a generation; as one, it is equal to nothing else."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def is_prompt(g: Any) -> bool:
    own = g.branch.view.own
    return own is not None and own.pending > 1 and g.branch.gang is None


@pytest.mark.parametrize("seed", range(30))
def test_order(seed: int) -> None:
    rng = random.Random(seed)
    running, expected = Running(), []
    waiting: list[Any] = []
    for sequence in range(200):
        running.add(new := generation(rng, sequence))
        expected.append(new)
        if rng.random() < 0.4:
            gone = expected.pop(rng.randrange(len(expected)))
            running.remove(gone)
            waiting += [gone] if rng.random() < 0.5 else []
            assert gone not in running
            with pytest.raises(KeyError):
                running.remove(gone)
        if waiting and rng.random() < 0.3:  # one who waited goes on
            running.add(back := waiting.pop())
            expected.append(back)
        if expected and rng.random() < 0.5:  # one samples for the first time, or gets more to compute
            one = rng.choice(expected)
            one.sampled.append(1)
            if one.branch.view.own is not None:
                one.branch.view.own.pending = rng.choice([1, 2])
        assert list(running) == expected and len(running) == len(expected)
        assert all(len(peers) for peers in running.peers())
        assert list(running.without_logits) == [g for g in expected if not g.wants_logits]
        if rng.random() < 0.3:
            served = Counter({job: i for i, job in enumerate(rng.sample("abc", 3))})
            got = [g for peers in running.in_order(served) for part in (peers.begun(), peers.fresh()) for g in part]

            def key(g: Any, served: Counter[str] = served) -> Any:
                branch = g.branch
                return -branch.priority, branch.deadline, served[branch.job], not g.sampled, is_prompt(g), g.sequence

            assert got == sorted(expected, key=key)
            assert running.num_begun == sum(bool(g.sampled) for g in expected)
            by_job = Counter(g.branch.job for g in expected)
            assert sum((Counter({peers.job: len(peers)}) for peers in running.peers()), Counter()) == by_job
