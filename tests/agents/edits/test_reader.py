"""Whole answers: which tags are the edit's, and which are lines of a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agents.edits.base import FORMS, EditError, Excerpt, Source
from plait.agents.edits.reader import read_edit

BLOCK = "<<<< SEARCH p.txt\n{}==========\n{}>>>> REPLACE\n"
FILE = '<file path="{}">\n{}</file>\n'
DIFF = "--- {}\n+++ {}\n@@ {} @@\n{}"


def read(form, text, old="a\n\nb\n"):
    source = Source(files={"p.txt": old}, excerpts=[Excerpt(path="p.txt", text=old)])
    return read_edit(FORMS.find(form)(), text, source)


@pytest.mark.parametrize(
    "form, parts, edit",
    [
        ("blocks", [BLOCK.format("a\n", "A\n"), BLOCK.format("b\n", "B\n")], {"p.txt": "A\n\nB\n"}),
        ("files", [FILE.format("p.txt", "A\n"), FILE.format("q.txt", "B\n")], {"p.txt": "A\n", "q.txt": "B\n"}),
        (
            "diff",
            [
                DIFF.format("a/p.txt", "b/p.txt", "-1,2 +1,2", "-a\n+A\n \n"),
                DIFF.format("/dev/null", "b/q.txt", "-0,0 +1,1", "+B\n"),
            ],
            {"p.txt": "A\n\nb\n", "q.txt": "B\n"},
        ),
    ],
)
def test_several_tags_are_one_edit_unless_something_of_it_stands_between_them(form, parts, edit):
    first, second = (f"<edit>\n{part}</edit>\n" for part in parts)
    assert read(form, f"First:\n{first}and then:\n{second}") == edit
    with pytest.raises(EditError, match="opens <edit> 2 times"):
        read(form, first + parts[1] + second)


NEW = "--- /dev/null\n+++ b/q.txt\n@@ -0,0 +1 @@\n+B\n"


@pytest.mark.parametrize("counts", ["-1,1 +1,1", "-1,9 +1,9", "-9 +9"])
@pytest.mark.parametrize("between", ["", "Then:\n", "- the second one\n"])
def test_several_tags_of_diffs_that_count_badly(counts, between):
    tag = "<edit>\n" + DIFF.format("a/p.txt", "b/p.txt", counts, "-a\n+A\n \n") + "</edit>\n"
    assert read("diff", f"{tag}{between}<edit>\n{NEW}</edit>") == {"p.txt": "A\n\nb\n", "q.txt": "B\n"}
    for inside in ("@@ -3 +3 @@\n-b\n+B\n", NEW.replace("q.txt", "r.txt")):
        with pytest.raises(EditError, match="opens <edit> 2 times"):
            read("diff", f"{tag}{inside}<edit>\n{NEW}</edit>")


def test_tags_that_are_unchanged_lines_of_a_diff_do_not_end_it():
    lines = "-a\n+A\n </edit>\n-b\n+B\n <edit>\n"
    text = f"<edit>\n{DIFF.format('a/p.txt', 'b/p.txt', '-1 +1', lines)}{NEW}</edit>"
    with pytest.raises(EditError):
        read("diff", text, "a\n</edit>\nb\n<edit>\n")


@given(
    st.sampled_from(["blocks", "files"]),
    st.lists(st.sampled_from(["<edit>", "</edit>", "x", ""])),
    st.lists(st.sampled_from(["<edit>", "</edit>", "y", ""])),
)
def test_tags_that_are_lines_of_a_file_are_kept_or_refused(form, before, after):
    old, new = ("".join(f"{line}\n" for line in [*lines, "end"]) for lines in (before, after))
    inner = BLOCK.format(old, new) if form == "blocks" else FILE.format("p.txt", new)
    try:
        edit = read(form, f"<edit>\n{inner}</edit>", old)
    except EditError:
        assert "<edit>" in inner or old == new
    else:
        assert edit == {"p.txt": new}
