"""Patches on a commit, against what git does with them in a checkout."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.agents.applying import applicable
from plait.agents.repository import Repository
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
