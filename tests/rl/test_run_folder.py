"""The output folder: what of an earlier run stays, and what a run that goes on may have changed."""

from __future__ import annotations

import json

import pytest

from plait import InvalidInput
from plait.rl.config import TrainConfig
from plait.rl.run_folder import CONFIG, claim

OUTCOMES = ("looks.jsonl", "traces")


def left(out, *, checkpoint: bool) -> None:
    """As a run leaves it."""
    claim(TrainConfig(model="m"), out, may_change=(), outcomes=OUTCOMES, fresh=False)
    (out / "looks.jsonl").write_text("{}")
    for folder in ("traces", "adapter", "model", "notes", *(["checkpoint-2"] if checkpoint else [])):
        (out / folder).mkdir()
        (out / folder / "file").write_text("")


@pytest.mark.parametrize("below", [(), ("below",)])
def test_a_folder_that_cannot_be_made_is_refused(below, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write .*file"):
        left(tmp_path.joinpath("file", *below), checkpoint=False)


def again(out, fresh=False, **fields) -> list[str]:
    claim(TrainConfig(model="m", **fields), out, may_change=["threads"], outcomes=OUTCOMES, fresh=fresh)
    assert json.loads((out / CONFIG).read_text())["seed"] == fields.get("seed", 0)
    return sorted(path.name for path in out.iterdir())


def test_a_run_that_goes_on_keeps_all_and_its_configuration(tmp_path):
    left(tmp_path, checkpoint=True)
    whole = sorted(path.name for path in tmp_path.iterdir())
    assert again(tmp_path) == again(tmp_path, threads=2) == whole
    with pytest.raises(InvalidInput, match="other seed: .*--fresh"):
        again(tmp_path, seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == whole


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_checkpoint_nothing_is_told_of_the_run_before(tmp_path, seed):
    left(tmp_path, checkpoint=False)
    assert again(tmp_path, seed=seed) == ["adapter", CONFIG, "model", "notes"]
    (tmp_path / CONFIG).write_text("{")  # nothing to go on from is damaged
    assert again(tmp_path, seed=seed) == ["adapter", CONFIG, "model", "notes"]


def test_what_is_no_runs_stays(tmp_path):
    left(tmp_path, checkpoint=False)
    (tmp_path / CONFIG).unlink()
    there = sorted(path.name for path in tmp_path.iterdir())
    assert again(tmp_path) == sorted([CONFIG, *there])


def test_fresh_leaves_nothing_of_the_run_before(tmp_path):
    left(tmp_path, checkpoint=True)
    assert again(tmp_path, fresh=True, seed=1) == [CONFIG, "notes"]
