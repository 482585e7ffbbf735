"""What is written beside its place: one clear error where the disk is full, and nothing left of it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

from plait import InvalidInput
from plait.rl.checkpoints import STAGING, checkpoints, remove, saving
from plait.tests.test_full_disk import full_at


def by_torch(path):
    torch.save({"w": torch.zeros(1000)}, path)


def by_safetensors(path):
    save_file({"w": torch.zeros(1000)}, path)


def by_python(path):
    path.write_bytes(bytes(4000))


@pytest.mark.parametrize(
    ("write", "reason"),
    [(by_torch, "the disk takes no more"), (by_safetensors, "File too large"), (by_python, "File too large")],
)
def test_a_full_disk_is_named_whoever_writes(write, reason, tmp_path):
    for room in (0, 1000, 3999):
        with pytest.raises(InvalidInput, match=f"cannot write {tmp_path}: .*{reason}"), saving(tmp_path) as staging:
            staging.mkdir()
            with full_at(room):
                write(staging / "file")
        assert not list(tmp_path.iterdir())
    with saving(tmp_path) as staging:
        staging.mkdir()
        write(staging / "file")
        (staging / "file").rename(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_matter_of_the_disk_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"), saving(tmp_path):
        (tmp_path / STAGING).mkdir()
        raise RuntimeError("out of memory")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_being_removed_is_none(tmp_path, monkeypatch):
    """Or a run that was killed meanwhile would go on from what is left of it."""
    (folder := tmp_path / "checkpoint-2").mkdir()
    for name in "ab":
        (folder / name).write_text("")
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("os.unlink", Mock(side_effect=KeyboardInterrupt))
        remove(folder)
    assert not checkpoints(tmp_path)
    folder.mkdir()
    remove(folder)
    assert not list(tmp_path.iterdir())
