"""`Multiverse` on scripted models: the normal run, and what it does with text, engines and budgets that are not."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait import (
    Capabilities,
    Finish,
    InvalidJob,
    Multiverse,
    PromptTooLong,
    Runtime,
    ScriptedEngine,
    Sequential,
    events,
)
from plait.runtime.engines.scripted import CharTokenizer, WordTokenizer
from plait.runtime.methods.multiverse.dialects import MULTIVERSE
from plait.runtime.methods.multiverse.grammar import elements
from plait.runtime.methods.multiverse.run import Run
from plait.tests.runtime.methods.multiverse.tools import (
    MERGES,
    Par,
    Play,
    TagTokenizer,
    loose,
    render,
    scripted,
    structures,
)
from plait.tests.runtime.tools import run

TWO = Par({"1": [" left"], "2": [" the right one"]}, "both")
FLAT = ["<Think>\nhm\n", TWO, "</Think>\n\nAnswer: 7"]
NESTED = [
    "<Think>\n",
    Par({"1": [" a"], "2": [" b\n", Par({"2.1": [" x"], "2.2": [" yyyy"]}, "in"), "then"]}, "out"),
    "more\n",
    Par({"1": [" second"], "2": [" block"]}, "end"),
    "</Think>\n\nAnswer: 7",
]


async def play(items=FLAT, *, merges=True, tokenizer=None, prompt="Q", limits=None, engine=None, **fields):
    engine = engine or scripted(items, merges=merges, tokenizer=tokenizer)
    result, _ = await run(Multiverse(prompt=prompt, **fields), None, engine=engine, **(limits or {}))
    assert not elements(result.text)[1] or result.usage.counts, "something open and nothing counted"
    return result, engine


# -- the normal run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("tokenizer", [TagTokenizer, CharTokenizer])
@pytest.mark.parametrize("items", [FLAT, NESTED])
async def test_the_text_is_the_merged_text(items, tokenizer, merges):
    result, engine = await play(items, merges=merges, tokenizer=tokenizer())
    assert result.text == render(items) and result.answer == "Answer: 7"
    assert result.finish_reason is Finish.EOS and not result.usage.counts
    assert result.details["join"] == ("kv" if merges else "text")
    assert not engine.branches


async def test_words_of_several_characters_as_tokens():
    items = [FLAT[0], Par({"1": [" left"], "2": [" right"]}, "both"), FLAT[2]]
    result, _ = await play(Play(items), tokenizer=WordTokenizer())
    assert result.text == render(items)


async def test_paths_see_the_goal_and_not_each_other():
    _, engine = await play(FLAT)
    head = f"Q{FLAT[0]}{TWO.goal}\n"
    paths = "<Path>\n1: left\n</Path>\n<Path>\n2: the right one\n</Path>\n"
    assert engine.prompts == ["Q", f"{head}<Path>\n1:", f"{head}<Path>\n2:", f"{head}{paths}<Conclusion>\n"]


async def test_critical_path_counts_the_longest_path():
    result, engine = await play(FLAT)
    size = len(engine.tokenizer.encode(result.text)) + 1  # EOS
    short = len(engine.tokenizer.encode("<Path>\n1: left\n</Path>\n"))
    assert result.usage.total_tokens == size and result.usage.critical_tokens == size - short
    injected = "\n" + "<Path>\n1:" + "<Path>\n2:" + "\n\n" + "<Conclusion>\n"
    assert result.usage.injected_tokens == len(engine.tokenizer.encode(injected))


async def test_of_merged_paths_the_longest_counts_against_the_limit():
    items = [Par({"1": [" x" * 60], "2": [" y" * 60]}, "both"), "end"]
    free, _ = await play(items)
    limit = free.usage.critical_tokens + 60
    result, _ = await play(items, max_tokens=limit, reserve=40)
    assert result.text == render(items) and result.finish_reason is Finish.EOS


@pytest.mark.parametrize(("rule", "starts", "conclusion"), [("train", 21, 30), ("engine", 22, 32)])
async def test_positions_of_a_flat_block(rule, starts, conclusion):
    """Spec section 9, 1: g = 20, paths of 5 and 9 tokens."""
    before = "<Parallel><Goal><Outline>1:</Outline><Outline>2:</Outline></Goal>"
    tokenizer = TagTokenizer()
    prompt = "Q" * (21 - len(tokenizer.encode(before)))
    # <Path> \n 1 : </Path> are five tokens; the other has four characters more.
    calls = {
        prompt: before,
        f"{prompt}{before}\n<Path>\n1:": "</Path>",
        f"{prompt}{before}\n<Path>\n2:": "abcd</Path>",
        f"{prompt}{before}\n<Path>\n1:</Path>\n<Path>\n2:abcd</Path>\n<Conclusion>\n": "c</Conclusion>\n</Parallel>",
    }
    result, _ = await play(calls.__getitem__, prompt=prompt, positions=rule)
    decode, segments = tokenizer.decode, result.trace.segments
    places = {}
    for segment in segments:
        for i, token in enumerate(segment.token_ids):
            places.setdefault(decode([token]), []).append(segment.position + i)
    shift = starts - 21
    assert places["</Goal>"] == [20] and places["<Path>"] == [starts, starts]
    assert places["</Path>"] == [25 + shift, 29 + shift] and places["<Conclusion>"] == [conclusion]


async def test_positions_behind_nested_blocks_follow_the_longest_path():
    def end(short):
        inner = Par({"2.1": [" x" * short], "2.2": [" y" * 9]}, "in")
        return [Par({"1": [" a" * short], "2": [" b\n", inner, "c"]}, "out"), "end"]

    lengths = set()
    for short in (1, 4):
        result, _ = await play(end(short))
        last = result.trace.segments[-1]
        lengths.add(last.position + len(last))
    assert len(lengths) == 1


@settings(max_examples=25, deadline=None)
@given(structures(3), st.sampled_from([None, 1, 2]), st.booleans())
async def test_output_does_not_depend_on_how_many_run_at_once(items, width, merges):
    engine = scripted(items, merges=merges, context_limit=8192)
    result, _ = await play(engine=engine, width=width)
    assert result.text == render(items) and not result.usage.counts
    assert len(result.trace.branches) >= 1


async def test_width_limits_what_runs_at_once_and_order_of_finish_does_not_matter():
    items = [Par({str(i): [" x" * (12 - 2 * i)] for i in range(1, 6)}), "end"]
    for width in (1, 2, None):
        engine = scripted(items)
        result, _ = await play(engine=engine, width=width)
        assert result.text == render(items)
        assert engine.peak_running == (width or 5)


async def test_events_and_joins():
    async with Runtime(engine=scripted(FLAT)) as runtime:
        job = await runtime.submit(Multiverse(prompt="Q"))
        seen = [event async for event in job]
        result = await job
    forked = next(event for event in seen if isinstance(event, events.Forked))
    merged = next(event for event in seen if isinstance(event, events.Merged))
    assert forked.children == merged.children == ("0.0", "0.1")
    assert [e.label for e in seen if isinstance(e, events.BranchStarted)] == ["", "1", "2"]
    texts = [e.text for e in seen if isinstance(e, events.Text) and e.branch == "0.1"]
    assert "".join(texts) == " the right one\n</Path>"
    assert [join.children for join in result.trace.joins] == [("0.0", "0.1")]


async def test_text_level_join_says_so_and_opens_a_new_branch():
    result, engine = await play(NESTED, merges=False)
    joins = result.trace.joins
    expected = {"dialect": "multiverse", "join": "text", "blocks": 3, "depth": 2}
    assert result.details == expected and len(joins) == 3
    for join in joins:
        assert join.segment is not None and join.children == join.found
    assert all(row.is_causal for row in result.trace.for_training())
    branches = result.trace.branches
    for join in joins:  # what is read again is not held beside what was read
        reopened = branches[result.trace.segments[join.segment].branch]
        assert all(branches[child].closed <= reopened.opened for child in join.children)
    joined = [text.removeprefix("Q") for text in engine.prompts if text.endswith("<Conclusion>\n")]
    assert [render(NESTED).startswith(text) for text in joined] == [False, True, True]


# -- malformed text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "goal",
    [
        "<Parallel>\n<Goal>\n</Goal>",
        "<Parallel>\n<Goal>\n<Outline>\n</Outline>\n</Goal>",
        "<Goal>\n<Outline>\n1: x\n</Outline>\n</Goal>",
        "</Goal>",
        "<Parallel></Goal>",
        "<Parallel>\n<Path></Path><Goal>\n<Outline>\n1: x\n</Outline>\n</Goal>",
        "<Parallel>\n<Conclusion><Parallel><Goal>\n<Outline>\n1: x\n</Outline>\n</Goal>",
    ],
)
async def test_a_goal_that_cannot_be_forked_is_decoded_on(goal):
    result, engine = await play(lambda context: "a" + goal if context == "Q" else "rest")
    assert result.text.startswith("a" + goal + "rest")
    assert result.usage.counts["malformed_goal"] == 1 and len(result.trace.branches) == 1
    assert engine.prompts[1:] == ["Qa" + goal]


@pytest.mark.parametrize("rule", ["train", "engine"])
async def test_a_single_outline_runs_in_place(rule):
    items = ["hm", Par({"1": [" alone"]}, "so"), "end"]
    result, _ = await play(items, positions=rule)
    assert result.text == render(items) and list(result.trace.branches) == ["0"]
    two, _ = await play(["hm", Par({"1": [" alone"], "2": [" alone"]}, "so"), "end"], positions=rule)
    extra = len(TagTokenizer().encode("<Outline>\n2: plan 2\n</Outline>\n"))
    ends = [r.trace.segments[-1].position + len(r.trace.segments[-1]) for r in (result, two)]
    assert ends[0] == ends[1] - extra


async def test_more_outlines_than_allowed_are_not_forked():
    many = Par({str(i): [f" path {i}"] for i in range(1, 6)})
    result, _ = await play([many, "end"], max_paths=4)
    assert result.usage.counts["refused_forks"] == 1 and len(result.trace.branches) == 1
    result, _ = await play([many, "end"], max_paths=5)
    assert len(result.trace.branches) == 6


@pytest.mark.parametrize(("most", "blocks", "refused"), [(8, 3, 0), (7, 2, 1), (4, 2, 1), (3, 1, 2)])
async def test_all_paths_of_a_run_count_against_what_it_may_have(most, blocks, refused):
    """Two in each block; of what is left then, the paths get equal shares for blocks of their own, and give back."""
    result, _ = await play(NESTED, max_branches=most)
    assert (result.details["blocks"], result.usage.counts.get("refused_forks", 0)) == (blocks, refused)


async def test_duplicate_and_unordered_indices_keep_their_place_and_text():
    paths = {"3": " first", "1": " second", "1 ": " third"}
    goal = "<Parallel>\n<Goal>\n" + "".join(f"<Outline>\n{i}: p\n</Outline>\n" for i in paths) + "</Goal>"
    answers = iter(paths.values())

    def write(context):
        if context == "Q":
            return goal
        return next(answers) + "\n</Path>" if context.endswith(":") else "end"

    result, _ = await play(write)
    assert "<Path>\n3: first\n</Path>\n<Path>\n1: second\n</Path>\n<Path>\n1: third\n</Path>\n" in result.text
    assert result.usage.counts["irregular_indices"] == 1


async def test_outlines_without_an_index_get_one():
    goal = "<Parallel>\n<Goal>\n<Outline>\nsome plan\n</Outline>\n<Outline>\n2: other\n</Outline>\n</Goal>"
    result, _ = await play(lambda c: goal if c == "Q" else " p\n</Path>" if c.endswith(":") else "end")
    assert "<Path>\n1: p\n</Path>\n<Path>\n2: p\n</Path>" in result.text
    assert result.usage.counts["outlines_without_index"] == 1


@pytest.mark.parametrize(("fields", "limits"), [({"depth": 0}, {}), ({}, {"depth": 0})])
async def test_without_forking_the_model_writes_the_paths_itself(fields, limits):
    text = render(FLAT)
    result, engine = await play(lambda c: text if c == "Q" else pytest.fail(c), limits=limits, **fields)
    assert result.text == text and result.details["blocks"] == 0 and len(engine.prompts) == 1


async def test_a_path_written_inside_a_path_does_not_end_it():
    inline = render([Par({"1.1": [" in"], "1.2": [" line"]})])

    def write(context):
        if context == "Q":
            return TWO.goal
        if context.endswith("<Path>\n1:"):
            return f" a\n{inline}b\n</Path>"
        if context.endswith("<Path>\n2:"):
            return " c\n</Path>"
        whole = f"<Path>\n1: a\n{inline}b\n</Path>"
        for at in range(len(whole)):
            if context.endswith(whole[: len(whole) - at]):
                return whole[len(whole) - at :]
        return "end\n</Conclusion>\n</Parallel>\n"

    result, _ = await play(write, depth=1)
    assert f"<Path>\n1: a\n{inline}b\n</Path>\n<Path>\n2: c\n</Path>\n<Conclusion>" in result.text
    assert not result.usage.counts and len(result.trace.branches) == 3


async def test_a_path_that_ends_inside_a_block_closes_it():
    def write(context):
        if context == "Q":
            return TWO.goal
        return " a\n<Parallel>\n<Goal>\n<Outline>\nb</Path>" if context.endswith(":") else "end"

    result, _ = await play(write)
    closed = " a\n<Parallel>\n<Goal>\n<Outline>\nb\n</Outline>\n</Goal>\n</Parallel>\n</Path>\n"
    assert f"<Path>\n1:{closed}<Path>\n2:{closed}<Conclusion>\nend" in result.text
    assert result.usage.counts["unclosed_blocks"] == 2


async def test_what_is_too_much_to_close_is_cut_off():
    soup = " a" + "<Parallel>" * 60
    result, _ = await play(lambda c: TWO.goal if c == "Q" else soup if c.endswith(":") else "end", max_tokens=150)
    assert "<Path>\n1: a\n</Path>\n<Path>\n2: a\n</Path>\n<Conclusion>\n" in result.text
    assert result.usage.counts["unclosed_blocks"] == 2


async def test_a_path_without_end_is_closed():
    result, _ = await play(
        lambda c: TWO.goal if c == "Q" else " a" * 40 if c.endswith(":") else "z\n</Conclusion>\n</Parallel>\n",
        max_tokens=140,
        engine=None,
    )
    paths = result.text.split("<Path>\n")[1:]
    assert len(paths) == 2 and all(path.split("</Path>")[0].endswith("\n") for path in paths)
    assert result.usage.counts["unclosed_paths"] == 2 and "z\n</Conclusion>" in result.text


async def test_an_end_of_text_in_a_path_is_dropped():
    result, engine = await play(lambda c: TWO.goal if c == "Q" else " a" if c.endswith(":") else "end")
    assert "<Path>\n1: a\n</Path>\n<Path>\n2: a\n</Path>\n" in result.text and "</s>" not in result.text
    assert result.usage.counts["unclosed_paths"] == 2
    assert not any("</s>" in prompt for prompt in engine.prompts)


async def test_thinking_does_not_end_inside_a_path():
    items = ["<Think>\n", Par({"1": [" \\boxed{3}</Think> so"], "2": [" b"]}), "</Think>\n\nAnswer: 7"]
    result, _ = await play(items)
    assert result.text == render(items) and not result.usage.counts and result.answer == "Answer: 7"
    boxed, _ = await play(items, answer="boxed")
    assert boxed.answer == "3"


async def test_a_stop_of_the_caller_ends_a_line_and_is_cut_off():
    def write(context):
        if context == "Q":
            return TWO.goal
        return (" a STOP b" if context.endswith("1:") else " c\n</Path>") if context.endswith(":") else "endSTOPmore"

    result, _ = await play(write, stop=("STOP",))
    assert "<Path>\n1: a \n</Path>\n<Path>\n2: c\n</Path>\n<Conclusion>\nend\n</Conclusion>" in result.text
    assert result.finish_reason is Finish.STOP


# -- engines that fail -----------------------------------------------------------------------------------------


def failing(times, *, only="<Path>\n1:", items=FLAT):
    """A model of which one call fails so many times."""
    model, left = Play(items), [times]

    def write(context):
        if context.endswith(only) and left[0]:
            left[0] -= 1
            raise OSError("no such luck")
        return model(context) if context in model.calls else "rest"

    return write


@pytest.mark.parametrize("merges", [True, False])
async def test_a_path_the_engine_fails_is_tried_again(merges):
    result, _ = await play(failing(1), merges=merges)
    assert result.text == render(FLAT)
    assert result.usage.counts == {"path_errors": 1}


@pytest.mark.parametrize("merges", [True, False])
async def test_a_path_that_keeps_failing_is_replaced(merges):
    result, _ = await play(failing(2), merges=merges)
    assert "<Path>\n1: [failed]\n</Path>\n<Path>\n2: the right one\n</Path>\n<Conclusion>\nrest" in result.text
    assert result.usage.counts["failed_paths"] == 1
    if merges:
        assert [len(s.view) for s in result.trace.segments][-1] >= 3


async def test_what_stands_for_a_path_that_failed_is_placed_like_a_path():
    result, engine = await play(failing(2), positions="engine")
    (tag,) = engine.tokenizer.encode("<Path>")
    places = [
        segment.position + i
        for segment in result.trace.segments
        for i, token in enumerate(segment.token_ids)
        if token == tag and segment.branch != "0"
    ]
    assert len(places) >= 3 and len(set(places)) == 1


@pytest.mark.parametrize("items", [FLAT, [FLAT[0], Par({"1": [" alone"]}), FLAT[2]]])
async def test_when_all_paths_fail_the_block_is_taken_back(items):
    def write(context):
        if context == "Q":
            return f"hm\n{items[1].goal}"
        if context.endswith(":"):
            raise OSError("never")
        assert context == "Qhm\n"
        return f"{items[1].goal} by myself"

    result, engine = await play(write)
    assert result.text.startswith(f"hm\n{items[1].goal} by myself") and result.usage.counts["failed_blocks"] == 1
    assert engine.prompts[-1] == "Qhm\n"


async def test_errors_of_a_nested_block_start_the_path_again_without_merge():
    """The path has been reopened by an inner join when the engine fails."""
    result, _ = await play(failing(1, only="4\n</Path>\n<Conclusion>\n", items=DEEP), merges=False)
    assert result.text == render(DEEP) and result.usage.counts == {"path_errors": 1}


DEEP = [Par({"1": [" b\n", Par({"1.1": [" 3"], "1.2": [" 4"]}, "in"), "then"], "2": [" c"]}, "out"), "end"]


# -- budgets ---------------------------------------------------------------------------------------------------


async def test_no_fork_without_budget_for_the_conclusion():
    result, _ = await play(limits={"total_tokens": 60})
    assert result.usage.counts["refused_forks"] == 1
    assert result.finish_reason is Finish.TOTAL_TOKENS and result.usage.total_tokens <= 60


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("total", range(60, 190, 7))
async def test_a_budget_of_any_size_gives_closed_text(total, merges):
    long = [
        "<Think>\n",
        Par({"1": [" a" * 30, Par({"1.1": [" c" * 20], "1.2": [" d" * 9]})], "2": [" b" * 25]}, "e" * 30),
        "</Think>",
    ]
    engine = scripted(loose(Play(long)), merges=merges)
    result, _ = await play(engine=engine, limits={"total_tokens": total}, reserve=20)
    assert result.usage.total_tokens <= total
    if result.details["blocks"]:
        assert result.text.count("<Path>") == result.text.count("</Path>")


async def test_both_limits_hold():
    items = ["<Think>\n", Par({str(i): [" x" * 40] for i in range(1, 5)}), "</Think>"]
    for limits in ({"total_tokens": 300}, {"critical_tokens": 160}, {"total_tokens": 300, "critical_tokens": 160}):
        engine = scripted(loose(Play(items)))
        result, _ = await play(engine=engine, limits=limits, reserve=30)
        assert result.details["blocks"] == 1 and result.usage.counts["truncated_paths"] == 4
        assert result.usage.total_tokens <= limits.get("total_tokens", 10_000)
        assert result.usage.critical_tokens <= limits.get("critical_tokens", 10_000)
        assert result.text.endswith("short</Think>") or "<Conclusion>" in result.text


async def test_conclusion_is_forced_from_what_is_kept_back():
    def write(context):
        return "42}" if context.endswith("\\boxed{") else "<Think>\n" + "so " * 100

    result, _ = await play(write, max_tokens=60, conclusion="\\boxed{", conclusion_tokens=4, answer="boxed")
    assert result.answer == "42" and result.usage.counts["concluded"] == 1
    assert "\n</Think>\n\n\\boxed{42}" in result.text and result.usage.total_tokens <= 60


async def test_depth_is_capped():
    def write(context):
        return "<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n<Outline>\n2: b\n</Outline>\n</Goal>"

    engine = scripted(write, context_limit=600)
    result, _ = await play(engine=engine, depth=2, max_branches=12)
    assert result.details["depth"] == 2 and len(result.trace.branches) <= 13


async def test_the_deadline_ends_every_path():
    engine = scripted(FLAT, seconds_per_token=0.01)
    result, _ = await play(engine=engine, limits={"seconds": 0.3})
    assert result.finish_reason is Finish.DEADLINE and not engine.branches


async def test_cancelling_frees_everything():
    engine = scripted(NESTED, seconds_per_token=0.002)
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(Multiverse(prompt="Q"))
        async for event in job:
            if isinstance(event, events.Forked):
                break
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert not engine.branches


@pytest.mark.parametrize(("reserve", "expected"), [(40, 40), (0, 11), (12, 12), (10**6, 150)])
async def test_a_conclusion_gets_what_is_reserved_but_not_more_than_half_and_always_its_tags(
    reserve, expected, monkeypatch
):
    found = []
    path_limit = Run.path_limit

    def noted(self, ctx, line, count, reserve):
        found.append((line.room, reserve))
        return path_limit(self, ctx, line, count, reserve)

    monkeypatch.setattr(Run, "path_limit", noted)
    await play(FLAT, max_tokens=338, reserve=reserve)
    assert found == [(300, expected)]


@pytest.mark.parametrize(
    ("merges", "share", "limit"),
    [(True, None, 159), (True, 200, 159), (True, 90, 90), (False, None, 53), (False, 200, 53), (False, 30, 30)],
)
def test_paths_share_the_room_only_where_they_are_read_again_and_the_budget_always(merges, share, limit):
    class Room:
        room = 200

        @staticmethod
        def size(text):
            return len(text)

    class Shares:
        asked: ClassVar[list[tuple[int, int]]] = []

        def share(self, count, kept):
            self.asked.append((count, kept))
            return share

    made = Run(Multiverse(prompt="Q"), MULTIVERSE, can_merge=merges)
    ctx, line = Shares(), Room()
    assert made.dialect.gap == "\n" and made.path_limit(ctx, line, 3, 40) == limit
    assert ctx.asked.pop() == (3, 41)  # of the whole budget, what is kept back goes first


def test_wrong_fields():
    wrong = [{"positions": "middle"}, {"mode": "free"}, {"depth": -1}, {"width": 0}, {"dialect": "x"}, {"preset": "x"}]
    for fields in (*wrong, {"mode": "guided", "preset": "parallel"}, {"mode": "guided", "dialect": "npr"}):
        with pytest.raises(InvalidJob):
            Multiverse(prompt="Q", **fields)
    engine = ScriptedEngine(lambda _: "", context_limit=300, tokenizer=TagTokenizer())
    Multiverse(prompt="Q").check(engine)
    with pytest.raises(PromptTooLong):
        Multiverse(prompt="Q", mode="guided").check(engine)


# -- guided ----------------------------------------------------------------------------------------------------

PLAN = "1: The left half.\n</Outline>\n<Outline>\n2: The right half.\n</Outline>\n</Goal>"
PLANS = {
    "exact": PLAN.removeprefix("1:"),
    "a list": " The left half.\n2. The right half.\n\n<Path>",
    "marked": " **The left half.**\n**2)** The right half.\n</Goal>",
    "without end": " The left half.\n2: The right half.",
}


CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "Q"}]


def instructed(plan=PLANS["exact"], path="found\n</Path>", conclusion="both</Conclusion>", answer="It is \\boxed{7}."):
    def write(context):
        own = context.rpartition("<assistant>")[2]
        if own.endswith("<Outline>\n1:") and "</Goal>" not in own:
            return plan
        if own.endswith("half.\n") and own.rpartition("<Path>")[1]:
            return path
        return conclusion if own.endswith("<Conclusion>\n") else answer

    return write


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("plan", PLANS)
async def test_guided_runs_any_model(plan, merges):
    script = instructed(PLANS[plan])
    engine = ScriptedEngine(script, context_limit=8192, capabilities=MERGES if merges else Capabilities())
    result, _ = await play(engine=engine, mode="guided", answer="boxed", chat=True)
    block = Par({"1": [" The left half.\nfound"], "2": [" The right half.\nfound"]}, "both")
    expected = render(["<Think>\n", block, "</Think>\n\nIt is \\boxed{7}."])
    expected = expected.replace("plan 1", "The left half.").replace("plan 2", "The right half.")
    assert result.text == expected and result.answer == "7"
    assert engine.prompts[0].startswith("<user>") and "Q\n<assistant>" in engine.prompts[0]
    assert [p.rpartition("<Path>\n")[2] for p in engine.prompts[1:3]] == ["1: The left half.\n", "2: The right half.\n"]


async def test_guided_paths_that_run_on_are_cut():
    script = instructed(path="found\n</Outline>\n<Path>\n2: the next", conclusion="both\n</Parallel> and")
    result, _ = await play(
        engine=ScriptedEngine(script, context_limit=8192, capabilities=MERGES), mode="guided", chat=True
    )
    assert result.text.count("<Path>") == 2 and "the next" not in result.text
    assert "both\n</Conclusion>\n</Parallel>\n</Think>\n\nIt is" in result.text


@pytest.mark.parametrize(
    "plan", ["", " only one\n</Goal>", "</Think>", " no numbers\nat all", " twice\n2: twice\n</Goal>"]
)
@pytest.mark.parametrize("prompt", ["Q", CHAT, [5, 6]])
async def test_guided_without_a_plan_asks_the_plain_question(plan, prompt):
    engine = ScriptedEngine(instructed(plan), context_limit=8192, capabilities=MERGES)
    result, _ = await play(engine=engine, mode="guided", answer="boxed", prompt=prompt)
    assert result.text == "It is \\boxed{7}." and result.answer == "7"
    assert result.usage.counts["no_outline"] == 1
    plain = engine.tokenizer.decode(Sequential(prompt=prompt, chat=prompt == "Q").tokens(engine.tokenizer))
    assert engine.prompts[1:] == [plain.removeprefix("<s>")] and not engine.branches


# No branch for a path; no room for a plan; none for the plan as it is written down, with tags, or for the paths.
@pytest.mark.parametrize("limits", [{"max_branches": 1}, {"max_tokens": 40}, {"max_tokens": 190}, {"max_tokens": 260}])
async def test_guided_without_room_for_the_paths_asks_the_plain_question(limits):
    engine = ScriptedEngine(instructed(), context_limit=8192, capabilities=MERGES)
    result, _ = await play(engine=engine, mode="guided", **limits)
    assert result.usage.counts["refused_forks"] == 1 and result.text == "It is \\boxed{7}."
    assert engine.prompts[-1] == "<user>Q\n<assistant>"


async def test_guided_prompts_of_every_kind():
    for prompt in (CHAT, [5, 6, 7]):
        engine = ScriptedEngine(instructed(), context_limit=8192, capabilities=MERGES)
        result, _ = await play(engine=engine, mode="guided", prompt=prompt)
        assert result.details["blocks"] == 1
    for total in range(4, 400, 31):
        engine = ScriptedEngine(instructed(), context_limit=8192, capabilities=MERGES)
        result, _ = await play(engine=engine, mode="guided", limits={"total_tokens": total})
        assert result.usage.total_tokens <= total


# -- anything at all -------------------------------------------------------------------------------------------

_PIECES = [f"<{c}{n}>" for n in ("Think", "Parallel", "Goal", "Outline", "Path", "Conclusion") for c in ("", "/")]
_GOALS = [TWO.goal, "<Parallel><Goal><Outline>1:", "<Outline>2: x</Outline></Goal>", Par({"1": []}).goal]
_BITS = st.lists(st.sampled_from([*_PIECES, *_GOALS, "\n", "1:", "2.1:", " x", "a.\n"]), max_size=20).map("".join)
_SOUP = st.tuples(st.sampled_from(["", "<Think>\n", TWO.goal, "ab</Path>"]), _BITS).map("".join)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(_SOUP, min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["trained", "guided"]),
    st.sampled_from(["train", "engine"]),
    st.sampled_from([{}, {"total_tokens": 90}, {"critical_tokens": 70}, {"depth": 1}]),
    st.sampled_from([TagTokenizer, CharTokenizer]),
    st.integers(0, 5),
    st.sampled_from([300, 1000, 3000]),
)
async def test_tag_soup_always_gives_a_result(soups, merges, mode, positions, limits, tokenizer, fails, context):
    calls = [0]

    def write(context):
        calls[0] += 1
        if fails and "<Path>" in context and calls[0] % (fails + 3) == 0:
            raise OSError("soup is off")
        return soups[calls[0] % len(soups)]

    engine = scripted(write, merges=merges, tokenizer=tokenizer(), context_limit=context)
    fields = {"mode": mode, "positions": positions, "max_branches": 9, "depth": 3}
    if context == 3000:
        fields["max_tokens"] = 400
    async with Runtime(engine=engine) as runtime:
        prompt = [20, 21] if mode == "guided" else "Q"
        job = await runtime.submit(Multiverse(prompt=prompt, **fields), budget=_budget(limits))
        result = await _settled(job)
    assert not engine.branches
    if result is not None:
        assert isinstance(result.finish_reason, Finish)
        assert result.usage.total_tokens <= limits.get("total_tokens", 10**9)
        for branch, parent in pairwise(sorted(result.trace.branches)):
            assert branch != parent


def _budget(limits):
    from plait import Budget

    return Budget(**limits)


async def _settled(job):
    """The result; None if the engine failed the root itself, which is the job's failure."""
    try:
        return await job
    except OSError:
        return None


async def test_without_max_tokens_the_methods_own_bound_holds(monkeypatch):
    assert Multiverse.bound == 16384
    monkeypatch.setattr(Multiverse, "bound", 60)
    endless = "so " * 100
    result, _ = await play(lambda _: endless)
    assert (result.finish_reason, result.details["bound"]) == (Finish.LENGTH, 60)
    assert 0 < result.usage.critical_tokens <= 60
    for fields in ({"max_tokens": 80}, {"context_limit": 50}):
        result, _ = await play(lambda _: endless, **fields)
        assert result.finish_reason in (Finish.LENGTH, Finish.CONTEXT) and "bound" not in result.details
