"""Workers: what of their text can be taken back."""

from __future__ import annotations

from typing import Any

import pytest

from plait.runtime.methods.hogwild.group import Worker
from plait.tests.runtime.engines.native.helpers import IdTokenizer


@pytest.mark.parametrize(
    ("keep", "least", "drop"),
    [(9, 1, 0), (99, 0, 0), (8, 1, 1), (6, 1, 1), (5, 1, 1), (5, 0, 2), (0, 0, 2), (0, 1, 1), (0, 2, 0), (0, 3, 0)],
)
def test_whole_tokens_go_but_never_what_was_given_and_the_least(keep, least, drop):
    branch: Any = None
    worker = Worker(name="A", branch=branch)
    worker.begin([10])
    worker.text += [11, 12]
    assert IdTokenizer(20).decode(worker.text) == "10.11.12."
    assert worker.overhang(IdTokenizer(20), keep, least) == drop


def test_a_step_begins_with_what_is_given_and_the_end_of_the_one_before_is_none_of_it():
    branch: Any = None
    worker = Worker(name="A", branch=branch)
    worker.text, worker.num_given = [1, 2, 3], 1
    assert worker.said == [2, 3]
    worker.begin([7, 8], before=[5])
    assert (worker.pending, worker.text, worker.said) == ([5, 7, 8], [7, 8], [])
