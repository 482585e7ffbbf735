"""The dialects on scripted models: texts, places, prompts, and which of them fits a tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait import Finish, InvalidInput, Multiverse, ScriptedEngine
from plait.rl.masks import text_mask
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.methods.multiverse.dialects import (
    DIALECTS,
    MULTIVERSE,
    NPR,
    PARALLEL_R1,
    THREADWEAVER,
    fitting,
)
from plait.runtime.methods.multiverse.grammar import blocks, closers, elements
from plait.runtime.methods.multiverse.outlines import outlines
from plait.runtime.methods.multiverse.replay import Fork, layout, written
from plait.tests.runtime.methods.multiverse.tools import MERGES, Par, Play, TagTokenizer, render, scripted
from plait.tests.runtime.tools import run

OTHERS = [NPR, THREADWEAVER, PARALLEL_R1]
TEXT = [
    "hm\n",
    Par({"1": [" left"], "2": [" the right one"]}, "both"),
    "more\n",
    Par({"1": [" second"], "2": [" block"]}, "end"),
    "so \\boxed{7}",
]


async def play(dialect, script, *, merges=True, prompt="Q", **fields):
    engine = scripted(script, merges=merges, tokenizer=TagTokenizer(dialect), context_limit=8192)
    result, _ = await run(Multiverse(prompt=prompt, dialect=dialect.name, **fields), None, engine=engine)
    assert not engine.branches and not elements(result.text, dialect)[1]
    return result, engine


# -- the normal run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("positions", ["train", "engine"])
@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
async def test_consecutive_blocks(dialect, positions, merges):
    result, engine = await play(
        dialect, Play(TEXT, dialect=dialect), merges=merges, positions=positions, answer="boxed"
    )
    assert result.text == render(TEXT, dialect) and result.answer == "7" and not result.usage.counts
    is_merged = merges and dialect.places[positions] != "reread"
    assert result.details == {
        "dialect": dialect.name, "join": "kv" if is_merged else "text", "blocks": 2, "depth": 1,
    }  # fmt: skip
    goal = f"Qhm\n{TEXT[1].goal_in(dialect)}{dialect.gap}"
    assert engine.prompts[1:3] == [goal + dialect.open_path("1"), goal + dialect.open_path("2")]


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
async def test_tags_in_the_prompt_are_text(dialect):
    """Two of the published prompts hold every tag, one of them blocks that are left open."""
    for prompt in (render(TEXT[:2], dialect), TEXT[1].goal_in(dialect), f"<{dialect.path}>", f"</{dialect.path}>"):
        result, _ = await play(dialect, Play(TEXT, prompt, dialect), prompt=prompt)
        assert result.text == render(TEXT, dialect) and not result.usage.counts


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
def test_a_text_is_read_as_it_was_written(dialect):
    text, tokenizer = render(TEXT, dialect), TagTokenizer(dialect)
    first, second = blocks(text, dialect)
    assert text[: first.goal_end].endswith(dialect.trigger) and text.startswith(dialect.join, second.join)
    assert [text[path.start : path.body] for path in second.paths] == [dialect.open_path("1"), dialect.open_path("2")]
    ends = dialect.path_end + dialect.tail
    assert all(text[: path.stop].endswith(ends) for block in (first, second) for path in block.paths)
    items = layout(text, tokenizer.encode, dialect)
    assert sum(isinstance(item, Fork) for item in items) == 2
    given = [tokenizer.decode(item.tokens) for item in items if not isinstance(item, Fork) and item.is_given]
    assert given == [dialect.join] * 2


# -- places: the tag that forks at 20, paths of 5 and 9 tokens ---------------------------------------------------

WORKED = {
    NPR: ("<guideline><plan>1:</plan><plan>2:</plan></guideline>", ("", "abcd"), "c</takeaway>"),
    THREADWEAVER: ("<Parallel><Outlines><Outline>1:</Outline><Outline>2:</Outline></Outlines>", ("", "abcd"), None),
    PARALLEL_R1: ("<Parallel>", ("abc", "abcdefg"), "c</Summary>"),
}


async def worked(dialect, rule, *, merges=True):
    """Places of tags: while they were written, and in the view at the end."""
    text, bodies, then = WORKED[dialect]
    tokenizer = TagTokenizer(dialect)
    prompt = "Q" * (21 - len(tokenizer.encode(text)))
    turns = iter(bodies)
    lengths = [len(tokenizer.encode(dialect.open_path("1") + body + dialect.path_end)) for body in bodies]
    assert lengths == [5, 9]

    def write(context):
        if context == prompt:
            return text
        is_joined = context.count(dialect.path_end) == 2
        return (then or "</Parallel>") if is_joined else next(turns) + dialect.path_end

    result, _ = await play(dialect, write, prompt=prompt, positions=rule, merges=merges)
    trace, last = result.trace, result.trace.segments[-1]
    written = places([s for s in trace.segments if s.branch != last.branch or len(s.view) > 0], dialect)
    view = [trace.segments[span.segment] for span in last.view] + [last]
    return written, places(view, dialect)


def places(segments, dialect):
    found = {}
    for segment in segments:
        for i, token in enumerate(segment.token_ids):
            found.setdefault(TagTokenizer(dialect).decode([token]), []).append(segment.position + i)
    return found


@pytest.mark.parametrize(("rule", "starts", "takeaway"), [("train", 21, 30), ("engine", 22, 32)])
async def test_places_of_npr(rule, starts, takeaway):
    _, found = await worked(NPR, rule)
    assert found["</guideline>"] == [20] and found["<step>"] == [starts] * 2
    assert found["</step>"] == [starts + 4, starts + 8] and found["<takeaway>"] == [takeaway]


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("rule", ["train", "engine", None])
async def test_places_of_threadweaver(rule, merges):
    written, found = await worked(THREADWEAVER, rule, merges=merges)
    assert written["<Thread>"][:2] == [22, 22] and written["</Thread>"][:2] == [26, 30]
    assert found["</Outlines>"] == [20] and found["<Thread>"] == [22, 27] and found["</Thread>"] == [26, 35]
    assert found["\n"] == [21, 23, 28, 36] and found["</Parallel>"] == [37]


@pytest.mark.parametrize(
    ("rule", "starts", "ends", "close", "merges"),
    [
        ("train", [21, 21], [25, 29], 30, True),
        ("engine", [21, 26], [25, 34], 35, True),
        (None, [21, 26], [25, 34], 35, True),
        ("train", [21, 26], [25, 34], 35, False),
    ],
)
async def test_places_of_parallel_r1(rule, starts, ends, close, merges):
    written, found = await worked(PARALLEL_R1, rule, merges=merges)
    assert found["<Parallel>"] == [20] and found["<Path>"] == starts and found["</Path>"] == ends
    assert found["</Parallel>"] == [close] and found["\n"] == [close + 1] and found["<Summary>"] == [close + 2]
    assert written["<Path>"][:2] == [21, 21] and written["</Path>"][:2] == [25, 29]


# -- what is not as it should be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "text", "count"),
    [
        (NPR, "<guideline>\n<plan>1: a</plan>\n<plan> 2 : b\nc</plan></guideline>", 2),
        (NPR, "<guideline><plan>1: a</plan></guideline>", 1),
        (NPR, "<guideline></guideline>", 0),
        (NPR, "<plan>1: a</plan></guideline>", 0),
        (NPR, "<step>\n1: x<guideline><plan>1: a</plan></guideline>", 0),
        (THREADWEAVER, "<Parallel>\n<Outlines><Outline>1: a</Outline></Outlines>", 1),
        (THREADWEAVER, "<think>\n<Parallel>\n<Outlines><Outline>1: a</Outline></Outlines>", 1),
        (THREADWEAVER, "<Outlines><Outline>1: a</Outline></Outlines>", 0),
        (THREADWEAVER, "<Thread>\n1:<Parallel>\n<Outlines><Outline>1: a</Outline></Outlines>", 0),
        (PARALLEL_R1, "so <Parallel>", 3),
        (PARALLEL_R1, "<Path><Parallel>", 0),
        (PARALLEL_R1, "<Parallel><Parallel>", 0),
        (PARALLEL_R1, "<Parallel> ", 0),
    ],
)
def test_what_can_be_forked(dialect, text, count):
    assert len(outlines(text, dialect, count=3)) == count


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
async def test_nested_blocks_are_decoded_on(dialect):
    inner = Par({"1": [" x"], "2": [" y"]})

    def write(context):
        if context == "Q":
            return inner.goal_in(dialect)
        if context.count(dialect.path_end) >= 2:
            return "done" + (f"</{dialect.merge or dialect.block}>")
        if context.endswith(dialect.open_path("1")) or context.endswith(dialect.open_path("2")):
            return f" a {inner.goal_in(dialect)}"
        return "still" + dialect.path_end

    result, _ = await play(dialect, write)
    assert result.details["blocks"] == 1 and result.usage.counts["malformed_goal"] == 2
    assert len(blocks(result.text, dialect)) == 1 and result.text.count("still") == 2


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
async def test_a_path_without_end_gets_the_closer(dialect):
    block = Par({"1": [], "2": []})

    def write(context):
        if context == "Q":
            return block.goal_in(dialect)
        return "end" if dialect.join in context and dialect.path_end in context else " a"

    result, _ = await play(dialect, write)
    closed = "".join(dialect.open_path(i) + " a" + dialect.close(dialect.path) + dialect.tail for i in "12")
    assert closed + dialect.join in result.text and result.usage.counts["unclosed_paths"] == 2


@pytest.mark.parametrize(("dialect", "most"), [(NPR, 5), (THREADWEAVER, 50)], ids=["npr", "threadweaver"])
async def test_more_outlines_than_the_dialect_has_are_decoded_on(dialect, most):
    for count in (most, most + 1):
        goal = Par({str(i): [] for i in range(1, count + 1)}).goal_in(dialect)
        result, _ = await play(dialect, lambda c, goal=goal: goal if c == "Q" else "x" + dialect.path_end)
        assert result.details["blocks"] == (count == most) and bool(result.usage.counts["refused_forks"]) == (
            count > most
        )
    result, _ = await play(dialect, lambda c, goal=goal: goal if c == "Q" else "x" + dialect.path_end, max_paths=99)
    assert result.details["blocks"] == 1


async def test_a_number_that_is_planned_twice_runs_once():
    goal = (
        "<Parallel>\n<Outlines>\n<Outline>2: a</Outline>\n<Outline>2: b</Outline>\n<Outline>7: c</Outline>\n</Outlines>"
    )
    result, engine = await play(THREADWEAVER, lambda c: goal if c == "Q" else "x\n</Thread>")
    assert len(engine.prompts) == 4 and "<Thread>\n2:x\n</Thread><Thread>\n7:x\n</Thread>\n" in result.text
    assert result.usage.counts["irregular_indices"] == 1


async def test_a_conclusion_left_by_the_end_of_the_text_is_closed_and_the_text_goes_on():
    def write(context):
        if context == "Q":
            return "<Parallel>"
        if context.endswith("<Path>"):
            return "a</Path>"
        return "both" if context.endswith("<Summary>") else "\nFinal Answer: 7"

    result, _ = await play(PARALLEL_R1, write)
    block = "<Parallel><Path>a</Path><Path>a</Path></Parallel>\n<Summary>both</Summary>"
    assert result.text == block + "\nFinal Answer: 7" and result.usage.counts["unclosed_conclusions"] == 1
    assert result.finish_reason is Finish.EOS


async def test_blocks_beyond_the_last_are_not_forked():
    def write(context):
        if context.endswith("<Path>"):
            return "a</Path>"
        return "<Parallel>" if context == "Q" else "c</Summary>\n<Parallel>by itself"

    result, engine = await play(PARALLEL_R1, write)
    assert result.details["blocks"] == 4 and len(engine.prompts) == 1 + 4 * 3
    assert result.text.endswith("c</Summary>\n<Parallel>by itself</Parallel>\n\n")


class Watched(ScriptedEngine):
    """Keeps what every call was sampled with."""

    def __init__(self, dialect):
        super().__init__(Play(TEXT, dialect=dialect), tokenizer=TagTokenizer(dialect), capabilities=MERGES)
        self.seen = []

    async def complete(self, generation):
        self.seen.append((generation.params.repetition_penalty, generation.params.temperature))
        return await super().complete(generation)


@pytest.mark.parametrize(
    ("dialect", "fields", "paths"),
    [
        (NPR, {}, (1.02, 0.0)),
        (NPR, {"repetition_penalty": 1.0}, (1.0, 0.0)),
        (PARALLEL_R1, {}, (1.0, 1.0)),
        (PARALLEL_R1, {"temperature": 0}, (1.0, 0.0)),
        (MULTIVERSE, {}, (1.0, 0.0)),
    ],
)
async def test_paths_are_sampled_as_the_authors_do(dialect, fields, paths):
    engine = Watched(dialect)
    await run(Multiverse(prompt="Q", dialect=dialect.name, **fields), None, engine=engine)
    main = (1.0, 0.0)
    assert engine.seen == [main, paths, paths, main, paths, paths, main]


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
async def test_a_path_the_engine_fails(dialect):
    model, left = Play(TEXT, dialect=dialect), [2]
    first = f"Qhm\n{TEXT[1].goal_in(dialect)}{dialect.gap}{dialect.open_path('1')}"

    def write(context):
        if context == first and left[0]:
            left[0] -= 1
            raise OSError("lost")
        try:
            return model(context)
        except AssertionError:
            return "rest"

    result, _ = await play(dialect, write)
    assert result.details["blocks"] >= 1 and result.usage.counts["path_errors"] == 2
    if dialect.item:
        assert dialect.placeholder("1") + dialect.tail + dialect.open_path("2") in result.text


# -- which one fits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda d: d.name)
def test_a_tokenizer_tells_its_dialect(dialect):
    tokenizer = TagTokenizer(dialect)
    assert fitting(tokenizer) == [dialect.name]
    assert Multiverse(prompt="Q", dialect="auto").table(tokenizer) is dialect
    engine = scripted(lambda _: "", tokenizer=tokenizer)
    Multiverse(prompt="Q", dialect=dialect.name).check(engine)
    Multiverse(prompt="Q", dialect="auto").check(engine)
    for other in DIALECTS.values():
        if other is not dialect:
            with pytest.raises(InvalidInput, match=f"has the tags of {dialect.name}: give dialect='{dialect.name}'"):
                Multiverse(prompt="Q", dialect=other.name).check(engine)


async def test_tags_that_are_no_tokens_are_said_so():
    engine = scripted(lambda _: "hm", tokenizer=CharTokenizer())
    with pytest.raises(InvalidInput, match="no dialect's tags as tokens: give dialect="):
        Multiverse(prompt="Q", dialect="auto").check(engine)
    result, _ = await run(Multiverse(prompt="Q", dialect="npr"), None, engine=engine)
    assert result.details["note"].startswith("the tags of npr are no tokens")


# -- how the question is put -------------------------------------------------------------------------------------


def asked(prompt="Q ", tokenizer=None, **fields):
    tokenizer = tokenizer or CharTokenizer()
    return tokenizer.decode(Multiverse(prompt=prompt, **fields).tokens(tokenizer)).removeprefix("<s>")


class Plain(CharTokenizer):
    def chat(self, messages, tools=()):
        raise InvalidInput("no template")


def test_presets():
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    parallel = "Q Think step by step and in parallel before answering.\n"
    assert asked() == "Q "
    assert asked(preset="parallel") == f"<system>{system}\n<user>{parallel}\n<assistant>"
    assert asked(preset="parallel", tokenizer=Plain()) == parallel
    assert "Q Think step by step before answering.\n" in asked(preset="sequential")
    assert asked(preset="parallel", system="s") == f"<system>s\n<user>{parallel}\n<assistant>"
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Q"},
    ]
    assert asked(messages, preset="parallel") == (
        f"<system>{system}\n<user>a\n<assistant>b\n<user>{parallel}\n<assistant>"
    )
    assert asked(preset="<{question}> {x}") == f"<system>{system}\n<user><Q> {{x}}\n<assistant>"
    with pytest.raises(InvalidInput, match="token ids"):
        asked([5, 6], preset="parallel")


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
def test_presets_of_the_others(dialect):
    text = asked("Why {question}?", dialect=dialect.name, preset="parallel")
    assert text.startswith("<user>") and text.count("Why {question}?") == 1 and "<system>" not in text
    user = text.removeprefix("<user>").removesuffix("\n<assistant>")
    assert (user.endswith("Why {question}?")) == (dialect is PARALLEL_R1)
    assert "in parallel" not in asked(dialect=dialect.name, preset="sequential")
    tags = dialect in (NPR, PARALLEL_R1)
    assert all((f"<{name}>" in user) == tags for name in dialect.names)


# -- anything at all ---------------------------------------------------------------------------------------------


def soup(dialect):
    goal = TEXT[1].goal_in(dialect)
    bits = [*dialect.tags, goal, dialect.join, "\n", "1:", " x", f"{goal}{dialect.gap}{dialect.open_path('1')}"]
    return st.lists(st.sampled_from(bits), max_size=16).map("".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), merges=st.booleans(), positions=st.sampled_from(["train", "engine"]), fails=st.integers(0, 4))
@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
async def test_tag_soup_always_gives_a_result(dialect, data, merges, positions, fails):
    soups = data.draw(st.lists(soup(dialect), min_size=1, max_size=4))
    calls = [0]

    def write(context):
        calls[0] += 1
        if fails and context.endswith(dialect.open_path("1")) and calls[0] % (fails + 1) == 0:
            raise OSError("soup is off")
        return soups[calls[0] % len(soups)]

    tokenizer = data.draw(st.sampled_from([TagTokenizer(dialect), CharTokenizer()]))
    engine = scripted(write, merges=merges, tokenizer=tokenizer, context_limit=data.draw(st.sampled_from([200, 900])))
    fields = {"positions": positions, "max_branches": 9, "max_tokens": 400}
    budget = data.draw(st.sampled_from([{}, {"total_tokens": 90}, {"critical_tokens": 70}]))
    try:
        result, _ = await run(Multiverse(prompt="Q", dialect=dialect.name, **fields), None, engine=engine, **budget)
    except OSError:
        return  # the engine failed the root itself
    assert not engine.branches and isinstance(result.finish_reason, Finish)
    assert result.usage.total_tokens <= budget.get("total_tokens", 10**9)
    for found in blocks(result.text, dialect):
        assert 0 <= found.start < found.goal_end <= found.paths[0].start <= found.join <= len(result.text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("dialect", OTHERS, ids=lambda d: d.name)
def test_any_text_can_be_read(dialect, data):
    text = data.draw(soup(dialect))
    tokenizer = TagTokenizer(dialect)
    outlines(text, dialect), outlines(text + dialect.trigger, dialect)
    assert not elements(text + closers(elements(text, dialect)[1], dialect), dialect)[1]
    assert tokenizer.decode(written(layout(text, tokenizer.encode, dialect))) == text
    for rule in ("train", "engine"):
        mask = text_mask(text, tokenizer.encode, rule, prompt=[5], dialect=dialect)
        assert mask.token_ids == [5, *tokenizer.encode(text)]
