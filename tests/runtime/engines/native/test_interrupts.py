"""A job that comes to another does not wait for a step that has only begun: it is dropped, and no result tells."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plait import SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.model import AFTER_STEP, AT_ONCE, Interrupted
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.stepped import Stepped
from plait.tests.runtime.engines.native.test_bursts import _engine, _scenario
from plait.tests.runtime.engines.native.test_pace import know
from plait.tests.runtime.engines.native.test_pressure import prompt
from plait.tests.runtime.engines.native.test_scheduler import decoding

FOLDERS: dict[str, Callable[[], Path]] = {
    "all layers in one call": lambda: tiny("qwen3", tie_word_embeddings=True)[1],
    "layer by layer": lambda: tiny("mistral", sliding_window=24)[1],
}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return FOLDERS[request.param]()


def patient(folder: Path) -> NativeEngine:
    """Drops no step for reasons of its own."""
    engine = _engine(folder, draft_rows=0)
    engine.scheduler._is_worth_dropping_for = lambda newcomer: False  # type: ignore[method-assign]
    return engine


def dropped(engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of the model was interrupted."""
    names: list[str] = []

    def note(name: str) -> None:
        function = getattr(engine.model, name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except Interrupted:
                names.append(name)
                raise

        monkeypatch.setattr(engine.model, name, call)

    note("forward")
    note("decode")
    return names


@pytest.mark.parametrize("seed", range(3))
async def test_steps_that_are_dropped_as_they_begin(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = await _scenario(patient(folder), seed)
    engine = patient(folder)
    names = dropped(engine, monkeypatch)
    rng = random.Random(seed)
    plan = engine.scheduler.plan
    was_dropped = False

    def interrupted() -> Any:
        nonlocal was_dropped
        step, deliveries = plan()
        # Every other step, until there was one of each kind: how prompts and samples share steps is up to the machine.
        is_due = len(set(names)) < 2 and not was_dropped
        was_dropped = step.can_be_dropped and (is_due or rng.random() < 0.3)
        if was_dropped:
            engine.scheduler.interrupt.value = AT_ONCE
        return step, deliveries

    engine.scheduler.plan = interrupted  # type: ignore[method-assign]
    assert await _scenario(engine, seed) == expected
    assert {"forward", "decode"} <= set(names)


async def test_steps_that_are_dropped_at_any_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = await _scenario(patient(folder), 7)
    engine = patient(folder)
    names = dropped(engine, monkeypatch)
    rng, is_over = random.Random(7), threading.Event()

    def disturb() -> None:
        while not is_over.wait(rng.random() * 4e-3):
            with engine.lock:
                under_way = engine.scheduler._under_way
                if under_way is not None and under_way[0].can_be_dropped:
                    engine.scheduler.interrupt.value = AT_ONCE

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert await _scenario(engine, 7) == expected
    finally:
        is_over.set()
        thread.join()
    assert names


@pytest.mark.parametrize("interrupt", [0, AT_ONCE])
async def test_a_burst_that_was_cut_inside_a_step_is_not_gone_on_with(interrupt: int) -> None:
    """Its inputs are those of the step that it was in, one further than what it sampled."""
    at = Stepped()
    decoding(at, "aa")
    at.scheduler.max_steps = 16
    at.step()
    commit = at.scheduler.commit_burst

    def cut(*arguments: Any) -> Any:
        at.scheduler.interrupt.value = interrupt
        return commit(*arguments)

    at.scheduler.commit_burst = cut  # type: ignore[method-assign,assignment]
    at.step()
    assert at.steps[-1].num_steps > 1 and (at.scheduler.repeatable is None) == (interrupt == AT_ONCE)
    await at.close()


@pytest.mark.parametrize(
    ("before", "newcomer", "age", "expected"),
    [
        ("aa", {"job": "b"}, 0.0, AT_ONCE),
        ("aa", {"job": "b"}, 0.4, AT_ONCE),
        ("aa", {"job": "b"}, 0.6, AFTER_STEP),  # soon over
        ("aa", {"job": "b"}, 3.3, AT_ONCE),  # the fourth step of a burst
        ("aa", {"job": "a"}, 0.0, AFTER_STEP),
        ("aab", {"job": "c"}, 0.0, AFTER_STEP),  # jobs beside each other have to get on
        ("aa", {"job": "b", "priority": -1}, 0.0, AFTER_STEP),
        ("aa", {"job": "b", "priority": 1}, 0.0, AT_ONCE),
    ],
)
async def test_for_whom_a_step_is_dropped(
    before: str, newcomer: dict[str, Any], age: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Stepped()
    decoding(at, before)
    know(at, (1, 10.0), (100, 1000.0))
    step, _ = at.scheduler.plan()
    now = time.perf_counter() + age * 10.0 * step.num_rows
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    at.generate(prompt(9, 5), **newcomer)
    assert at.scheduler.interrupt.value == expected
    await at.close()


async def test_what_was_noted_as_a_step_was_planned_cannot_be_dropped() -> None:
    """What tokens saw of a live view, and drafts."""
    at = Stepped(draft_rows=0)
    writer, watcher = (at.native.open(prompt(9, i), job="a", path=(i,)) for i in range(2))
    watcher.watch(writer)
    watcher.extend([5])
    alone = at.generate(prompt(9, 3))
    assert at.scheduler.plan()[0].can_be_dropped
    watcher.generate(SamplingParams(max_tokens=5))
    assert not at.scheduler.plan()[0].can_be_dropped
    for branch in (writer, watcher, alone.branch):
        branch.close()
    await at.close()
    drafting = Stepped(draft_rows=16)
    branch = drafting.native.open([1, 2, 3] * 9, job="a")
    branch.generate(SamplingParams(max_tokens=40, forced=(1, 2, 3) * 13))
    drafting.until(lambda: bool(drafting.steps and drafting.steps[-1].drafts))
    assert not drafting.steps[-1].can_be_dropped
    branch.close()
    await drafting.close()
