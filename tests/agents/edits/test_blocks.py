"""Search/replace blocks: what they do, and what a model is told."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plait.agents.edits.base import EditError, Excerpt, NothingFound, Source
from plait.agents.edits.blocks import Blocks
from plait.tests.agents.sources import LINE, changed, texts

FORM = Blocks()
CODE = "import os\n\n\ndef f(x):\n    return x\n\n\ndef g(x):\n    return x\n"


def source(files, shown=None, paths=()):
    names = list(files) if shown is None else shown
    return Source(files=files, excerpts=[Excerpt(path=name, text=files[name]) for name in names], paths=paths)


def block(path, old, new):
    return f"<<<< SEARCH {path}\n{old}==========\n{new}>>>> REPLACE\n"


def parse(text, **files):
    return FORM.parse(text, source({name.replace("_", "."): content for name, content in files.items()}))


def test_lines_become_others():
    text = block("a.py", "def f(x):\n    return x\n", "def f(x):\n    return 2 * x\n")
    assert parse("Some words.\n" + text + "More.", a_py=CODE) == {"a.py": CODE.replace("return x", "return 2 * x", 1)}


def test_the_example_of_the_prompt_is_an_edit():
    files = {
        "shop/cart.py": "class Cart:\n    def total(self):\n        return sum(item.price for item in self.items)\n",
        "shop/old_cart.py": "",
    }
    inner = FORM.example.removeprefix("<edit>").removesuffix("</edit>")
    edit = FORM.parse(inner, source(files))
    assert set(edit) == {*files, "shop/errors.py"} and edit["shop/old_cart.py"] is None
    assert edit["shop/errors.py"] == "class EmptyCart(Exception):\n    pass\n"
    assert "item.price * item.count" in edit["shop/cart.py"]
    assert "<edit>" in FORM.instructions()


def test_markers_may_be_longer_and_shorter():
    assert parse("<<<<<<< SEARCH a.txt\na\n======\nb\n>>> REPLACE", a_txt="a\n") == {"a.txt": "b\n"}


def test_nothing_removes_the_lines():
    assert parse(block("a.txt", "b\n", ""), a_txt="a\nb\nc\n") == {"a.txt": "a\nc\n"}


@pytest.mark.parametrize(
    ("old", "search", "new", "expected"),
    [
        ("a\r\nb\r\n", "b\n", "c\nd\n", "a\r\nc\r\nd\r\n"),  # The file's own ends.
        ("a\nb\n", "b\r\n", "c\r\n", "a\nc\n"),  # The answer's do not matter.
        ("a\r\nb\nc\n", "a\nb\nc\n", "a\nb\nd\n", "a\r\nb\nd\n"),  # What stays keeps its own.
        ("\ta\n", "\ta\n", "\t\ta\n", "\t\ta\n"),
        ("a\nb", "b\n", "c\n", "a\nc\n"),  # The last line is new: it ends like one.
        ("a\nb", "a\nb\n", "c\nb\n", "c\nb"),  # It is not: it stays without an end.
        ("a\nb", "b\n", "b\nc\n", "a\nb\nc\n"),
        ("a\nb", "b\n", "", "a\n"),
        ("a\fb\u2028c\nd\n", "a\fb\u2028c\n", "e\n", "e\nd\n"),
        ("", "", "a\n", "a\n"),
        ("", "\n", "a\n", "a\n"),  # An empty file may be shown as an empty line.
    ],
)
def test_ends_of_lines_and_of_files(old, search, new, expected):
    assert parse(block("a.txt", search, new), a_txt=old) == {"a.txt": expected}


def test_a_line_of_equals_signs_in_the_text():
    old = "Title\n==========\nText\n\nOther\n==========\n"
    text = block("a.rst", "Title\n==========\nText\n", "Title\n==========\nNew\n")
    assert parse(text, a_rst=old) == {"a.rst": old.replace("Text", "New")}
    text = block("a.rst", "Other\n", "Last\n==========\nOther\n")
    assert parse(text, a_rst=old) == {"a.rst": "Title\n==========\nText\n\nLast\n==========\nOther\n==========\n"}


def test_a_search_that_begins_with_a_line_of_equals_signs():
    old = "=======\nProject\n=======\n\nText\n"
    text = block("a.rst", "=======\nProject\n=======\n", "======\nPlait\n======\n")
    assert parse(text, a_rst=old) == {"a.rst": "======\nPlait\n======\n\nText\n"}
    with pytest.raises(EditError, match=r"(?s)Line 2 of them differs; did you mean lines 1 to 2:.*Project"):
        parse(text.replace("Project", "Project name"), a_rst=old)


def test_new_and_deleted_files():
    text = block("dir/new.txt", "", "a\n") + "<<<< DELETE a.txt\n"
    assert parse(text, a_txt="x") == {"dir/new.txt": "a\n", "a.txt": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no block"),
        ("<<<< SEARCH a.py\nx\n", r"block 1 \(SEARCH a.py, line 1\): the line '>>>> REPLACE' is missing at its end"),
        ("<<<< SEARCH a.py\nx\n<<<< SEARCH a.py\n", "missing before line 3"),
        ("<<<< SEARCH a.py\nx\n>>>> REPLACE", "'==========' between"),
        ("\n<<<< SEARCH\nx\n==========\n>>>> REPLACE", "line 2.*write the file's path"),
        (block("a.py", "    return x\n", "y\n"), r"occurs 2 times in a.py, at lines 5, 9: add lines"),
        (block("a.py", "", "y\n"), "SEARCH is empty, but a.py is there"),
        (block("b.py", "x\n", "y\n"), "there is no file b.py; did you mean .*You were shown: a.py, c.txt"),
        (block("a.py", "def f(x):\n", "def f(x):\n"), "changes nothing"),
        (block("a.py", "def f(x):\n", "def f(x:\n"), r"no valid Python after the edit: line 4: .*: def f\(x:"),
        (block("n.py", "", "def f(x:\n"), "n.py is no valid Python"),
        (
            block("a.py", "import os\n\n", "\n") + block("a.py", "\n\ndef f(x):\n", "\n"),
            "block 1 .* and block 2 .* line 2",
        ),
        (block("a.py", "import os\n", "\n") + "<<<< DELETE a.py\n", "deleted by another block"),
        ("<<<< DELETE a.py\n" + block("a.py", "import os\n", "\n"), "another block creates or deletes"),
        (block("n.txt", "", "a\n") * 2, "another block creates or deletes"),
        ("<<<< DELETE n.txt", "there is no file n.txt"),
        (block("n.txt", "", "a\0\n"), "NUL"),
        (block("n.txt", "", "a\ud800\n"), "half of a pair"),
    ],
)
def test_what_a_model_is_told(text, message):
    with pytest.raises(EditError, match=message):
        parse(text, a_py=CODE, c_txt="")


def test_what_comes_nearest_is_shown():
    with pytest.raises(EditError) as caught:
        parse(block("a.py", "def g(y):\n  return x\n", "y\n"), a_py=CODE)
    assert "Line 1 of them differs; did you mean lines 8 to 9:\ndef g(x):\n    return x\n" in str(caught.value)
    with pytest.raises(EditError, match="only the white space differs"):
        parse(block("a.py", "def g(x):\n  return x\n", "y\n"), a_py=CODE)
    with pytest.raises(EditError, match="but in b.txt"):
        parse(block("a.py", "only here\n", "y\n"), a_py=CODE, b_txt="only here\n")
    with pytest.raises(EditError, match="nor anything like them"):
        parse(block("a.py", "zebra % stripes\n", "y\n"), a_py=CODE)


def test_messages_are_short_however_long_the_search_is():
    old = "".join(f"value_{number} = {number}\n" for number in range(3000))
    with pytest.raises(EditError) as caught:
        parse(block("a.txt", old.replace("value_7 ", "value_x "), "y\n"), a_txt=old)
    assert len(str(caught.value).split("\n")) <= 13 and "value_7 = 7" in str(caught.value)


def test_a_file_that_was_no_python_before_need_not_be_after():
    assert parse(block("a.py", "print 1\n", "print 2\n"), a_py="print 1\n") == {"a.py": "print 2\n"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../a", "without '..'"),
        ("x/../../a", "without '..'"),
        ("/etc/passwd", "relative"),
        ("~/a", "relative"),
        ("C:/a", "relative"),
        ("x\\a", "relative"),
        (".git/hooks/pre-commit", "git's own"),
        ("x/.GIT/config", "git's own"),
        (".git./config", "git's own"),
        ("link/a", "link is no folder"),
        ("link", "no text file|is there already"),
        ("sub/a", "sub is no folder"),
        ("a.py/b", "a.py is no folder"),
        ("dir", "dir is a folder"),
        ("dir/", "folder"),
        ("logo.png", "no text file|is there already"),
        ("a\0b", "no path"),
        ("x" * 300, "too long"),
        (".", "folder"),
    ],
)
def test_paths_that_are_refused(path, message):
    files = {"a.py": "", "dir/b.py": ""}
    here = source(files, paths=[*files, "link", "sub", "logo.png"])
    for text in (block(path, "", "x\n"), f"<<<< DELETE {path}\n"):
        with pytest.raises(EditError, match=message if "SEARCH" in text else "."):
            FORM.parse(text, here)


def test_paths_are_made_regular():
    assert parse(block("./x//`a.txt`".replace("`", ""), "", "x\n")) == {"x/a.txt": "x\n"}
    assert parse(block("`a.txt`", "a\n", "x\n"), a_txt="a\n") == {"a.txt": "x\n"}


def rendered(path, old, new):
    """The change as blocks, each with as many lines around it as it takes to be unique."""
    before, after = (text.replace("\r\n", "\n").removesuffix("\n").split("\n") for text in (old, new))
    whole = list(before)
    parts = []
    taken = 0
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        assume(a >= taken)
        first, last = a, b
        while last == first or sum(whole[i : i + last - first] == whole[first:last] for i in range(len(whole))) > 1:
            assume(first > taken or last < len(whole))
            first, last = max(first - 1, taken), min(last + 1, len(whole))
        tail = whole[b:last]
        taken = last
        lines = [*whole[first:a], *after[c:d], *tail]
        parts.append(block(path, "".join(f"{x}\n" for x in whole[first:last]), "".join(f"{x}\n" for x in lines)))
    return "".join(parts)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_written_as_blocks_is_read(data):
    old = data.draw(texts(ends=("\n",)))
    new = data.draw(changed(old, line=LINE))
    assume(old.removesuffix("\n") and new.removesuffix("\n") and old.removesuffix("\n") != new.removesuffix("\n"))
    end = data.draw(st.sampled_from(["\n", "\r\n"])) if "\n" in old else "\n"
    text = rendered("a.txt", old, new)
    assume(text)
    edit = parse(text, a_txt=old.replace("\n", end))["a.txt"]
    assert edit is not None and edit.removesuffix(end) == new.removesuffix("\n").replace("\n", end)
    # The end is as it was, unless the last line is a new one.
    if old.endswith("\n"):
        assert edit.endswith("\n")


@given(st.text())
def test_any_text_is_an_edit_or_an_error(text):
    for whole in (text, f"<<<< SEARCH a.py\n{text}", block("a.py", text + "\n", text), block(text, "", "x\n")):
        try:
            FORM.parse(whole, source({"a.py": CODE}))
        except EditError as error:
            assert isinstance(error, NothingFound) or str(error)
