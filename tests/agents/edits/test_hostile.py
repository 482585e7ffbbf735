"""Answers that go wrong at length: every form takes time that grows with the text, and short messages come back."""

from __future__ import annotations

import time

import pytest

from plait.agents.edits.base import FORMS, EditError, Excerpt, Source
from plait.agents.edits.reader import read_edit

FILE = "".join(f"value = {number % 7}\n" for number in range(3000))
SOURCE = Source(files={"a.py": FILE}, excerpts=[Excerpt(path="a.py", text=FILE)])
LONG = 100_000

TEXTS = {
    "blanks": " " * LONG,
    "block": "<<<< SEARCH" + " " * LONG + "x\n",
    "lines": "<<<< SEARCH a.py\n" + "value = 8\n" * 5000 + "==========\nx\n>>>> REPLACE\n",
    "dividers": "<<<< SEARCH a.py\n" + "==========\n" * 3000 + ">>>> REPLACE\n",
    "file": "<file path=" + " " * LONG + "\n",
    "delete": "<delete path=" + " " * LONG + "\n",
    "path": f'<file path="{"x" * LONG}">\n</file>',
    "fences": "```\n" * 10_000,
    "name": "a" * LONG + "\n```python\ndef f(): pass\n```",
    "names": "::" * LONG + "\n```python\ndef f(): pass\n```",
    "references": "a.py::f b.py::f " * 5_000 + "\n```python\ndef f(): pass\n```",
    "words": "a b " * 10_000 + "::f:" * 10_000 + "\n```python\ndef f(): pass\n```",
    "hunks": "--- a/a.py\n+++ b/a.py\n" + "@@ -1,2 +1,2 @@\n" * 10_000,
    "headers": "--- a/a.py\n+++ b/a.py\n" * 10_000,
    "tags": "<edit>" * 10_000,
    "closings": "<edit>" + "</edit>\n" * 10_000,
    "quotes": 'diff --git "' + "\\" * LONG,
}


@pytest.mark.parametrize("name", FORMS.names())
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_long_answers(name, text):
    form = FORMS.find(name)()
    start = time.process_time()
    with pytest.raises(EditError) as caught:
        read_edit(form, text, SOURCE)
    assert time.process_time() - start < 5
    assert len(str(caught.value)) < 3000
    assert str(caught.value).count("\n") <= 13


def test_every_form_is_known_by_its_name():
    for name in ("blocks", "functions", "files", "diff"):
        assert FORMS.find(name).name == name
