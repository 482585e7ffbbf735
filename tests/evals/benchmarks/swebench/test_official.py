"""The official harness: a stand-in that leaves what it would leave, and itself where no daemon answers."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from plait import InvalidInput
from plait.evals.benchmarks.swebench import official
from plait.evals.benchmarks.swebench.grading import CannotGrade
from plait.evals.benchmarks.swebench.instances import Instance
from plait.evals.environment import digest
from plait.tests.evals.benchmarks.swebench.test_inputs import ROW, SCRIPT
from plait.tests.evals.benchmarks.swebench.tools import benchmark

OFFICIAL = {
    **ROW,
    "PASS_TO_PASS": ["test_b"],
    "image": "swe/x:latest",
    "log_parser": "parse_log_pytest",
    "eval_type": "pass_and_fail",
    "eval_script": SCRIPT,
}
INSTANCE = Instance.model_validate(OFFICIAL)

STAND_IN = """
import argparse, json, pathlib, sys, time
parser = argparse.ArgumentParser()
names = "dataset_name split instance_ids predictions_path max_workers run_id timeout report_dir"
for name in names.split():
    parser.add_argument(f"--{name}", required=True)
given = parser.parse_args()
(row,) = json.loads(pathlib.Path(given.dataset_name).read_text())
(prediction,) = json.loads(pathlib.Path(given.predictions_path).read_text())
assert row["instance_id"] == given.instance_ids == prediction["instance_id"]
logs = pathlib.Path("logs/run_evaluation", given.run_id, prediction["model_name_or_path"], row["instance_id"])
logs.mkdir(parents=True)
patch = prediction["model_patch"]
if patch == "hang":
    try:
        pathlib.Path(sys.path[-1], "started").write_text("")
        time.sleep(60)
    finally:
        pathlib.Path(sys.path[-1], "cleaned").write_text("")
if patch in ("stale", "slow", "broken"):
    said = {"stale": ">>>>> Patch Apply Failed:", "slow": "Test timed out after 9 seconds.", "broken": "no such image"}
    (logs / "run_instance.log").write_text(said[patch])
else:
    good = patch == "good"
    lists = {"success": ["a"], "failure": []}, {"success": [], "failure": ["test_b"]}
    found = {"resolved": good, "patch_successfully_applied": patch != "silent"}
    if patch != "silent":
        found["tests_status"] = {"FAIL_TO_PASS": lists[0], "PASS_TO_PASS": lists[not good]}
    (logs / "report.json").write_text(json.dumps({row["instance_id"]: found}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A `swebench` package of our own for the processes that are started."""
    package = tmp_path / "stand-in" / "swebench" / "harness"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "run_evaluation.py").write_text(STAND_IN.replace("sys.path[-1]", repr(str(tmp_path))))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    return tmp_path


@pytest.mark.parametrize(
    ("patch", "resolved", "reason"),
    [
        ("good", True, "resolved"),
        ("bad", False, "unresolved; 1 of 1 PASS_TO_PASS fail: test_b"),
        ("silent", False, "unresolved; the log shows no run of the tests"),
        ("stale", False, "the patch does not apply"),
        ("slow", False, "the tests were stopped: timeout (9 s at most)"),
    ],
)
async def test_what_the_harness_reports(stand_in, patch, resolved, reason):
    grade = await official.grade(INSTANCE, patch, 9)
    assert (grade.resolved, grade.reason) == (resolved, reason)


async def test_no_report_is_no_verdict(stand_in):
    with pytest.raises(CannotGrade, match="acme__x-1: the official harness gives no report: no such image"):
        await official.grade(INSTANCE, "broken", 9)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
async def test_cancelling_lets_it_clean_up(stand_in, monkeypatch, handler):
    """Also where interrupts are ignored, as they are in what a shell runs in the background."""
    monkeypatch.setattr(official, "PATIENCE", 30)
    before = signal.signal(signal.SIGINT, handler)
    try:
        await _cancelled(stand_in)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (stand_in / "cleaned").exists()


async def _cancelled(stand_in):
    task = asyncio.create_task(official.grade(INSTANCE, "hang", 9))
    for _ in range(400):
        if not (stand_in / "started").exists():
            await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_working_folder_answers_for_no_daemon(monkeypatch, tmp_path):
    (tmp_path / "docker.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    official.has_docker()
    assert not (tmp_path / "ran").exists()


async def test_the_harness_itself_takes_what_it_is_given(monkeypatch, tmp_path):
    """Without a daemon it comes as far as asking for one."""
    pytest.importorskip("swebench")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert not official.has_docker()
    with pytest.raises(CannotGrade, match="(?s)gives no report: .*DockerException"):
        await official.grade(INSTANCE, "diff --git a/x b/x\n", 9)


async def test_who_grades(tiny, monkeypatch):
    folder, rows = tiny
    row = {
        **rows["numbertools"],
        **{name: OFFICIAL[name] for name in ("image", "eval_type", "log_parser", "eval_script")},
    }

    async def graders(answers, row, **fields):
        monkeypatch.setattr(official, "has_docker", lambda: answers)
        bench = benchmark(folder, [row], **fields)
        (sample,) = bench.load()
        return (await bench._prepared(sample.data)).grader

    assert await graders(True, row, grader="auto") is None
    assert await graders(True, row, grader="docker") is None
    assert await graders(False, row, grader="auto") is not None
    assert await graders(True, row, grader="local") is not None
    assert await graders(True, rows["numbertools"], grader="auto") is not None
    with pytest.raises(InvalidInput, match="no docker daemon answers"):
        await graders(False, row, grader="docker")
    with pytest.raises(InvalidInput, match="the official harness needs image, log_parser"):
        await graders(True, rows["numbertools"], grader="docker")


def test_the_row_is_as_it_is_published():
    row = {"instance_id": INSTANCE.id, **INSTANCE.model_dump(mode="json")}
    assert json.loads(json.dumps(row)).items() >= {**OFFICIAL, "FAIL_TO_PASS": ["tests/t.py::test_a[1-x y]"]}.items()


ASSETS = {"test_patch": [{"path": "tests/expected.png", "url": "https://example.org/expected.png"}], "patch": []}


@pytest.mark.parametrize(
    ("given", "expected"),
    [(ASSETS, ASSETS), (json.dumps(ASSETS), ASSETS), (None, {}), ("", {}), ("null", {}), ({}, {})],
)
def test_the_harness_gets_the_images_that_no_patch_can_carry(given, expected):
    harness = pytest.importorskip("swebench.harness.utils")
    instance = Instance.model_validate({**OFFICIAL, "image_assets": given})
    row = json.loads(json.dumps({"instance_id": instance.id, **instance.model_dump()}))
    assert harness.make_test_spec(row).image_assets == expected
    assert (digest(instance) == digest(INSTANCE)) is (not expected), "rows without images stay the problems they were"
