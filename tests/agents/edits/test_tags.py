"""`<tag>...</tag>` in answers."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plait.agents.edits.base import EditError
from plait.agents.edits.tags import extract


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("<test>\nx\n</test>", "x"),
        ("Words <test>x</test> words", "x"),
        ("<test>\r\n\n  x\n\n</test>\n", "\n  x\n"),
        ("<test></test>", ""),
        # Code may hold the closing tag, and words the opening one.
        ('<test>\n```python\nprint("</test>")\n```\n</test>', '```python\nprint("</test>")\n```'),
        ("<test>\nx = '''\n</test>\n'''\n</test>", "x = '''\n</test>\n'''"),
        ("I put it into `<test>` and `</test>`:\n<test>\nx\n</test>\n", "x"),
        ("<test>\nx\n</test>\nIt ends with `</test>`.", "x"),
    ],
)
def test_one_tag(text, inner):
    assert extract(text, "test") == {"test": inner}
    assert extract(text, "done", "test", "edit") == {"test": inner}


def test_a_tag_inside_another_is_text():
    assert extract("<edit>\n<test>\nx\n</test>\n</edit>", "edit", "test") == {"edit": "<test>\nx\n</test>"}


@pytest.mark.parametrize(
    ("text", "is_cut", "message"),
    [
        ("words", False, "has no <edit>...</edit> or <test>...</test>: write exactly one"),
        ("words", True, "was cut off before it"),
        ("<edit>\nx", True, "<edit> has no </edit>: the answer was cut off at its length limit"),
        ("<edit>\nx", False, "<edit> has no </edit>: close it"),
        ("<edit>\nx\n</edit>\n<edit>\ny\n</edit>", False, r"opens <edit> 2 times \(lines 1, 4\)"),
        ("<edit>\nx\n</edit>\n<test>\ny\n</test>", False, "has <edit> and <test>: write exactly one"),
    ],
)
def test_what_a_model_is_told(text, is_cut, message):
    with pytest.raises(EditError, match=message):
        extract(text, "edit", "test", is_cut=is_cut)


@given(st.text(), st.text(), st.text())
def test_any_text_comes_back(before, inner, after):
    # A carriage return before the last newline is a part of that.
    assume("test>" not in before + inner + after and not inner.endswith("\r"))
    assert extract(f"{before}<test>\n{inner}\n</test>{after}", "test") == {"test": inner}
