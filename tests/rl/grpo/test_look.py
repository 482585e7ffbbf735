"""What is looked at during training: the file of it, and the picture."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from plait import PlaitError
from plait.rl.grpo.config import HELD_OUT, HeldOut
from plait.rl.grpo.curve import CURVE, draw
from plait.rl.grpo.look import Look


class Rollouts:
    """Right on the first of two problems."""

    def __init__(self):
        self.engine = SimpleNamespace(refresh=lambda: self.told.append("refresh"))
        self.told = []

    def run(self, requests):
        self.told += [(request.sample, request.seed, request.is_greedy) for request in requests]
        usage = SimpleNamespace(total_tokens=10, critical_tokens=6, branches=3)
        return [SimpleNamespace(outcome=1.0, usage=usage), SimpleNamespace(outcome=0.0, usage=usage)][: len(requests)]


def look(folder, every=2):
    metrics: dict[str, list[float]] = {}
    config = HeldOut(benchmark={"name": "countdown"}, every=every)
    return Look(config, ["one", "two"], Rollouts(), metrics, folder)


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / HELD_OUT).read_text().splitlines()]


def at(step, last=7):
    return SimpleNamespace(global_step=step, max_steps=last)


def test_before_the_first_step_then_each_so_many_and_after_the_last(tmp_path):
    one = look(tmp_path)
    one.on_train_begin(None, at(0), None)
    for step in range(1, 8):
        one.on_step_end(None, at(step), None)
    assert steps(tmp_path) == [0, 2, 4, 6, 7]
    assert one.rollouts.told[:3] == ["refresh", ("one", 0, True), ("two", 0, True)]
    assert one.metrics["held_out/accuracy"] == [0.5] * 5 and one.metrics["held_out/branches"] == [3.0] * 5
    line = json.loads((tmp_path / HELD_OUT).read_text().splitlines()[0])
    assert (line["right"], line["of"], line["total_tokens"], line["critical_tokens"]) == (1, 2, 10, 6)
    assert 0 < line["interval"][0] < 0.5 < line["interval"][1] < 1


@pytest.mark.parametrize(("resumed", "kept"), [(4, [0, 2, 4]), (5, [0, 2, 4]), (1, [0]), (9, [0, 2, 4, 6, 7])])
def test_what_was_looked_at_after_the_checkpoint_is_looked_at_again(tmp_path, resumed, kept):
    one = look(tmp_path)
    one.on_train_begin(None, at(0), None)
    for step in range(1, 8):
        one.on_step_end(None, at(step), None)
    again = look(tmp_path)
    again.on_train_begin(None, at(resumed), None)
    assert steps(tmp_path) == kept and not again.rollouts.told
    (tmp_path / HELD_OUT).unlink()
    again.on_train_begin(None, at(resumed), None)
    assert not (tmp_path / HELD_OUT).exists()


def test_a_look_at_which_nothing_could_be_judged_ends_the_run(tmp_path):
    one = look(tmp_path)
    one.on_train_begin(None, at(0), None)
    one.rollouts.run = lambda requests: [SimpleNamespace(outcome=None, usage=None, reason="timeout") for _ in requests]
    with pytest.raises(PlaitError, match="^step 7, held out: 2 of 2 rollouts failed, mostly by: timeout$"):
        one.on_step_end(None, at(7), None)
    assert steps(tmp_path) == [0] and one.metrics["held_out/accuracy"] == [0.5]


def test_what_another_run_looked_at_before_its_first_checkpoint_goes(tmp_path):
    for _ in range(2):
        one = look(tmp_path)
        one.on_train_begin(None, at(0), None)
        one.on_step_end(None, at(2), None)
        assert steps(tmp_path) == [0, 2]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_that_a_crash_has_cut_is_left_out(tmp_path, cut):
    one = look(tmp_path)
    one.on_train_begin(None, at(0), None)
    one.on_step_end(None, at(2), None)
    with (tmp_path / HELD_OUT).open("a") as file:
        file.write('{"step": 4}'[:cut])
    look(tmp_path).on_train_begin(None, at(4), None)
    assert steps(tmp_path) == [0, 2]


HISTORY = [
    {"step": i, "accuracy": i / 20, "rollout/generated_tokens": 40 + i, "rollout/critical_tokens": 20 + i}
    for i in range(1, 13)
]


def test_the_curve_shows_what_was_logged_and_looked_at(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    shown: dict[str, tuple[list[float], list[float]]] = {}
    plot, errorbar = Axes.plot, Axes.errorbar
    with pytest.MonkeyPatch.context() as patch:

        def plotted(self, x, y, **options):
            shown[options["label"]] = list(x), list(y)
            return plot(self, x, y, **options)

        def with_errors(self, x, y, yerr, **options):
            shown["low"], shown["high"] = (list(x), yerr[0]), (list(x), yerr[1])
            return errorbar(self, x, y, yerr=yerr, **options)

        patch.setattr(Axes, "plot", plotted)
        patch.setattr(Axes, "errorbar", with_errors)
        looks = [
            {"step": 0, "accuracy": 0.0, "interval": [0.0, 0.3]},
            {"step": 4, "accuracy": 0.5, "interval": [0.2, 0.9]},
        ]
        (tmp_path / HELD_OUT).write_text("".join(json.dumps(line) + "\n" for line in looks))
        path = draw([*HISTORY, {"step": 12, "train_loss": 1.0}], tmp_path)
    assert path == tmp_path / CURVE and path.read_text().lstrip().startswith("<?xml")
    numbers, means = shown["sampled, mean of ten steps"]
    assert numbers == list(range(1, 13)) and shown["sampled, each step"][1] == [i / 20 for i in numbers]
    assert means[0] == 1 / 20 and means[1] == pytest.approx(1.5 / 20)
    assert means[-1] == pytest.approx(sum(range(3, 13)) / 10 / 20)
    assert shown["low"] == ([0, 4], [0.0, 0.3]) and shown["high"] == ([0, 4], [0.3, 0.4])
    assert shown["tokens"][1][0] == 41 and shown["critical tokens"][1][-1] == 32
    first = path.read_bytes()
    assert draw([*HISTORY, {"step": 12, "train_loss": 1.0}], tmp_path) == path
    assert path.read_bytes() == first


def test_a_curve_without_looks_and_none_without_matplotlib(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    assert draw(HISTORY, tmp_path) == tmp_path / CURVE
    (tmp_path / CURVE).unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw(HISTORY, tmp_path) is None and not (tmp_path / CURVE).exists()
