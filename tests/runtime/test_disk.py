"""Files that are on disk as a whole or not at all."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from plait.runtime.disk import LOCK, holding, make_folder, no_empty_folder, own_file, replace_file, write_whole
from plait.runtime.errors import InvalidInput


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one")
    write_whole(tmp_path / "a.txt", "zwölf")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "zwölf"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_what_was_there_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a.txt", "one")

    def no_space(_path: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    def interrupted(_path: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", no_space)
        with pytest.raises(InvalidInput, match=r"cannot write .*a\.txt: No space left"):
            write_whole(tmp_path / "a.txt", "two")
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_whole(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "one"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_synced_file_is_on_the_disk_before_it_takes_its_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file under the name, or the older one after the call has returned."""
    done, replace = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"))

    def record(path: Path, target: Path) -> Path:
        done.append("replace")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    replace_file(tmp_path / "a.txt", b"one", sync=True)
    assert done == ["file", "replace", "folder"]
    replace_file(tmp_path / "a.txt", b"two")
    assert done[3:] == ["replace"]


def test_a_folder_is_held_by_one_alone(tmp_path: Path) -> None:
    with holding(tmp_path / "new"):
        with pytest.raises(InvalidInput, match="another run is working in .*new"), holding(tmp_path / "new"):
            pass
        assert [path.name for path in (tmp_path / "new").iterdir()] == [LOCK]
    with pytest.raises(BlockingIOError), holding(tmp_path / "new"):
        raise BlockingIOError
    (tmp_path / LOCK).write_bytes(b"")  # of a run that was killed
    for folder in (tmp_path, tmp_path / "new"):
        (folder / ".config.json.8268-daacee6e.part").write_bytes(b"{")
    with holding(tmp_path):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]


def test_a_file_system_without_locks_holds_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_file: object, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with holding(tmp_path / "out"):
        assert (tmp_path / "out" / LOCK).exists()
    assert not list((tmp_path / "out").iterdir())


def test_a_lock_that_its_holder_has_just_removed_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def ended_before(*options: int) -> None:
        (tmp_path / LOCK).unlink()
        flock(*options)

    monkeypatch.setattr(fcntl, "flock", ended_before)
    with pytest.raises(InvalidInput, match="another run"), holding(tmp_path):
        pass


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (None, ["before"]),
        ("a", ["before", "before/a", "before/a/file"]),
        ("a/b", ["before", "before/a", "before/a/b", "before/a/b/file"]),
    ],
)
def test_what_fails_leaves_no_empty_folder(tmp_path: Path, kept: str | None, left: list[str]) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for folder in (before, before / "a" / "b"):
        with pytest.raises(InvalidInput), no_empty_folder(folder):
            make_folder(folder)
            if kept is not None and folder != before:
                (before / kept / "file").touch()
            raise InvalidInput("no")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == left


def test_a_file_that_came_with_plait_is_found_by_its_path_in_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("evals/configs/countdown.toml")
    for none in (Path("evals/configs/none.toml"), Path("evals/configs"), Path("runtime", "..", name), tmp_path / name):
        assert own_file(none) == none
    assert "benchmark" in own_file(name).read_text()
    name.parent.mkdir(parents=True)
    name.touch()
    assert own_file(name) == name  # the user's
