"""The text format: reading it leniently, checking it strictly, taking it apart for teacher forcing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.runtime.methods.multiverse.check import problems
from plait.runtime.methods.multiverse.dialects import MULTIVERSE
from plait.runtime.methods.multiverse.grammar import MAX_DEPTH, TAGS, blocks, closers, elements
from plait.runtime.methods.multiverse.outlines import goal_text, is_in_order, numbered_lines, outlines
from plait.runtime.methods.multiverse.replay import Fork, Run, count, layout
from plait.tests.runtime.methods.multiverse.tools import Par, TagTokenizer, examples, render, structures

INNER = Par({"2.1": [" x"], "2.2": [" y"]})
NESTED = ["<Think>\n", Par({"1": [" a"], "2": [" b\n", INNER, "z"]}), "</Think>\n\nAnswer"]
FLAT = [Par({"1": [" a"], "2": [" bcd"]}, "so"), "end"]


def outline(*texts):
    return "<Parallel>\n<Goal>\n" + "".join(f"<Outline>{text}</Outline>\n" for text in texts) + "</Goal>"


def test_tags_come_in_the_order_the_authors_added_them():
    assert TAGS[:4] == ("<Think>", "</Think>", "<Parallel>", "</Parallel>") and len(TAGS) == 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (outline("\n1: a\n", "\n2: b\n"), [("1", "a", True), ("2", "b", True)]),
        (outline(" 2.1 : a", "2.2:"), [("2.1", "a", True), ("2.2", "", True)]),
        (outline("\nno index\n", "x: y"), [("1", "no index", False), ("2", "x: y", False)]),
        (outline("", " \n", "7: a"), [("7", "a", True)]),
        (outline("1" * 99 + ": a"), [("1", "1" * 99 + ": a", False)]),
        (outline("1: a").replace("</Outline>", ""), [("1", "a", True)]),
        (outline("1: a <Outline>2: b"), [("1", "a", True), ("2", "b", True)]),
        ("<Think>" + outline("1: a"), [("1", "a", True)]),
        ("<Path>" + outline("a"), [("3.1", "a", False)]),
        (outline("1: a") + " ", []),
        (outline(), []),
        ("<Conclusion>" + outline("1: a"), []),
        ("<Goal><Outline>1: a</Outline></Goal>", []),
        ("<Parallel><Goal></Goal><Goal><Outline>1: a</Outline></Goal>", []),
    ],
)
def test_outlines_of_a_goal(text, expected):
    parent = "3" if text.startswith("<Path>") else ""
    assert [(o.index, o.text, o.is_numbered) for o in outlines(text, MULTIVERSE, parent)] == expected


def test_order_of_indices():
    def order(*indices):
        return is_in_order(outlines(outline(*(f"{i}: p" for i in indices))))

    assert order("1", "2", "10") and order("2.9", "2.10", "3")
    assert not order("1", "1") and not order("2", "1")


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("Plan:\n1. one\n2) two\n3: three", ["one", "two", "three"]),
        ("**1.** **one**\n### Step 2: two", ["one", "two"]),
        ("- one\n* two\nand so on", ["one", "two"]),
        ("<Outline>\n1: one\n</Outline>2: two", ["one", "two"]),
        ("1: \n2. ---\n nothing 3. here", []),
        ("", []),
    ],
)
def test_plans_of_any_model(text, points):
    assert numbered_lines(text) == points
    assert [o.text for o in outlines(f"<Parallel>\n{goal_text(points)}")] == points


def test_a_path_cannot_end_what_is_around_it():
    text = "<Think><Parallel><Goal></Goal><Path>1: </Think></Parallel>"
    assert [element.name for element in elements(text)[1]] == ["Think", "Parallel", "Path"]
    assert [element.name for element in elements(text + "</Path></Think>")[1]] == []
    assert closers(elements(text)[1]) == "\n</Path>\n</Parallel>\n</Think>"


def test_blocks_with_their_paths():
    text = render(NESTED)
    (block,) = blocks(text)
    assert text[: block.goal_end].endswith("</Goal>") and text.startswith("<Conclusion>", block.join)
    assert [text[path.start : path.body] for path in block.paths] == ["<Path>\n1:", "<Path>\n2:"]
    assert [text[path.end - 7 : path.stop] for path in block.paths] == ["</Path>\n"] * 2
    assert [path.index for path in block.paths[1].blocks[0].paths] == ["2.1", "2.2"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("<Parallel><Goal></Goal><Path>1: a", 1),
        ("<Parallel><Goal></Goal><Path>1: a</Path>x<Path>b</Path>\n</Parallel>", 2),
        ("<Parallel><Path>1: a</Path></Parallel>", None),
        ("<Parallel><Goal><Path>1: a</Path></Goal></Parallel>", None),
        ("<Parallel><Goal></Goal><Conclusion></Conclusion><Path>1: a</Path></Parallel>", None),
        ("<Conclusion><Parallel><Goal></Goal><Path>1: a</Path></Parallel></Conclusion>", None),
    ],
)
def test_blocks_of_malformed_text(text, paths):
    found = blocks(text)
    assert [len(block.paths) for block in found] == ([] if paths is None else [paths])
    assert all(text[block.join :] in ("", "</Parallel>") for block in found)


def test_nesting_has_an_end():
    deep = 2000 * "<Parallel><Goal></Goal><Path>1:"
    found, depth = blocks(deep), 0
    while found:
        found, depth = found[0].paths[0].blocks, depth + 1
    assert depth == MAX_DEPTH


@given(st.lists(st.sampled_from([*TAGS, "\n", "1:", "a"]), max_size=40).map("".join))
def test_any_text_can_be_read(text):
    outlines(text), outlines(text + "</Goal>"), numbered_lines(text), problems(text)
    assert not elements(text + closers(elements(text)[1]))[1]
    assert _text(layout(text, lambda part: [part])) == text


def _text(items):
    parts = []
    for item in items:
        if isinstance(item, Run):
            parts += item.tokens
        else:
            parts += item.gap
            for path in item.paths:
                parts += [_text(path.items), *path.tail]
    return "".join(parts)


# -- the exact format ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(structures(3))
def test_what_the_tests_render_has_the_exact_format(items):
    assert problems(render(items)) == []


def test_the_published_texts_have_the_exact_format():
    for text in examples():
        assert problems(text) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("<Think>\n", ""), "does not begin"),
        (("</Think>", ""), "not closed"),
        (("</Think>\n\n", "</Think>\n"), "empty line"),
        (("</Path>\n<Conclusion>", "</Path>\nhm\n<Conclusion>"), "text before its Conclusion"),
        (("<Path>\n1:", "<Path>\n3:"), "outlines and paths differ"),
        (("<Path>\n1: ", "<Path>\n1:"), "no index"),
        (("1: plan 1\n</Outline>", "1: plan 1</Outline>"), "not on its own line"),
        (("<Goal>\n<Outline>\n1", "<Goal> <Outline>\n1"), "no newline"),
        (("so\n</Conclusion>\n</Parallel>\nz", "so\n</Parallel>\nz"), "not closed"),
        ((" x", " </Think>"), "closing tags without an element"),
        (("Answer", "Answer<Think>"), "outside <Think>"),
        (("<Think>\n", "<Think>\n<Path>\n1: x\n</Path>\n"), "holds a Path"),
        (("so\n</Conclusion>\n</Parallel>\n</Think>", "</Parallel>\n</Think>"), "not closed"),
    ],
)
def test_what_is_not_the_exact_format(change, problem):
    old, new = change
    text = render(NESTED)
    assert text.count(old) >= 1 and problems(text) == []
    assert problem in "; ".join(problems(text.replace(old, new, 1)))


# -- layouts ---------------------------------------------------------------------------------------------------


def test_a_layout_tells_given_from_sampled():
    encode, decode = TagTokenizer().encode, TagTokenizer().decode
    items = layout(render(FLAT), encode)
    goal, fork, conclusion, rest = items
    assert isinstance(fork, Fork) and decode(fork.gap) == "\n"
    assert [decode(run.tokens) for run in fork.paths[1].items] == ["<Path>\n2:", " bcd\n</Path>"]
    assert [run.is_given for run in (goal, *fork.paths[0].items, conclusion, rest)] == [False, True, False, True, False]
    assert decode(conclusion.tokens) == "<Conclusion>\n"
    assert decode(rest.tokens) == "so\n</Conclusion>\n</Parallel>\nend"
    total, critical = count(items)
    assert total == len(encode(render(FLAT))) and critical == total - len(encode("<Path>\n1: a\n</Path>\n"))


def test_a_join_without_conclusion_gives_one_token_to_go_on_from():
    items = layout("<Parallel><Goal></Goal><Path>1: a</Path>\n</Parallel>bc", TagTokenizer().encode)
    assert [item.is_given for item in items if isinstance(item, Run)] == [False, True, False]
