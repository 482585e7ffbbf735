"""Patches against git itself: what `git diff` prints, and what `git apply` makes of ours."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.agents.patches import is_empty, make_patch, quoted, touched
from plait.agents.unified import PatchError, read_patch
from plait.tests.agents.sources import changed, git, repository, texts, tree, write

SLOW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = ("a.py", "b c.txt", "dir/é.py", 'q"\\.md', "z")


@st.composite
def edits(draw):
    """Files, and an edit of them."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    old, edit = {}, {}
    for name in names:
        kind = draw(st.sampled_from(["new", "removed", "changed", "any"]))
        if kind != "new":
            old[name] = draw(texts())
        if kind == "removed":
            edit[name] = None
        elif kind == "changed":
            edit[name] = draw(changed(old[name]))
        else:
            edit[name] = draw(texts())
    return old, edit


@SLOW
@given(edits())
def test_git_applies_them_to_the_byte(tmp_path_factory, drawn):
    old, edit = drawn
    folder = tmp_path_factory.mktemp("apply")
    try:
        repository(folder, old)
        patch = make_patch(old, edit)
        if patch:
            git(folder, "apply", "--index", "--whitespace=nowarn", "-", stdin=patch.encode())
        expected = {name: text.encode() for name, text in {**old, **edit}.items() if text is not None}
        assert tree(folder) == expected
        assert git(folder, "diff", "HEAD", "--no-renames", "--name-only", "-z").split("\0")[:-1] == sorted(
            touched(patch), key=lambda name: name.encode()
        )
    finally:
        shutil.rmtree(folder)


@SLOW
@given(st.data())
def test_they_are_what_git_prints(tmp_path_factory, data):
    """With one change a file there is one shortest diff only where lines do not repeat: headers and format are compared
    on such files."""
    lines = [f"line {number}" for number in range(data.draw(st.integers(0, 30)))]
    old_text = "".join(line + "\n" for line in lines)
    new_lines = list(lines)
    for number in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(new_lines)))
        if data.draw(st.booleans()):
            new_lines[at : at + 1] = []
        else:
            new_lines.insert(at, f"new {number}")
    new_text = "".join(line + "\n" for line in new_lines)
    if data.draw(st.booleans()):
        old_text = old_text.removesuffix("\n")
    if data.draw(st.booleans()):
        new_text = new_text.removesuffix("\n")
    name = data.draw(st.sampled_from(NAMES))
    folder = tmp_path_factory.mktemp("print")
    try:
        repository(folder, {name: old_text})
        write(folder, {name: new_text})
        printed = git(folder, "diff", "--no-color", "--no-indent-heuristic")
    finally:
        shutil.rmtree(folder)
    printed = re.sub(r"(?m)^index .*\n", "", printed)
    # Behind `@@` git repeats a line above the hunk.
    printed = re.sub(r"(?m)^(@@ .* @@).*$", r"\1", printed)
    assert make_patch({name: old_text}, {name: new_text}) == printed


def test_empty_files_come_and_go(tmp_path):
    repository(tmp_path, {"old": "", "run": "x\n"})
    patch = make_patch({"old": "", "run": "x\n"}, {"old": None, "new": "", "run": "x\n"})
    assert patch == ("diff --git a/new b/new\nnew file mode 100644\ndiff --git a/old b/old\ndeleted file mode 100644\n")
    git(tmp_path, "apply", "-", stdin=patch.encode())
    assert tree(tmp_path) == {"new": b"", "run": b"x\n"}
    assert touched(patch) == ["new", "old"]


def test_the_mode_of_a_removed_program():
    assert "deleted file mode 100755" in make_patch({"run": "x\n"}, {"run": None}, executable={"run"})


def test_the_same_text_is_no_patch():
    assert make_patch({"a": "x"}, {"a": "x"}) == ""
    assert is_empty("") and is_empty("\n") and not is_empty(make_patch({"a": "x"}, {"a": "y"}))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1))
def test_quoted_paths_are_read_back(name):
    patch = make_patch({name: "x\n"}, {name: "y\n"})
    assert touched(patch) == [name]
    assert quoted("plain name.py") == "plain name.py"


@SLOW
@given(edits())
def test_reading_gives_the_lines(drawn):
    old, edit = drawn
    for file in read_patch(make_patch(old, edit)):
        before = (old.get(file.old) or "") if file.old is not None else ""
        after = (edit.get(file.new) or "") if file.new is not None else ""
        for hunk in file.hunks:
            assert hunk.start is not None
            start = max(hunk.start - 1, 0)
            bare = [line.removesuffix("\r") for line in before.split("\n")]
            wanted = [line.removesuffix("\r") for line in hunk.old]
            assert bare[start : start + len(wanted)] == wanted
            assert "\n".join(line.removesuffix("\r") for line in hunk.new) in after.replace("\r\n", "\n") + "\n"


FOREIGN = """\
From abc Mon Sep 17 00:00:00 2001
Subject: words
---
 a.py | 2 +-

diff --git a/a.py b/a.py
index 1234567..89abcde 100644
--- a/a.py
+++ b/a.py
@@ -1,3 +1,3 @@ def f():
 x
--- a
+++ b
 y
diff --git a/old.py b/new.py
similarity index 100%
rename from old.py
rename to new.py
diff --git a/logo.png b/logo.png
new file mode 100644
Binary files /dev/null and b/logo.png differ
-- 
2.39.5
"""


def test_foreign_patches_are_read():
    files = read_patch(FOREIGN)
    assert [(file.old, file.new, len(file.hunks)) for file in files] == [
        ("a.py", "a.py", 1),
        ("old.py", "new.py", 0),
        (None, "logo.png", 0),
    ]
    assert files[0].hunks[0].old == ["x", "-- a", "y"] and files[0].hunks[0].new == ["x", "++ b", "y"]
    assert files[2].is_binary
    assert touched(FOREIGN) == ["a.py", "old.py", "new.py", "logo.png"]


PREFIXED = """\
diff --git {old}tests/t b.py {new}tests/t b.py
index 1111111..2222222 100644
--- {old}tests/t b.py\t
+++ {new}tests/t b.py\t
@@ -1 +1 @@
-x
+y
diff --git {old}a/mode {new}a/mode
old mode 100644
new mode 100755
"""


@pytest.mark.parametrize("old, new", [("i/", "w/"), ("c/", "i/"), ("1/", "2/"), ("b/", "a/"), ("old/", "new/")])
def test_the_first_folder_is_a_prefix_whatever_it_is_called(tmp_path, old, new):
    patch = PREFIXED.format(old=old, new=new)
    assert touched(patch) == ["tests/t b.py", "a/mode"]
    assert touched(patch + "@@ -1 +1 @@\nbroken\n") == ["tests/t b.py"]
    folder = repository(tmp_path / "here", {"tests/t b.py": "x\n", "a/mode": ""})
    git(folder, "apply", "-", stdin=patch.encode())
    assert git(folder, "diff", "--name-only", "-z").split("\0")[:-1] == ["a/mode", "tests/t b.py"]


CHANGE, NEW, REMOVED = "@@ -1 +1 @@\n-x\n+y\n", "@@ -0,0 +1 @@\n+y\n", "@@ -1 +0,0 @@\n-x\n"
PARTS = [
    f"--- t.py\n+++ t.py\n{CHANGE}",
    f"--- a/t.py\n+++ t.py\n{CHANGE}",
    f"--- t.py\t2020-01-01\n+++ b/t.py\t2020-01-02\n{CHANGE}",
    f"--- a/s/t.py\n+++ b/s/t.py\n{CHANGE}",
    f"--- s/t.py\n+++ s/t.py\n{CHANGE}",
    f"--- a/s/t.py.orig\n+++ b/s/t.py\n{CHANGE}",
    f"--- a/s/t.py\n+++ b/s/t.py.new\n{CHANGE}",
    f"--- a/x.py\n+++ b/s//t.py\n{CHANGE}",
    f"--- /dev/null\n+++ t.py\n{NEW}",
    f"--- /dev/null\n+++ b/s/t.py\n{NEW}",
    f"--- a/s/t.py\n+++ /dev/null\n{REMOVED}",
    f"diff --git a/s/t.py b/s/t.py\n--- a/s/t.py\n+++ b/s/t.py\n{CHANGE}",
    f"diff --git a/s/t.py b/s/t.py\n--- t.py\n+++ t.py\n{CHANGE}",
    f"diff --git a/t.py b/t.py\n--- t.py\n+++ t.py\n{CHANGE}",
    "diff --git a/x.py b/s/t.py\nsimilarity index 100%\nrename from x.py\nrename to s//t.py\n",
    f"diff --git a/q.py b/q.py\nold mode 100644\nnew mode 100755\nwords\n--- t.py\n+++ t.py\n{CHANGE}",
]


@pytest.mark.parametrize("first", ["", *PARTS])
def test_paths_are_those_that_git_finds(tmp_path, first):
    """Where git finds any."""
    seen = 0
    for second in PARTS:
        data = (first + second).encode()
        done = subprocess.run(["git", "apply", "--numstat", "-z", "-"], cwd=tmp_path, input=data, capture_output=True)
        if done.returncode == 0:
            found = [entry.split("\t", 2)[2] for entry in done.stdout.decode().split("\0")[:-1]]
            assert [file.new or file.old for file in read_patch(first + second)] == found, first + second
            seen += 1
    assert seen > 0


def test_a_model_may_leave_the_prefix_out():
    for old, new in (("", ""), ("a/", "b/")):
        files = read_patch(PREFIXED.format(old=old, new=new), is_bare=True)
        assert [(file.old, file.new) for file in files][:1] == [("tests/t b.py", "tests/t b.py")]


def test_patches_without_git_headers_and_with_wrong_counts():
    text = (
        "--- x.py\t2020-01-01\n+++ x.py\t2020-01-02\n@@ -1,9 +1,9 @@\n a\n\n-b\n+c\n\n"
        "--- a/y.py\n+++ /dev/null\n@@ @@\n-z\n"
    )
    first, second = read_patch(text)
    assert (first.old, first.new) == ("x.py", "x.py")
    assert first.hunks[0].old == ["a", "", "b"] and first.hunks[0].new == ["a", "", "c"]
    assert (second.old, second.new, second.hunks[0].start) == ("a/y.py", None, None), "the first has no prefix"


@given(st.text())
def test_nothing_is_no_crash(text):
    touched(text)
    try:
        read_patch("--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n" + text)
    except PatchError as error:
        assert "line" in str(error)


@pytest.mark.parametrize("header", [f"@@ -{'9' * 5000} +1 @@", f"@@ -1 +1,{'9' * 5000} @@"])
def test_numbers_and_escapes_that_cannot_be_are_read(header):
    assert touched(f'--- "a/\\8"\n+++ "b/\\8"\n{header}\n-x\n+y\n') == ["8"]


def test_lines_that_are_none_are_named():
    with pytest.raises(PatchError, match="line 5: begin it with"):
        read_patch("--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\nb\n")
    with pytest.raises(PatchError, match="line 1: a hunk before"):
        read_patch("@@ -1 +1 @@\n-a\n+b\n")
