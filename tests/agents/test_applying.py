"""Patches on a commit, against what git does with them in a checkout."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import InvalidInput
from plait.agents import working_copy
from plait.agents.applying import applicable
from plait.agents.git import GitError
from plait.agents.repository import Repository
from plait.agents.working_copy import apply
from plait.tests.agents.sources import git, repository, tree, write

LINES = st.sampled_from(["a", "b", "c d", "\f", "é"])
FIT = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-x\n+y\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return repository(tmp_path_factory.mktemp("applying") / "own", {"a.txt": "x\n", "empty": "", "dir/b c": "a\nb\n"})


@pytest.mark.parametrize(
    "patch, expected",
    [
        (FIT, True),
        (FIT.removesuffix("\n"), False),
        (FIT.replace("-x", "-z"), False),
        (FIT + FIT.replace("a.txt", "none"), False),
        ("I found no fix, sorry\n", False),
        ("diff --git a/a.txt b/a.txt\nindex 1111111..2222222 100644\n", False),
        ("diff --git a/a.txt b/a.txt\nold mode 100644\nnew mode 100755\n", True),
        ("diff --git a/new b/new\nnew file mode 100644\n", True),
        ("diff --git a/empty b/empty\ndeleted file mode 100644\n", True),
        ("--- /dev/null\n+++ b/../out\n@@ -0,0 +1 @@\n+x\n", False),
        ("\ud800\0\n", False),
    ],
)
def test_what_applies(checkout, tmp_path, patch, expected):
    before = tree(checkout)
    write(checkout, {"a.txt": "not committed\n"})
    git(tmp_path, "clone", "-q", "--bare", str(checkout), "bare.git")
    for path in (checkout, tmp_path / "bare.git"):
        assert applicable(Repository(path), [patch, FIT]) == [expected, True]
    write(checkout, {"a.txt": "x\n"})
    assert tree(checkout) == before


@settings(max_examples=15, deadline=None)
@given(st.lists(LINES, max_size=3), st.lists(LINES, min_size=1, max_size=3))
def test_it_is_what_git_says_in_a_checkout(checkout, old, new):
    lines = "".join([*(f"-{line}\n" for line in old), *(f"+{line}\n" for line in new)])
    patch = f"--- a/dir/b c\t\n+++ b/dir/b c\t\n@@ -{min(len(old), 1)},{len(old)} +1,{len(new)} @@\n{lines}"
    done = subprocess.run(["git", "apply", "--check", "-"], cwd=checkout, input=patch.encode(), capture_output=True)
    assert applicable(Repository(checkout), [patch]) == [done.returncode == 0]


def made(mode: str) -> str:
    return f"diff --git a/new b/new\nnew file mode {mode}\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+/etc\n"


POINTED = "@@ -1 +1 @@\n-a.txt\n\\ No newline at end of file\n+/etc\n\\ No newline at end of file\n"
UNSAFE = [
    *map(
        made,
        (
            "120000",
            "0120000",
            "100120000",
            "1000120000",
            " 120000",
            "120000\r",
            "160000",
            "104755",
            "040000",
            "1000100644",
        ),
    ),
    f"--- a/link\n+++ b/link\n{POINTED}",
    f"diff --git a/link b/link\nindex 1234567..89abcde 120000\n--- a/link\n+++ b/link\n{POINTED}",
    "diff --git a/link b/new\ncopy from link\ncopy to new\n",
    "diff --git a/link b/new\nrename from link\nrename to new\n",
    f"diff --git a/link b/new\ncopy from link\ncopy to new\n--- a/link\n+++ b/new\n{POINTED}",
    "--- a/link\n+++ /dev/null\n@@ -1 +0,0 @@\n-a.txt\n\\ No newline at end of file\n",
]


@pytest.mark.parametrize("is_git", [True, False])
def test_symbolic_links_are_neither_made_nor_touched(tmp_path, is_git):
    folder = tmp_path / "here"
    write(folder, {"a.txt": "x\n"})
    (folder / "link").symlink_to("a.txt")
    if is_git:
        repository(folder, {})
        assert applicable(Repository(folder), [*UNSAFE, FIT, made("100755")]) == [False] * len(UNSAFE) + [True, True]
    for patch in UNSAFE:
        with pytest.raises(InvalidInput, match=r"symbolic link"):
            apply(folder, patch)
        assert (folder / "link").readlink().name == "a.txt" and not (folder / "new").is_symlink()
    apply(folder, FIT + made("100755"))
    assert tree(folder) == {"a.txt": b"y\n", "link": b"y\n", "new": b"/etc\n"}


@pytest.mark.parametrize("mode", ["100600", "100664", "100775", "100777"])
def test_modes_that_git_takes_for_those_of_plain_files(tmp_path, mode):
    folder = repository(tmp_path / "here", {"a.txt": "x\n"})
    changed = f"diff --git a/a.txt b/a.txt\nold mode 100644\nnew mode {mode}\n"
    assert applicable(Repository(folder), [made(mode), changed]) == [True, True]
    apply(folder, made(mode) + changed)
    assert tree(folder) == {"a.txt": b"x\n", "new": b"/etc\n"}


def test_blanks_at_the_ends_of_lines_apply_whatever_a_checkout_says_of_them(tmp_path):
    folder = repository(tmp_path / "here", {"a.txt": "x\n"})
    git(folder, "config", "apply.whitespace", "error")
    patch = FIT.replace("+y", "+y ")
    assert applicable(Repository(folder), [patch]) == [True]
    apply(folder, patch)
    assert tree(folder) == {"a.txt": b"y \n"}


def added(path: str) -> str:
    return f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+new\n"


def removed(path: str) -> str:
    return f"diff --git a/{path} b/{path}\ndeleted file mode 100644\n--- a/{path}\n+++ /dev/null\n@@ -1 +0,0 @@\n-y\n"


def moved(way: str, old: str, new: str) -> str:
    return f"diff --git a/{old} b/{new}\nsimilarity index 100%\n{way} from {old}\n{way} to {new}\n"


@pytest.mark.parametrize("is_git", [True, False])
@pytest.mark.parametrize(
    ("patch", "fits"),
    [
        (added("b.py/x"), False),
        (added("b.py/x/y"), False),
        (added("dir"), False),
        (moved("copy", "b.py", "b.py/x"), False),
        (added("n") + added("n/x"), False),
        (removed("dir/c") + added("dir"), False),
        (removed("b.py") + added("b.py/x"), True),
        (added("b.py/x") + removed("b.py"), True),
        (moved("rename", "b.py", "b.py/x"), True),
        (removed("dir/c") + removed("dir/d/e") + added("dir"), True),
    ],
)
def test_a_file_where_a_folder_has_to_be_keeps_all_of_a_patch_out(tmp_path, is_git, patch, fits):
    before = {"a.txt": "x\n", "b.py": "y\n", "dir/c": "y\n", "dir/d/e": "y\n"}
    folder = tmp_path / "here"
    if is_git:
        assert applicable(Repository(repository(folder, before)), [FIT + patch]) == [fits]
    else:
        write(folder, before)
    if fits:
        apply(folder, FIT + patch)
        assert tree(folder)["a.txt"] == b"y\n"
    else:
        with pytest.raises(InvalidInput, match="the patch makes"):
            apply(folder, FIT + patch)
        assert tree(folder) == {name: text.encode() for name, text in before.items()}


def test_what_cannot_be_written_to_the_end_is_put_back(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    before = {"a.txt": "x\n", "dir/b": "y\n", "last/run": "y\n"}
    write(folder, before)
    (folder / "dir/b").chmod(0o755)
    (folder / "empty").mkdir()
    real = working_copy.git

    def stopping(*arguments, **options):
        done = real(*arguments, **options)
        if "--check" in arguments or "apply" not in arguments:
            return done
        (folder / "last/run").write_text("ha")
        raise GitError("no space left on device")

    monkeypatch.setattr(working_copy, "git", stopping)
    mode = "diff --git a/last/run b/last/run\nold mode 100644\nnew mode 100755\n"
    with pytest.raises(InvalidInput, match="no space left"):
        apply(folder, FIT + removed("dir/b") + added("new/deep/c") + added("empty") + mode)
    assert tree(folder) == {name: text.encode() for name, text in before.items()}
    assert sorted(one.name for one in folder.iterdir()) == ["a.txt", "dir", "empty", "last"]
    assert [(folder / name).stat().st_mode & 0o111 for name in ("dir/b", "last/run")] == [0o111, 0]
