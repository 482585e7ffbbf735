"""What a job keeps on disk is whole or not there."""

from __future__ import annotations

import json

import pytest

from plait import InvalidInput
from plait.agents.folder import Folder


def test_values_come_back_and_nothing_else_is_left(tmp_path):
    folder = Folder(tmp_path / "deep/f")
    with folder.open({"n": 1}):
        folder.write("states/edit 0", {"a": "ü\ud800"})
        assert folder.read("states/edit 0") == {"a": "ü\ud800"} and folder.read("states/none") is None
    names = sorted(str(file.relative_to(tmp_path / "deep/f")) for file in tmp_path.rglob("*") if file.is_file())
    assert [name.partition("/")[2] for name in names] == ["job.json", "lock", "states/edit 0.json"]
    with folder.open({"n": 1}):
        assert folder.read("states/edit 0") is not None


def test_each_job_has_a_place_of_its_own(tmp_path):
    first, second = Folder(tmp_path), Folder(tmp_path)
    with first.open({"n": 1, "m": 2}), second.open({"n": 2, "m": 2}):
        first.write("a", 1)
        assert second.read("a") is None and first.read("job") == {"n": 1, "m": 2}
    with second.open({"m": 2, "n": 1}):
        assert second.read("a") == 1, "the order of fields makes no other job"


def test_a_job_is_held_by_one_alone(tmp_path):
    with Folder(tmp_path).open({}), pytest.raises(InvalidInput, match="worked on already"), Folder(tmp_path).open({}):
        pass
    with Folder(tmp_path).open({}):
        pass


def test_a_value_that_could_not_be_written_leaves_the_old_one(tmp_path):
    folder = Folder(tmp_path)
    with folder.open({}):
        folder.write("a", 1)
        with pytest.raises(TypeError):
            folder.write("a", {"x": object()})
        assert folder.read("a") == 1


def test_what_is_damaged_or_cannot_be_written_is_said(tmp_path):
    folder = Folder(tmp_path)
    with folder.open({}):
        assert folder.path is not None
        for text in ('{"a": ', "[" * 100_000, "9" * 5000):
            (folder.path / "a.json").write_text(text)
            with pytest.raises(InvalidInput, match=r"a.json is damaged: .*; remove it"):
                folder.read("a")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write to"), Folder(tmp_path / "file/f").open({}):
        pass


def test_without_a_path_nothing_is_kept(tmp_path):
    folder = Folder(None)
    with folder.open({"n": 1}):
        folder.write("a", json.loads("1"))
        assert folder.read("a") is None and list(tmp_path.iterdir()) == []
