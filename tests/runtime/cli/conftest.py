"""A recording to run jobs on without a model."""

from __future__ import annotations

import pytest

from plait import APR, JobSpec, Recorder, Runtime, ScriptedEngine
from plait.tests.runtime.methods.apr.test_apr import model
from plait.tests.runtime.methods.apr.test_paper import ROOT


@pytest.fixture
async def recorded(tmp_path):
    """A recording, the job and the trace of the golden run."""
    async with Runtime(engine=Recorder(ScriptedEngine(model()), tmp_path / "recording")) as runtime:
        await (await runtime.submit(APR(prompt=ROOT), trace_file=tmp_path / "trace"))
    (tmp_path / "job.json").write_text(JobSpec(method=APR(prompt=ROOT)).model_dump_json())
    return tmp_path
