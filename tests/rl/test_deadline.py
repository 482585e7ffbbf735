"""`Deadline`: when a training whose minutes are over ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from plait.rl.deadline import Deadline


@pytest.mark.parametrize(
    ("minutes", "every", "stops"), [(0, 1, [1, 2, 3, 4, 5, 6]), (0, 3, [3, 6]), (10, 1, []), (10, 3, [])]
)
def test_it_ends_behind_a_step_from_where_it_can_go_on(minutes, every, stops):
    deadline, ended = Deadline(minutes, every), []
    for step in range(1, 7):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        deadline.on_step_end(None, SimpleNamespace(global_step=step), control)
        assert control.should_save == control.should_training_stop
        if control.should_save:
            ended.append(step)
    assert ended == stops
