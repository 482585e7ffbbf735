"""Repositories: what is read of them, what is refused, and that reading leaves no trace."""

from __future__ import annotations

import os
import tarfile

import pytest

from plait import InvalidInput
from plait.agents.repository import Repository, Snapshot, is_test, is_test_file
from plait.agents.sandbox.tree import open_archive
from plait.agents.working_copy import apply, working_copy
from plait.tests.agents.sources import git, repository, tree, write

FILES = {
    "a.py": "x = 1\r\n",
    "dir/é.txt": "ä",
    "empty": "",
    "logo.png": b"\x89PNG\0",
    "latin.txt": b"\xe9",
    "big.txt": "x" * 100,
}


@pytest.fixture
def checkout(tmp_path):
    folder = repository(tmp_path / "repo", FILES)
    (folder / "link").symlink_to("dir")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "more")
    return folder


def everything(folder):
    """Every file of a folder, git's too, with bytes and times; of objects git renews the times."""
    return {
        str(path): (path.read_bytes(), 0 if "objects" in path.parts else path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_text_files_are_read(checkout):
    opened = Repository(checkout, max_bytes=99)
    files = opened.files()
    assert files["dir/é.txt"] == "ä"  # One alone.
    assert dict(files) == {"a.py": "x = 1\r\n", "dir/é.txt": "ä", "empty": "", "run.sh": "#!/bin/sh\n"}
    assert set(opened.paths()) == {*FILES, "link", "run.sh"}
    assert opened.sizes["logo.png"] == 5 and "link" not in opened.sizes
    assert opened.executable == {"run.sh"}
    for name in ("logo.png", "latin.txt", "link", "big.txt", "nothing"):
        assert name not in files
    assert "big.txt" in Repository(checkout).files()


def test_what_is_not_committed_is_not_read(checkout):
    write(checkout, {"a.py": "new", "b.py": "new"})
    files = Repository(checkout).files()
    assert files["a.py"] == "x = 1\r\n" and "b.py" not in files


def test_checkouts_their_folders_bare_ones_and_mirrors_are_opened(checkout, tmp_path):
    commit = git(checkout, "rev-parse", "HEAD").strip()
    git(tmp_path, "clone", "-q", "--mirror", str(checkout), "mirror")
    (tmp_path / "mirror" / "config").unlink()  # Some mirrors are no more than objects and references.
    for path in (checkout, checkout / "dir"):
        assert Repository(path).snapshot("p") == Snapshot(repository=checkout, commit=commit, patch="p")
    mirror = Repository(tmp_path / "mirror", "main")
    assert mirror.snapshot() == Snapshot(repository=tmp_path / "mirror", commit=commit)
    assert mirror.files()["a.py"] == "x = 1\r\n"


def test_an_older_commit_is_read_as_it_was(checkout):
    assert "run.sh" not in Repository(checkout, "HEAD~1").paths()
    assert Repository(checkout, git(checkout, "rev-parse", "HEAD~1").strip()[:10]).commit == (
        git(checkout, "rev-parse", "HEAD~1").strip()
    )


def test_what_cannot_be_opened_says_what_to_do(checkout, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "fresh").mkdir()
    git(tmp_path / "fresh", "init", "-q")
    for path, commit, message in [
        (tmp_path / "none", "HEAD", "is no folder"),
        (tmp_path / "plain", "HEAD", "git init"),
        (tmp_path / "fresh", "HEAD", "no commit yet"),
        (checkout, "nothing", "fetch it"),
        (checkout, "--all", "is no commit"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            Repository(path, commit)


def test_nothing_that_a_repository_configures_runs(checkout, tmp_path, monkeypatch):
    """Neither its hooks, its file system monitor, its filters, nor what this process's environment names."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    for key in (
        "core.fsmonitor",
        "diff.external",
        "filter.f.clean",
        "filter.f.smudge",
        "diff.f.textconv",
        "core.pager",
    ):
        git(checkout, "config", key, str(trap))
    write(checkout, {".git/hooks/post-index-change": trap.read_bytes(), ".git/info/attributes": "* filter=f diff=f\n"})
    (checkout / ".git/hooks/post-index-change").chmod(0o755)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(trap))
    write(checkout, {"a.py": "x = 2\n"})
    assert dict(Repository(checkout, "HEAD~0").files())["a.py"] == "x = 1\r\n"
    with working_copy(checkout) as copy:
        assert copy.files()["a.py"] == "x = 2\n"
    git(checkout, "config", "filter.f.required", "true")
    git(checkout, "config", "filter.g=h.process", str(trap))
    write(checkout, {".gitattributes": "a.py filter=g=h\n"})
    apply(checkout, "--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 2\n+x = 3\n")
    assert (checkout / "a.py").read_bytes() == b"x = 3\n"
    assert not (tmp_path / "sprung").exists()


def test_a_working_copy_has_what_the_user_has(checkout):
    write(checkout, {".gitignore": "*.log\n", "forced.log": "tracked\n"})
    git(checkout, "add", "-f", "forced.log", ".gitignore")
    git(checkout, "commit", "-q", "-m", "ignore")
    write(checkout, {"a.py": "y = 1\n", "new/b.py": "", "c.log": "no", "node_modules/m/x.js": "no", "staged": "s"})
    git(checkout, "add", "staged")
    (checkout / "empty").unlink()
    before = everything(checkout)
    with working_copy(checkout / "dir") as copy:
        files = copy.files()
        assert files["a.py"] == "y = 1\n" and files["forced.log"] == "tracked\n"
        assert set(copy.paths()) == {*FILES, "link", "run.sh", ".gitignore", "forced.log", "new/b.py", "staged"} - {
            "empty"
        }
        folder = copy.path
        # What others make of it works, too: it is a repository of its own.
        git(folder.parent, "clone", "-q", "--no-local", str(folder), "clone", "--no-checkout")
    assert not folder.parent.exists()
    assert everything(checkout) == before


def test_a_working_copy_has_the_bytes_of_files_whatever_attributes_make_of_them(tmp_path):
    files = {
        "crlf.txt": b"a\r\nb\r\n",
        "auto.py": b"a\r\nb\r\n",
        "id.txt": b"$Id: mine $\n",
        "wide.txt": "é\n".encode("utf-16-le"),
        "large.bin": b"content\n",
    }
    attributes = (
        "*.py text=auto\ncrlf.txt text eol=crlf\nid.txt ident\nwide.txt text working-tree-encoding=UTF-16LE\n"
        "*.bin filter=f -text\n"
    )
    folder = repository(tmp_path / "here", {".gitattributes": attributes})
    git(folder, "config", "filter.f.clean", "echo pointer")
    write(folder, files)
    for path in files:
        os.utime(folder / path, (1, 1))  # Git is sure of what is older than its index.
    git(folder, "add", ".")
    for _ in range(2):  # Not committed, then committed.
        with working_copy(folder) as copy:
            found = {path: git(copy.path, "cat-file", "blob", f"{copy.commit}:{path}") for path in files}
        expected = {**files, "id.txt": b"$Id$\n", "large.bin": b"pointer\n"}
        assert found == {path: data.decode(errors="surrogateescape") for path, data in expected.items()}
        git(folder, "commit", "-q", "--allow-empty", "-m", "all")
    patch = "--- a/crlf.txt\n+++ b/crlf.txt\n@@ -1,2 +1,2 @@\n a\r\n-b\r\n+c\r\n"
    apply(folder, patch)
    assert (folder / "crlf.txt").read_bytes() == b"a\r\nc\r\n"


def test_a_change_within_the_same_tick_is_seen(checkout):
    """Of the same size, at the time of the index: only the bytes tell."""
    index = (checkout / ".git/index").stat()
    (checkout / "a.py").write_bytes(b"x = 2\r\n")
    os.utime(checkout / "a.py", ns=(index.st_mtime_ns, index.st_mtime_ns))
    with working_copy(checkout) as copy:
        assert copy.files()["a.py"] == "x = 2\r\n"


@pytest.mark.parametrize(
    "marks", [["--skip-worktree"], ["--assume-unchanged"], ["--skip-worktree", "--assume-unchanged"]]
)
def test_changes_that_git_is_told_to_pass_over_are_seen(checkout, marks):
    git(checkout, "commit", "-q", "--allow-empty", "-am", "all")
    before = set(Repository(checkout).paths())
    for mark in marks:
        git(checkout, "update-index", mark, "a.py", "latin.txt")
    write(checkout, {"a.py": "y = 1\n"})
    (checkout / "latin.txt").unlink()
    with working_copy(checkout) as copy:
        assert copy.files()["a.py"] == "y = 1\n"
        # A sparse checkout has no such files, and nobody removed them.
        assert before - set(copy.paths()) == (set() if "--skip-worktree" in marks else {"latin.txt"})


def test_a_repository_with_long_hashes_is_copied(tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    git(folder, "init", "-q", "--object-format=sha256")
    write(folder, {"a.py": "x = 1\n"})
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    write(folder, {"b.py": "y = 1\n"})
    with working_copy(folder) as copy:
        assert dict(copy.files()) == {"a.py": "x = 1\n", "b.py": "y = 1\n"} and len(copy.commit) == 64
        open_archive(copy.snapshot()).close()


@pytest.mark.parametrize("is_git", [True, False])
def test_repositories_inside_a_folder_are_taken_whole(tmp_path, is_git):
    """Checkouts, one in another, one with long hashes, one without a commit, and submodules."""
    folder = tmp_path / "outer"
    write(folder, {"a.py": "a\n", ".gitignore": "*.log\n"})
    expected = {"a.py", ".gitignore"}
    if is_git:
        repository(folder, {})
        other = repository(tmp_path / "other", {"m.py": "m\n", "kept.log": "m\n"})
        for name in ("module", "not here"):
            git(folder, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), name)
        git(folder, "commit", "-q", "-m", "submodules")
        git(folder, "submodule", "deinit", "-q", "-f", "not here")
        git(folder, "worktree", "add", "-q", "another", "-b", "another")
        write(folder, {"module/m.py": "changed\n", "module/new.py": "new\n"})
        expected |= {".gitmodules", "module/m.py", "module/kept.log", "module/new.py", "not here"}
    inner = repository(folder / "some where/in ner", {"i.py": "i\n", "kept.log": "i\n", ".gitignore": "*.tmp\n"})
    write(repository(inner / "deep", {"d.py": "d\n"}), {"d.py": "changed\n", "e.py": "e\n"})
    (inner / "link").symlink_to("i.py")
    write(inner, {"x.tmp": "ignored\n"})
    expected |= {f"some where/in ner/{name}" for name in ("i.py", "kept.log", ".gitignore", "link")}
    expected |= {f"some where/in ner/deep/{name}" for name in ("d.py", "e.py")}
    for name, options in (("fresh", []), ("long", ["--object-format=sha256"])):
        (folder / name).mkdir()
        git(folder / name, "init", "-q", *options)
        write(folder / name, {"f.py": "f\n"})
        expected.add(f"{name}/f.py")
    git(folder / "long", "add", "-A")
    git(folder / "long", "commit", "-q", "-m", "long")
    before = everything(folder)
    with working_copy(folder) as copy:
        assert set(copy.paths()) == expected
        assert copy.files()["some where/in ner/deep/d.py"] == "changed\n"
        assert not is_git or copy.files()["module/m.py"] == "changed\n"
        with (
            os.fdopen(open_archive(copy.snapshot()).descriptor, "rb") as file,
            tarfile.open(fileobj=file) as archive,
        ):
            assert {one.name for one in archive if not one.isdir()} == expected - {"not here"}
    assert everything(folder) == before
    apply(folder, "--- a/some where/in ner/i.py\t\n+++ b/some where/in ner/i.py\t\n@@ -1 +1 @@\n-i\n+j\n")
    assert (inner / "i.py").read_text() == "j\n"
    if is_git:
        apply(folder, "--- a/module/m.py\n+++ b/module/m.py\n@@ -1 +1 @@\n-changed\n+fixed\n")
        assert (folder / "module/m.py").read_text() == "fixed\n"


@pytest.mark.parametrize("files", [{}, {".venv/a.py": "x\n"}, {".gitignore": "*\n", "a.py": "x\n"}])
@pytest.mark.parametrize("is_git", [True, False])
def test_a_folder_without_files_is_refused(tmp_path, is_git, files):
    write(tmp_path, files)
    if is_git:
        git(tmp_path, "init", "-q")
    with pytest.raises(InvalidInput, match="has no files to work on"), working_copy(tmp_path):
        pass


@pytest.mark.parametrize("name", ["build", "build/deep", "venv"])
def test_a_folder_of_a_checkout_that_is_ignored_is_refused(tmp_path, name):
    folder = repository(tmp_path / "here", {"a.py": "x\n", ".gitignore": "build/\n", "src/b.py": "x\n"})
    write(folder, {"build/deep/c.py": "x\n", "venv/d.py": "x\n"})
    (folder / "new").mkdir()
    write(folder, {"left/__pycache__/e.pyc": "x", "left/deep/.mypy_cache/f/g": "x"})
    (tmp_path / "link").symlink_to(folder / name)
    for path in (folder / name, tmp_path / "link"):
        with pytest.raises(InvalidInput, match=f"{name} has no files to work on"), working_copy(path):
            pass
    for path in (folder, folder / "src", folder / "new", folder / "left"):
        with working_copy(path) as copy:
            assert {"a.py", "src/b.py"} < set(copy.paths())
    git(folder, "add", "-f", name)
    with working_copy(folder / name) as copy:
        assert any(path.startswith(f"{name}/") for path in copy.paths())


def test_a_repository_without_a_commit_and_a_plain_folder_are_copied(tmp_path):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    git(fresh, "init", "-q")
    plain = tmp_path / "plain"
    for folder in (fresh, plain):
        write(folder, {"a.py": "x\n", "p/__pycache__/a.pyc": "no", ".venv/bin/python": "no", "p/b.txt": b"\0"})
        before = everything(folder)
        with working_copy(folder) as copy:
            assert sorted(copy.paths()) == ["a.py", "p/b.txt"]
        assert everything(folder) == before


def test_too_much_is_refused(tmp_path):
    write(tmp_path, {"data.bin": b"x" * 2000})
    with pytest.raises(InvalidInput, match="gitignore"), working_copy(tmp_path, max_bytes=1000):
        pass
    with pytest.raises(InvalidInput, match="no folder"), working_copy(tmp_path / "none"):
        pass


def test_nothing_is_left_after_an_error_inside(checkout):
    with pytest.raises(KeyError), working_copy(checkout) as copy:
        folder = copy.path
        raise KeyError
    assert not folder.parent.exists()


GOOD = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-x\n+y\n"
BAD = "--- a/b.txt\n+++ b/b.txt\n@@ -1 +1 @@\n-x\n+y\n"
LINK = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n"
ESCAPE = "--- /dev/null\n+++ b/../out.txt\n@@ -0,0 +1 @@\n+x\n"


@pytest.mark.parametrize("is_git", [True, False])
def test_patches_are_applied_whole_or_not_at_all(tmp_path, is_git):
    folder = tmp_path / "here"
    if is_git:
        # Not what is committed, but what is there, counts.
        write(repository(folder, {"a.txt": "old\n", "dir/c": ""}), {"a.txt": "x\n"})
    else:
        # A folder in somebody's repository that is none of its files would be passed over by git.
        write(folder, {"a.txt": "x\n", "dir/c": ""})
    for patch, message in [
        (GOOD + BAD, "does not fit"),
        (LINK, "symbolic link"),
        (ESCAPE, "does not fit"),
        ("x", "fit"),
        (None, "no patch"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            apply(folder, patch)
        assert tree(folder) == {"a.txt": b"x\n", "dir/c": b""}
    apply(folder, GOOD)
    assert tree(folder) == {"a.txt": b"y\n", "dir/c": b""}
    assert not (tmp_path / "out.txt").exists()


def test_a_patch_goes_to_the_top_of_the_checkout(tmp_path):
    folder = repository(tmp_path / "repo", {"a.txt": "x\n", "dir/c": ""})
    apply(folder / "dir", GOOD)
    assert (folder / "a.txt").read_text() == "y\n"


def test_files_of_tests():
    assert [is_test(path) for path in ("tests/a.py", "test/a.py", "src/tests/a.py", "test_a.py")] == [
        True,
        True,
        False,
        False,
    ]
    for path in ("tests/a.py", "src/pkg/tests/data.txt", "test_a.py", "src/a_test.py", "src/conftest.py"):
        assert is_test_file(path)
    for path in (
        "src/testing.py",
        "django/test/client.py",
        "sympy/testing/x.py",
        "src/latest.py",
        "contest.py",
        "test_data.txt",
    ):
        assert not is_test_file(path)
