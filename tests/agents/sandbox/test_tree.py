"""The files of a commit, from repositories of every kind, against what was committed."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from plait.agents.repository import Snapshot
from plait.agents.sandbox import tree
from plait.agents.sandbox.tree import open_archive
from plait.runtime.errors import InvalidInput
from plait.tests.agents.sandbox.tools import git, make_repository, state

FILES = {
    "a.py": "A = 1\n",
    "folder/späth.txt": "ä\n",
    "ends.txt": "one\r\ntwo\n",
    "binary": bytes(range(256)) * 40,
    "empty": "",
    "hidden.py": "H = 1\n",
    "version.txt": "$Format:%H$ $Id$\n",
    ".gitattributes": "hidden.py export-ignore\nversion.txt export-subst ident\n*.txt text eol=crlf\n* filter=evil\n",
}


def contents(snapshot):
    archive = open_archive(snapshot)
    with os.fdopen(archive.descriptor, "rb") as file, tarfile.open(fileobj=file) as tar:
        members = tar.getmembers()
        found = {m.name: (tar.extractfile(m).read() if m.isfile() else m.linkname) for m in members if not m.isdir()}
        pages = sum(-(-m.size // 4096) * 4096 for m in members if m.isfile())
    return found, archive.disk_bytes, pages, members


@pytest.fixture
def snapshot(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "link").symlink_to("folder/späth.txt")
    (folder / "away").symlink_to("/etc")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return make_repository(folder, FILES)


def test_files_are_what_was_committed_byte_for_byte(snapshot):
    found, disk_bytes, pages, members = contents(snapshot)
    expected = {name: text if isinstance(text, bytes) else text.encode() for name, text in FILES.items()}
    # `text` in the attributes changed line ends on the way into the repository; on the way out nothing does.
    expected["ends.txt"] = b"one\ntwo\n"
    expected["version.txt"] = b"$Format:%H$ $Id$\n"
    expected |= {"link": "folder/späth.txt", "away": "/etc", "run.sh": b"#!/bin/sh\n"}
    assert found == expected
    # A link's target is counted as a file would be.
    assert disk_bytes == pages + 2 * 4096 + len(found) * tree.FILE_BYTES
    assert {m.name: m.mode for m in members}["run.sh"] == 0o755
    assert {m.name: m.mode for m in members}["a.py"] == 0o644


def test_every_kind_of_repository_gives_the_same(snapshot, tmp_path):
    expected = contents(snapshot)[0]
    source = str(snapshot.repository)
    git(tmp_path, "clone", "--quiet", "--bare", source, "bare.git")
    git(tmp_path, "clone", "--quiet", "--mirror", source, "mirror.git")
    git(tmp_path, "clone", "--quiet", "--shared", "--no-checkout", source, "shared")
    git(snapshot.repository, "worktree", "add", "--quiet", "--detach", str(tmp_path / "worktree"))
    for name in ("bare.git", "mirror.git", "shared", "worktree"):
        assert contents(Snapshot(repository=tmp_path / name, commit=snapshot.commit))[0] == expected, name


def test_reading_changes_nothing_and_runs_nothing_of_the_repository(snapshot, tmp_path):
    trap = tmp_path / "sprung"
    command = f"sh -c 'touch {trap}; cat'"
    git(snapshot.repository, "config", "filter.evil.smudge", command)
    git(snapshot.repository, "config", "core.fsmonitor", f"touch {trap}")
    git(snapshot.repository, "config", "tar.tar.command", command)
    hook = snapshot.repository / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    before = state(snapshot.repository)
    contents(snapshot)
    assert state(snapshot.repository) == before
    assert not trap.exists()


def test_archives_are_made_once_and_read_apart(snapshot, monkeypatch):
    made = []
    make = tree._make
    monkeypatch.setattr(tree, "_make", lambda *key: made.append(key) or make(*key))
    archives = [open_archive(snapshot) for _ in range(3)]
    assert os.read(archives[0].descriptor, 600) == os.read(archives[1].descriptor, 600)
    for archive in archives:
        archive.close()
    assert len(made) == 1


def test_archives_that_nobody_needs_are_let_go(tmp_path, monkeypatch):
    def held():
        # The last is that of the folder, gone by then.
        paths = sorted(Path("/proc/self/fd").iterdir())
        links = [path.readlink() for path in paths if path.is_symlink()]
        return [link for link in links if "memfd:plait" in str(link)]

    monkeypatch.setattr(tree, "KEPT_BYTES", 25_000)  # Each takes 10,240.
    snapshots = [make_repository(tmp_path / str(n), {"a": f"{n}"}) for n in range(4)]
    for snapshot in snapshots:
        open_archive(snapshot).close()
    assert len(held()) == 2
    assert contents(snapshots[0])[0] == {"a": b"0"}


def test_an_archive_cannot_be_changed_through_its_descriptor(snapshot):
    archive = open_archive(snapshot)
    path = f"/proc/self/fd/{archive.descriptor}"
    for flags in (os.O_RDWR, os.O_RDWR | os.O_TRUNC):
        with pytest.raises(PermissionError):
            os.write(os.open(path, flags), b"x")
    archive.close()
    contents(snapshot)


@pytest.mark.parametrize("commit", ["HEAD", "main", "--output=x", "0" * 39, "0" * 40])
def test_a_commit_that_is_not_there_is_an_input_error(snapshot, commit):
    with pytest.raises(InvalidInput, match="commit"):
        open_archive(Snapshot(repository=snapshot.repository, commit=commit))


def test_a_folder_that_is_no_repository_is_an_input_error(tmp_path):
    with pytest.raises(InvalidInput, match="no git repository"):
        open_archive(Snapshot(repository=tmp_path, commit="0" * 40))
