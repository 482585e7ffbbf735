"""Unified diffs, as models write them."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plait.agents.edits.base import EditError, Excerpt, NothingFound, Source
from plait.agents.edits.diff import Diff
from plait.agents.edits.reader import read_edit
from plait.agents.patches import make_patch
from plait.tests.agents.sources import changed, texts

FORM = Diff()
OLD = "".join(f"{letter}\n" for letter in "abcdxyefghxyij")


def source(files, paths=()):
    return Source(files=files, excerpts=[Excerpt(path=name, text=text) for name, text in files.items()], paths=paths)


def parse(hunks, old=OLD):
    return FORM.parse("--- a/a.txt\n+++ b/a.txt\n" + hunks, source({"a.txt": old}))["a.txt"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_patch_of_an_edit_is_the_edit(data):
    """Files of Windows lines and of none, with and without a last newline, new, deleted and empty ones."""
    old = {name: data.draw(texts()) for name in data.draw(st.sets(st.sampled_from(["a", "b c", "é.txt"])))}
    edit = {}
    for name, text in old.items():
        # The form says nothing of the kind of ends: they stay.
        end = "\r\n" if "\r\n" in text else "\n"
        new = data.draw(st.one_of(st.none(), changed(text.replace("\r\n", "\n"))))
        edit[name] = None if new is None else new.replace("\n", end)
        assume(edit[name] != text)
        # A file without any end of line does not say which kind it would have.
        assume(new is None or end == "\r\n" or "\r" not in text)
    if data.draw(st.booleans()):
        edit["new"] = data.draw(texts(ends=("\n",)))
    assume(edit)
    assert FORM.parse(make_patch(old, edit), source(old)) == edit


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_wrong_line_numbers_do_not_matter(data):
    old = [f"line {number}\n" for number in range(data.draw(st.integers(3, 30)))]
    new = list(old)
    at = data.draw(st.integers(0, len(new) - 1))
    new[at : at + data.draw(st.integers(0, 2))] = ["new\n"]
    lines = list(difflib.unified_diff(old, new, "a.txt", "a.txt"))
    number, count = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 99))
    header = data.draw(st.sampled_from([f"@@ -{number},{count} +{number},{count} @@\n", "@@ ... @@\n", "@@\n"]))
    text = "".join(header if line.startswith("@@") else line for line in lines)
    assert FORM.parse(text, source({"a.txt": "".join(old)})) == {"a.txt": "".join(new)}


def test_the_example_of_the_prompt_is_an_edit():
    cart = (
        "    def total(self):\n        return sum(item.price for item in self.items)\n\n"
        "    def clear(self):\n        self.items = []\n"
    )
    cart = "class Cart:\n" + cart
    edit = read_edit(FORM, FORM.example, source({"shop/cart.py": cart}))
    assert edit["shop/cart.py"] == cart.replace("item.price", "item.price * item.count")
    assert edit["shop/errors.py"] == "class EmptyCart(Exception):\n    pass\n"
    assert "<edit>" in FORM.instructions()


def test_a_fenced_diff_amid_words():
    text = "I do this:\n```diff\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+A\n```\n- and\n- that"
    assert read_edit(FORM, text, source({"a.txt": OLD})) == {"a.txt": OLD.replace("a", "A", 1)}


@given(
    st.sampled_from(["```", "```python", "    ```", "~~~", "\t~~~ sh"]),
    st.sampled_from(["{}", "```diff\n{}```\n", "Words:\n\n~~~\n{}~~~\nMore.\n", "```py\nx\n```\n{}"]),
)
def test_fences_in_files_are_lines_of_theirs(fence, around):
    files = {"README.md": f"{fence}\na\nb\n{fence}\n", "c.txt": "c\n"}
    edit = {"README.md": files["README.md"].replace("a", "A"), "b.txt": "b\n", "c.txt": "C\n"}
    text = around.format(make_patch(files, edit))
    assert FORM.parse(text, source(files)) == edit


def test_lines_that_occur_twice_need_the_right_number_or_context():
    assert parse("@@ -11,2 +11,2 @@\n x\n-y\n+Y\n") == OLD[:22] + "Y\n" + OLD[24:]
    with pytest.raises(EditError, match=r"occur 2 times in a.txt \(lines 5, 11\): add context"):
        parse("@@ -9,2 +9,2 @@\n x\n-y\n+Y\n")
    assert parse("@@ -9,2 +9,2 @@\n h\n x\n-y\n+Y\n") == OLD[:22] + "Y\n" + OLD[24:]


@pytest.mark.parametrize(
    ("old", "hunk", "new"),
    [
        ("a\nb", "-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n", "a\nc"),
        ("a\nb", "-b\n+c\n\\ No newline at end of file\n", "a\nc"),
        ("a\nb", "-b\n\\ No newline at end of file\n+c\n", "a\nc\n"),
        ("a\nb", "-b\n+c\n", "a\nc\n"),  # The marker is missing: a new last line ends like any line.
        ("a\nb", "-a\n+c\n b\n", "c\nb"),
        ("a\nb\n", "-b\n+b\n\\ No newline at end of file\n", "a\nb"),
        ("a\nb", "-b\n\\ No newline at end of file\n+b\n", "a\nb\n"),
        ("a\r\nb\r\n", " a\n-b\n+c\n", "a\r\nc\r\n"),
        ("", "+a\n", "a\n"),
        ("a\n\nb\n", " a\n\n-b\n+c\n", "a\n\nc\n"),
    ],
)
def test_ends_of_lines_and_of_files(old, hunk, new):
    assert parse("@@ -1,7 +1,7 @@\n" + hunk, old) == new


def test_renames_and_modes():
    text = "diff --git a/a.txt b/n.txt\nsimilarity index 90%\nrename from a.txt\nrename to n.txt\n"
    assert FORM.parse(text, source({"a.txt": OLD})) == {"a.txt": None, "n.txt": OLD}
    text += "--- a/a.txt\n+++ b/n.txt\n@@ -1,2 +1,2 @@\n-a\n+A\n b\n"
    assert FORM.parse(text, source({"a.txt": OLD})) == {"a.txt": None, "n.txt": OLD.replace("a", "A")}
    text = "diff --git a/a.txt b/n.txt\ncopy from a.txt\ncopy to n.txt\n"
    assert FORM.parse(text, source({"a.txt": OLD})) == {"n.txt": OLD}
    for removed in ("", "@@ -1,3 +0,0 @@\n-a\n\n-b\n"):
        assert FORM.parse(f"--- a/a.txt\n+++ /dev/null\n{removed}", source({"a.txt": OLD})) == {"a.txt": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words", "there is no diff"),
        ("@@ -1 +1 @@\n-a\n+b\n", "line 1: a hunk before"),
        ("--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n a\nb\n", "line 5: begin it with"),
        (
            "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n-q\n+Q\n",
            r"file 1 \(a.txt, line 1\), hunk at line 3: these lines are not",
        ),
        ("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1,2 @@\n+Q\n", "no unchanged or removed line"),
        ("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n a\n", "changes nothing"),
        ("--- a/n.txt\n+++ b/n.txt\n@@ -1 +1 @@\n-a\n+b\n", "there is no file n.txt"),
        ("--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1 @@\n+b\n", "a.txt is there already"),
        ("--- /dev/null\n+++ b/../n\n@@ -0,0 +1 @@\n+b\n", "without '..'"),
        ("--- /dev/null\n+++ b/link/n\n@@ -0,0 +1 @@\n+b\n", "link is no folder"),
        (
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n",
            "only plain files",
        ),
        ("diff --git a/l b/l\nnew file mode 100644\nGIT binary patch\n", "binary files"),
        ("diff --git a/a.txt b/a.txt\nold mode 100644\nnew mode 100755\n", "the mode of a file that is there"),
        ("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+b\n" * 2, "in the diff twice"),
        ("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+b\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n", "both change line 1"),
        ("--- /dev/null\n+++ /dev/null\n", "both names"),
        ("--- /dev/null\n+++ b/n\n@@ -1 +1 @@\n-a\n+b\n", "a new file has one hunk"),
        (
            "--- a/a.txt\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n",
            r"hunk at line 3: a deleted .*: write \+\+\+ b/a.txt to keep",
        ),
        ("--- a/a.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n@@ -2 +1 @@\n b\n", "hunk at line 5: a deleted file has"),
    ],
)
def test_what_a_model_is_told(text, message):
    with pytest.raises(EditError, match=message):
        FORM.parse(text, source({"a.txt": OLD}, paths=["a.txt", "link"]))


@given(st.text())
def test_any_text_is_an_edit_or_an_error(text):
    for whole in (
        text,
        f"--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n{text}",
        f"diff --git {text}\n--- {text}\n+++ b/{text}",
    ):
        try:
            FORM.parse(whole, source({"a.txt": OLD}))
        except EditError as error:
            assert isinstance(error, NothingFound) or str(error)
