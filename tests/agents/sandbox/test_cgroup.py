"""Control groups: real ones where there are, and the files of version 2 in a folder."""

from __future__ import annotations

import subprocess

import pytest

from plait.agents.sandbox import cgroup
from plait.agents.sandbox.cgroup import Cgroup


@pytest.fixture
def real():
    group = Cgroup.make(memory_bytes=2**28, processes=8)
    if group is None:
        pytest.skip("no control group can be made here")
    yield group
    group.remove()


def test_a_group_holds_its_processes_and_goes_with_them(real):
    folders = set(real._folders.values())
    process = subprocess.Popen(real.joining(["sleep", "60"]), stdout=subprocess.PIPE)
    try:
        while not all((folder / "cgroup.procs").read_text().split() for folder in folders):
            pass
        assert all((folder / "cgroup.procs").read_text().split() == [str(process.pid)] for folder in folders)
    finally:
        real.remove()
        process.wait()
        process.stdout.close()
    assert process.returncode == -9
    assert not any(folder.exists() for folder in folders)


def test_a_group_counts_processes_and_memory(real):
    count = "trap 'wait' EXIT; n=0; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & n=$((n+1)); echo $n; done"
    done = subprocess.run(real.joining(["sh", "-c", count]), capture_output=True, text=True)
    assert done.stdout.split()[-1] == "7"
    assert not real.has_run_out()
    hog = ["sh", "-c", "head -c 400000000 /dev/zero | tail"]
    subprocess.run(real.joining(hog), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert real.has_run_out()


def test_version_2_has_other_files(tmp_path, monkeypatch):
    # A folder that is made there holds the kernel's files at once.
    mkdir = type(tmp_path).mkdir

    def with_files(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        for name in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs"):
            (path / name).touch()

    monkeypatch.setattr(type(tmp_path), "mkdir", with_files)
    monkeypatch.setattr(cgroup, "_parents", lambda: {"memory": tmp_path, "pids": tmp_path})
    group = Cgroup.make(memory_bytes=1000, processes=5)
    (folder,) = tmp_path.glob("plait-*")
    assert [(folder / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")] == ["1000", "0", "5"]
    (folder / "memory.stat").write_text("file 7\nanon 300\n")
    (folder / "memory.events").write_text("max 4\noom 1\noom_kill 0\n")
    assert group.anonymous_bytes() == 300
    assert not group.has_run_out()
    (folder / "memory.events").write_text("max 4\noom 1\noom_kill 2\n")
    assert group.has_run_out()


def test_a_group_that_cannot_be_limited_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "_parents", lambda: {"memory": tmp_path / "missing", "pids": tmp_path})
    assert Cgroup.make(memory_bytes=1000, processes=5) is None
    assert list(tmp_path.iterdir()) == []


def test_groups_of_processes_that_were_killed_are_swept(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / f"plait-{process.pid}-3").mkdir()
    (tmp_path / "plait-1-3").mkdir()
    cgroup._sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plait-1-3"]
