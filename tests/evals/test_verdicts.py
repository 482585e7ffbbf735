"""Verdicts of anyone's benchmark: what can be kept is kept, anything else is a failed job that can be read back."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Sequential
from plait.evals import EvalConfig, Verdict, register_benchmark, run
from plait.evals.benchmarks.countdown.benchmark import Countdown
from plait.evals.extras import Extra
from plait.evals.rows import Key, Row, Unit
from plait.evals.store import read_units
from plait.evals.verdicts import judge
from plait.runtime.errors import InvalidInput
from plait.tests.evals.tools import engine

METHOD = Sequential(prompt="x")
VERDICTS: list[object] = []


@register_benchmark
class Careless(Countdown):
    """Says whatever stands first in `VERDICTS`."""

    name: Literal["test_careless"] = "test_careless"  # type: ignore[assignment]
    """What configurations call it."""

    async def judge(self, sample, method, answer, text, details):
        return VERDICTS[0]


def verdict(**changes):
    return Verdict(**{"correct": True, "extracted": "5", "reason": "correct", **changes})


def figure(value):
    return verdict(extra=Extra(numbers={"a": value}))


async def judged(found):
    VERDICTS[:] = [found]
    bench = Careless(numbers=3, count=1)
    return await judge(bench, bench.load()[0], METHOD, None, "", {})


ODD = {
    "share": (verdict(correct=0.5), "correct: "),
    "nothing": (verdict(correct=None), "correct: "),
    "integer": (verdict(extracted=5), "extracted: "),
    "no reason": (verdict(reason=None), "reason: "),
    "not a number": (figure(float("nan")), "extra.numbers.a"),
    "text": (figure("b"), "extra.numbers.a"),
    "array": (figure(np.zeros(2)), "no JSON"),
    "truth value": (True, "a Verdict, not bool"),
    "none": (None, "a Verdict, not NoneType"),
}


@pytest.mark.parametrize(("found", "message"), ODD.values(), ids=ODD)
async def test_what_cannot_be_kept_is_a_failed_job(tmp_path, found, message):
    with pytest.raises(InvalidInput, match=f"verdict of test_careless on '.*': .*{message}"):
        await judged(found)
    config = EvalConfig(
        benchmark={"name": "test_careless", "numbers": 3, "count": 1}, methods=[{"method": "sequential"}]
    )
    await run(config, tmp_path, engine=engine())
    (unit,) = read_units(tmp_path)[0].values()
    assert unit.has_failed and message in unit.rows[0].error


async def test_numbers_of_numpy_are_numbers():
    extra = Extra(numbers={"a": np.float32(0.5)}, parts={"p": {"calls": np.int64(3)}}, curves={"c": (np.bool_(1), 0)})
    found = await judged(verdict(correct=np.bool_(True), extracted=np.str_("5"), extra=extra))
    assert found.correct is True and type(found.extracted) is str
    assert (found.extra.numbers, found.extra.parts) == ({"a": 0.5}, {"p": {"calls": 3}})
    assert found.extra.curves == {"c": [True, 0]} and type(found.extra.numbers["a"]) is float


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3)
ANY = SCALARS | st.floats(width=32).map(np.float32) | st.booleans().map(np.bool_)


@settings(max_examples=60, deadline=None)
@given(correct=ANY, extracted=ANY, reason=ANY, figure=ANY, name=SCALARS)
async def test_what_passes_can_be_read_back(correct, extracted, reason, figure, name):
    extra = Extra(numbers={name: figure})
    try:
        found = await judged(Verdict(correct=correct, extracted=extracted, reason=reason, extra=extra))
    except InvalidInput:
        return
    parts = {"correct": found.correct, "extracted": found.extracted, "reason": found.reason, "extra": found.extra}
    row = Row(window=None, finish="eos", counts={}, **parts)
    unit = Unit(key=Key(method="m", budget=0, sample="s", attempt=0), rows=(row,))
    assert Unit.from_json(json.loads(json.dumps(unit.to_json()))) == unit
