"""What of a job its JSON says to a worker."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer

import plait
from plait import InvalidInput, InvalidJob, JobSpec, parse_job
from plait.runtime.methods.constraints import JsonConstraint
from plait.runtime.methods.nesting import Inner
from plait.runtime.methods.registry import METHODS

pytest.importorskip("aiomqtt")

from plait.runtime.mqtt.job_data import job_data


class Odd(plait.Answering):
    """A method with fields of all sorts."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    method: Literal["odd"] = "odd"
    hidden: int = Field(default=1, exclude=True)
    renamed: int = Field(default=2, alias="other_name")
    anything: Any = None
    pair: tuple[int, ...] = ()
    kinds: frozenset[str] = frozenset()
    day: datetime.date | None = None
    raw: bytes = b""
    array: Annotated[Any, BeforeValidator(np.asarray), PlainSerializer(np.ndarray.tolist)] = Field(
        default_factory=lambda: np.arange(2)
    )
    began: float = Field(default_factory=time.time, exclude=True)
    inner: Inner | None = None

    async def run(self, ctx):
        text = f"{self.hidden} {self.renamed} {self.anything!r}"
        return plait.Outcome(text=text, answer=None, finish=plait.Finish.EOS)


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setitem(METHODS._things, "odd", Odd)


@pytest.mark.parametrize(
    "fields",
    [
        {"other_name": 7},
        {"renamed": 7},
        {"anything": {"a": [1, 2.5, None, "x", True, {"b": "c"}]}},
        {"anything": (1, [2])},
        {"pair": (1, 2), "kinds": {"a", "b"}, "day": datetime.date(2026, 1, 2), "raw": b"ab"},
        {"array": [[1, 2], [3, 4]]},
        {"prompt": [{"role": "user", "content": "?"}], "stop": ("a",), "temperature": 0},
        {"constraint": JsonConstraint(json_schema={"enum": ("a", "b")})},
    ],
)
def test_what_json_holds_arrives_as_it_is(fields):
    for method in (one := Odd(**{"prompt": "?", **fields}), plait.SelfConsistency(prompt="?", n=2, generator=one)):
        read = parse_job(json.loads(json.dumps(job_data(JobSpec(method=method))))).method
        found = read if isinstance(read, Odd) else read.generator
        assert (found.renamed, found.pair, found.kinds, found.day, found.raw, found.prompt) == (
            (one.renamed, one.pair, one.kinds, one.day, one.raw, one.prompt)
        )
        assert np.array_equal(found.array, one.array)


@pytest.mark.parametrize("is_inside", [False, True])
def test_what_json_leaves_out_is_refused_if_it_was_given(is_inside):
    method = Odd(prompt="?", hidden=7)
    with pytest.raises(InvalidJob, match=r"the method 'odd' cannot be sent: its JSON leaves hidden out"):
        job_data(JobSpec(method=Odd(prompt="?", inner=method) if is_inside else method))


@pytest.mark.parametrize("fields", [{"raw": b"\xff"}, {"anything": object()}])
def test_what_has_no_json_is_refused(fields):
    with pytest.raises(InvalidInput, match="the method 'odd' cannot be run: [A-Za-z]*Error: "):
        job_data(JobSpec(method=Odd(prompt="?", **fields)))


@pytest.mark.parametrize("fields", [{"hidden": 7}, {"renamed": 7}, {"anything": {1: (2, b"x")}}])
async def test_inside_another_method_a_method_is_what_it_was(fields):
    one = Odd(prompt="?", **fields)
    async with plait.Runtime(engine=plait.ScriptedEngine(["x"])) as runtime:
        jobs = [await runtime.submit(job) for job in (one, plait.SelfConsistency(prompt="?", n=2, generator=one))]
        alone, inside = [await asyncio.wait_for(job, 10) for job in jobs]
    assert alone.text == inside.text
