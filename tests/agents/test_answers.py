"""Tags and scripts in what models write, the careless ways of small ones among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agents.answers import one_of, script
from plait.agents.edits.base import EditError

SCRIPT = "import sys\nprint(1)\nsys.exit(2)\n"


@pytest.mark.parametrize("text", ["<done></done>", "Good.\n<done>", "It is right <done/>.", "<done> </done>\n"])
def test_done_may_be_left_open(text):
    assert one_of(text, "done", "test")[0] == "done"


@pytest.mark.parametrize(
    "text",
    [
        f"<test>\n{SCRIPT}</test>",
        f"First I think.\n<test>\n```python\n{SCRIPT}```\n</test>\nThen more.",
        f"Without a tag:\n```python\n{SCRIPT}```\n",
        f"The whole script between <test> and </test>:\n```python\n{SCRIPT}```\nIt prints:\n```\n1\n```\n",
        f"<test>\n{SCRIPT}</test>\n</test>",
        f"<test>\r\n{SCRIPT}</test>".replace("\n", "\r\n"),
    ],
)
def test_a_script_is_found(text):
    tag, content = one_of(text, "done", "test")
    assert tag == "test" and script(content) == SCRIPT


@pytest.mark.parametrize("text", ["<edit>\na\n</edit>\nand\n<edit>\nb\n</edit>", "So:\n<edit>\na\n"])
def test_an_edit_is_left_to_its_reader(text):
    assert one_of(text, "done", "edit", "test") == ("edit", text)
    with pytest.raises(EditError, match="has <edit> and <test>"):
        one_of(f"{text}\n<test>\n{SCRIPT}</test>", "done", "edit", "test")


@pytest.mark.parametrize("other", [f"<test>\n{SCRIPT}</test>", "<done>", "and <done/>"])
def test_what_stands_between_two_edits_is_not_passed_over(other):
    with pytest.raises(EditError, match="write exactly one"):
        one_of(f"<edit>\na\n</edit>\n{other}\n<edit>\nb\n</edit>", "done", "edit", "test")
    text = f"<edit>\na\n{other}\n</edit>\nand\n<edit>\nb\n</edit>"
    assert one_of(text, "done", "edit", "test") == ("edit", text)


def test_a_tag_in_an_edit_that_was_cut_off_is_a_line_of_it():
    text = "<edit>\na\n<done>\nb"
    assert one_of(text, "done", "edit", "test", is_cut=True) == ("edit", text)


BLOCK = "```python\nx = 1\n```\n"


@pytest.mark.parametrize(
    "text, tag",
    [
        (f"Candidate 1:\n{BLOCK}So <choice>1</choice>", "choice"),
        (f"The edit works. <done></done>\n{BLOCK}", "done"),
        (f"{BLOCK}It works: <done/>", "done"),
        (f"Here it is: <test>{SCRIPT}</test>\n{BLOCK}", "test"),
        (f"Here it is: <test>\n```python\n{SCRIPT}```\n</test>", "test"),
        (f"I would only write <done> if it worked:\n```\n{SCRIPT}```\n", "test"),
        (f"No <choice></choice> yet, but\n```\n{SCRIPT}```\n", "test"),
        (f"```\nprint('<done></done>')\n{SCRIPT}```\n", "test"),
    ],
)
def test_a_tag_that_is_whole_goes_before_code_and_one_that_is_mentioned_does_not(text, tag):
    found, content = one_of(text, "test", "done", "choice")
    assert found == tag and (tag != "choice" or content == "1")
    assert tag != "test" or script(content).endswith(SCRIPT)


@given(st.lists(st.sampled_from(["x = 1", "```", "~~~", "```python", "    doc", ""]), max_size=6))
def test_fences_inside_a_script_are_code(lines):
    own = 'def f():\n    """\n' + "".join(f"    {line}\n" for line in lines) + '    """\n\n\nprint(f())\n'
    assert script(own) == own
    assert script(f"\n{own}</test>\n") == own


def test_a_script_may_write_its_own_closing_tag():
    own = 'print("""\n</test>\n""")\n'
    assert script(one_of(f"<test>\n{own}</test>", "test")[1]) == own


@pytest.mark.parametrize(
    "text, why",
    [
        ("nothing", "has no <done>"),
        (f"<test>\n{SCRIPT}</test>\n<done></done>", "<done> and <test>"),
        (f"```python\n{SCRIPT}```\n```python\n{SCRIPT}```\n", "has no <done>"),
        ("<test>\nif not day:\n</test>", "no valid Python: line 1"),
        ("<test>\n\n</test>", "empty"),
        ("Between <test> and </test> I write nothing.", "no valid Python"),
    ],
)
def test_what_is_no_script_is_said_why(text, why):
    with pytest.raises(EditError, match=why):
        script(one_of(text, "done", "test")[1])


@given(st.text(alphabet="<>/testdoneg `\n(exit)=1", max_size=80))
def test_any_text_is_read_or_refused(text):
    try:
        tag, content = one_of(text, "done", "test", "edit")
        if tag == "test":
            assert script(content).endswith("\n")
    except EditError:
        pass
