"""Whole files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agents.edits.base import EditError, Excerpt, NothingFound, Source
from plait.agents.edits.files import Files
from plait.agents.edits.reader import read_edit
from plait.tests.agents.sources import texts

FORM = Files()


def source(**files):
    files = {name.replace("_", "."): text for name, text in files.items()}
    return Source(files=files, excerpts=[Excerpt(path=name, text=text) for name, text in files.items()])


def test_files_are_written_made_and_deleted():
    text = '<file path="a.txt">\nx\n</file>\n<file path=new/b.txt>\n\ny\n</file>\n<delete path="c.txt"/>'
    assert FORM.parse(text, source(a_txt="a\n", c_txt="")) == {"a.txt": "x\n", "new/b.txt": "\ny\n", "c.txt": None}


def test_the_example_of_the_prompt_is_an_edit():
    files = {"shop/errors.py": "class EmptyCart(Exception):\n    pass\n", "shop/old_cart.py": ""}
    here = Source(files=files, excerpts=[Excerpt(path=name, text=text) for name, text in files.items()])
    edit = read_edit(FORM, FORM.example, here)
    assert edit["shop/old_cart.py"] is None and "NoSuchItem" in edit["shop/errors.py"]
    assert "<edit>" in FORM.instructions()


def test_fenced_blocks_after_a_path():
    assert read_edit(FORM, "I write:\n\n`a.py`:\n```python\nx = 2\n```\n", source(a_py="x = 1\n")) == {
        "a.py": "x = 2\n"
    }
    assert FORM.parse("new/b.txt\n```\nx\n```\n", source()) == {"new/b.txt": "x\n"}
    text = '<file path="a.py">\n```python\nx = 2\n```\n</file>'
    assert FORM.parse(text, source(a_py="x = 1\n")) == {"a.py": "x = 2\n"}


def test_a_file_may_hold_the_closing_tag():
    text = '<file path="a.txt">\n</file>\nx\n</file>\n<file path="b.txt">\n</file>'
    assert FORM.parse(text, source()) == {"a.txt": "</file>\nx\n", "b.txt": ""}


def test_ends_are_those_of_the_file():
    assert FORM.parse('<file path="a.txt">\nx\nb\n</file>', source(a_txt="a\r\nb")) == {"a.txt": "x\r\nb"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words", "there is no file: write"),
        ('<file path="a.txt">\nx', "a.txt: </file> is missing"),
        ('<file path="a.txt">\na\n</file>', "changes nothing"),
        ('<file path="a.txt">\nx\n</file><file path="b.txt"></file>\n<file path="a.txt">\ny\n</file>', "twice"),
        ('<file path="n">\nx\n</file>\n<file path="n/m/a.txt">\nx\n</file>', "makes n a file, and n/m/a.txt below it"),
        ('<file path="../a.txt">\nx\n</file>', "without '..'"),
        ('<file path="part.py">\nx\n</file>', "not shown whole"),
        ('<file path="a.txt/b">\nx\n</file>', "a.txt is no folder"),
        ('<delete path="n.txt"/>', "no file n.txt"),
        ('<file path="n.py">\ndef\n</file>', "no valid Python"),
        ('<file path="link">\nx\n</file>', "no text file"),
    ],
)
def test_what_a_model_is_told(text, message):
    files = {"a.txt": "a\n", "part.py": "x = 1\n"}
    shown = [Excerpt(path="a.txt", text="a\n"), Excerpt(path="part.py", text="x = 1\n", name="f")]
    with pytest.raises(EditError, match=message):
        FORM.parse(text, Source(files=files, excerpts=shown, paths=[*files, "link"]))


@given(texts(), texts(ends=("\n",)))
def test_what_is_written_is_read(old, new):
    new = new if new.endswith("\n") or not new else new + "\n"
    text = f'<file path="a.txt">\n{new}</file>'
    kept = old.replace("\r\n", "\n").removesuffix("\n") != new.removesuffix("\n")
    if kept:
        edit = FORM.parse(text, source(a_txt=old))["a.txt"].replace("\r\n", "\n")
        assert edit.removesuffix("\n") == new.removesuffix("\n")
    assert FORM.parse(text, source(b_txt=old)) == {"a.txt": new}


@given(st.text())
def test_any_text_is_an_edit_or_an_error(text):
    for whole in (text, f'<file path="{text}">\nx\n</file>', f'<file path="x">{text}</file>', f"a.txt\n```\n{text}"):
        try:
            FORM.parse(whole, source(a_txt=""))
        except EditError as error:
            assert isinstance(error, NothingFound) or str(error)
