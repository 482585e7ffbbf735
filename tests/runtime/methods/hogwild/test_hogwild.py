"""`Hogwild` as a method: the rules for steps, prompts and policies. What is decoded is tested in tests/native."""

from __future__ import annotations

import pytest

from plait import (
    Capabilities,
    Hogwild,
    InvalidInput,
    InvalidJob,
    OutOfBlocks,
    PromptTooLong,
    ScriptedEngine,
    UnsupportedByEngine,
    parse_method,
)
from plait.runtime.engine import BlockUsage
from plait.runtime.jobs.branch import TracedBranch
from plait.runtime.methods.hogwild.method import sampled_tokens
from plait.runtime.methods.hogwild.text import DEFAULT_NAMES, ends_step, has_open_fence, is_looping, opener, pieces
from plait.tests.runtime.methods.hogwild.oracle import ToyTokenizer
from plait.tests.runtime.methods.hogwild.tools import TOKENIZER, Other, job, play, said

SIZE = TOKENIZER.vocab_size


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("So x is 3.\n\n", True),
        ("Is it?\n\n", True),
        ("Yes!  \n\nAnd", True),
        ("It is 3\u3002\n\n", True),
        ("Done\u2026\n\n", True),
        ("We get:\n\n", False),
        ("first,\n\n", False),
        ("a;\n\n", False),
        ("no mark\n\n", False),
        ("So.\n", False),
        ("First.\n\nThen\n\n", False),
        ("\n\n", False),
        ("", False),
        ("```python\nprint(1).\n\n", False),
        ("```python\nprint(1)\n```.\n\n", True),
        ("~~~ a.\n\n", False),
        ("$$ x = 1.\n\n", False),
        ("$$ x = 1 $$.\n\n", True),
        ("\u0932\u093f\u0916\u093e\u0964\n\n", True),
        ("\uff1f\n\n", False),
    ],
)
def test_a_step_ends_behind_a_sentence_outside_code(text, ends):
    assert ends_step(text) is ends
    assert has_open_fence(text) <= (not ends)
    if has_open_fence(text):
        assert ends_step(text, minds_fences=False)


def test_loops_are_noticed():
    assert is_looping([9] * 24) and is_looping([1, 2, 3] * 9) and is_looping([7, *range(30), *range(30), *range(30)])
    assert not is_looping([9] * 23) and not is_looping([1, 2] * 11) and not is_looping(list(range(100)))


def test_pieces_of_the_vocabulary():
    found = pieces(TOKENIZER)
    assert {TOKENIZER.pieces[t] for t in found.blank} == {p for p in TOKENIZER.pieces if "\n\n" in p}
    assert {TOKENIZER.pieces[t] for t in found.hashes} == {"#"}
    assert pieces(TOKENIZER) is found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": ("A", "A")}, "different names"),
        ({"workers": ()}, "workers"),
        ({"workers": 0}, "workers"),
        ({"join_at": {"Z": 3}}, "'Z'"),
        ({"resume": {"Z": (3,)}}, "'Z'"),
        ({"join_at": {"Alice": 1, "Bob": 1}}, "somebody has to begin"),
        ({"leave_at": {"Alice": 0}}, "from 1"),
        ({"join_at": {"Bob": 5}, "leave_at": {"Bob": 5}}, "leave_at: Bob joins after 5 passes"),
        ({"join_at": {"Bob": 5}, "leave_at": {"Bob": 3, "Alice": 3}}, "leave_at: Bob joins after 5 passes"),
        ({"openers": ("x",)}, "1 openers for 2 workers"),
        ({"answer": "boxd"}, "answer"),
        ({"layout": "round"}, "layout"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(InvalidJob, match=message):
        Hogwild(prompt="p", **fields)


def test_a_job_is_json_and_a_number_stands_for_names():
    method = Hogwild(prompt="p", workers=10, join_at={"Bob": 4})
    assert method.workers[:2] == ("Alice", "Bob") and method.workers[8:] == ("Worker 9", "Worker 10")
    assert parse_method(method.model_dump(mode="json")) == method


def test_engines_without_live_views_are_refused_by_name():
    with pytest.raises(UnsupportedByEngine, match="native"):
        Hogwild(prompt="p").check(ScriptedEngine(["x"]))


def test_the_prompt_has_to_fit_with_its_instructions():
    engine = ScriptedEngine(["x"])
    engine.capabilities = Capabilities(live_views=True)
    with pytest.raises(PromptTooLong, match="rules"):
        Hogwild(prompt="p", context_limit=100).check(engine)
    Hogwild(prompt="p", context_limit=100, rules=False).check(engine)
    kv = BlockUsage(total=10, free=10, cached=0, used=0)
    engine.block_usage = lambda job=None: kv
    with pytest.raises(OutOfBlocks, match=r"10: .*rules"):
        Hogwild(prompt="p").check(engine)
    Hogwild(prompt="p", rules=False).check(engine)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resume": {"Alice": (3, 4), "Bob": (3, SIZE)}}, f"resume: Bob: token id {SIZE} "),
        ({"stop_token_ids": (3, SIZE)}, f"stop_token_ids: token id {SIZE} "),
    ],
)
def test_tokens_that_the_model_does_not_have(fields, message):
    engine = ScriptedEngine(["x"], tokenizer=TOKENIZER)
    engine.capabilities = Capabilities(live_views=True)
    with pytest.raises(InvalidInput, match=f"{message}is outside the vocabulary of {SIZE}"):
        Hogwild(prompt="p", rules=False, **fields).check(engine)
    Hogwild(prompt="p", rules=False, resume={"Alice": (0, SIZE - 1)}, stop_token_ids=(SIZE - 1,)).check(engine)


def test_greetings():
    first = opener("Ann", is_first=True, has_steps=True, is_apart=False)
    assert first == "**Ann [1]:** Hi, I'm Ann. Here's how we can"
    assert opener("Ben", is_first=False, has_steps=True, is_apart=True) == "\n\n**Ben [1]:** Hi, I'm Ben."
    assert opener("Ben", is_first=False, has_steps=False, is_apart=False) == "\n\n# Ben workspace\n\nHi, I'm Ben."


async def test_steps_headers_and_the_self_check_of_a_given_conversation():
    """The loop of section 4, worked out by hand."""
    script = {
        "A": said("i try 3.\n\n", "no: ", "so\n\n", "it is 4.\n\n", "ok "),
        "B": said("wait ", "a ", "bit ", "yes.\n\n", "then ", "we stop "),
    }
    method = job(script, self_check="same? ", self_check_every=20)
    result = await play(method)
    a, b = (record.id for record in result.trace.branches.values() if record.label in ("A", "B"))
    text = result.text
    assert text.startswith("**A [1]:** go i try 3.\n\n")
    # B's first step ended second, after A's two; the one that ended first behind the 20th token got the question.
    assert "**A [2]:** no: so\n\nit is 4.\n\n" in text
    assert text.count("same? ") == result.usage.counts["self_checks"] > 0
    blocks = [TOKENIZER.decode(s.token_ids) for s in result.trace.segments_of(a) if s.pieces]
    # The token that ended a step opens the next block, and is only there part of what was computed.
    assert blocks[0].startswith("**A [1]:** go i try 3") and blocks[1].startswith(".\n\n**A [2]:** ")
    assert result.trace.segments_of(b)


async def test_a_step_without_an_end_is_ended_by_force():
    script = {"A": said("and so on " * 20), "B": said("```x.\n\n" + "code " * 30)}
    result = await play(job(script, max_step=24, passes=60))
    assert result.usage.counts["forced_steps"] >= 3
    steps = result.text.split("\n\n**")
    assert any(step.startswith("A [2]:** ") for step in steps)
    first_of_b = result.text[result.text.index("**B [1]:** ") :].split("**B [2]:** ")[0]
    assert len(TOKENIZER.encode(first_of_b)) > 40  # twice the limit inside code


async def test_repetition_brings_the_self_check_early():
    script = {"A": said("a" * 30, "no.\n\n", "x" * 10), "B": said("b " * 40)}
    result = await play(job(script, self_check="same? ", self_check_every=None, check_repeats=True, passes=40))
    assert result.usage.counts["self_checks"] == 0  # the step's end breaks the loop
    script = {"A": said("so.\n\n", "so.\n\n", "x" * 30), "B": said("b " * 40)}
    result = await play(job(script, self_check="same? ", self_check_every=None, check_repeats=True, passes=30))
    assert result.usage.counts["self_checks"] == 1 and "**A [3]:** same? " in result.text


async def test_an_answer_at_a_step_end_ends_everybody():
    script = {"A": said("answer 7.\n\n", "more "), "B": said("b c d e f g h i j k l m ")}
    result = await play(job(script, answer="regex:answer (\\d)"))
    assert (result.answer, result.finish_reason) == ("7", "stop")
    assert "more" not in result.text and result.usage.counts["concluded"] == 0
    script = {"A": said("answer 7 more "), "B": said("b c d e f g h i j k l m ")}
    result = await play(job(script, answer="regex:answer (\\d)", passes=12, conclusion="so: ", conclusion_tokens=5))
    assert result.finish_reason == "length" and result.answer == "7"  # found in the unfinished step
    result = await play(job(script, answer="regex:never", passes=12, conclusion="so: ", conclusion_tokens=5))
    assert result.usage.counts["concluded"] == 1 and "so: " in result.text and result.answer is None


@pytest.mark.parametrize(
    ("fields", "width"), [({"leave_at": {"A": 5}}, None), ({"leave_at": {"A": 5, "B": 9}}, None), ({}, 1)]
)
async def test_who_is_waited_for_by_nobody_begins(fields, width):
    script = {"A": said("one two three four "), "B": said("red green blue black ")}
    join = {"A": 3} if width == 1 else {"B": 8}
    result = await play(job(script, passes=12, join_at=join, **fields), width=width)
    assert result.details["passes"] == (9 if "B" in fields.get("leave_at", {}) else 12)
    assert ("go one two" if width == 1 else "go red ") in result.text


async def test_policies_for_the_end_of_sequence_and_forged_headings():
    eos = TOKENIZER.pieces.index("Z")
    script = {"A": [*said("i am done"), eos, *said("dead ")], "B": said("b c d e f g h i j ")}
    result = await play(job(script), eos_ids=(eos,))
    assert result.finish_reason == "eos" and "Z" not in result.text and "dead" not in result.text
    free = {"A": said("i"), "B": said("b")}
    result = await play(job(free, policy="repo", passes=150, temperature=3.0), eos_ids=(eos,))
    assert result.finish_reason == "length"
    sampled = [t for s in result.trace.segments for p in s.pieces if p.kind == "sampled" for t in p.token_ids]
    banned = {eos, *pieces(TOKENIZER).hashes}
    assert len(sampled) == 300 and not banned & set(sampled)


async def test_a_quoted_box_ends_nothing():
    tokenizer = Other()
    quoted = tokenizer.encode("at the end \\boxed{answer here}.") + tokenizer.encode("\n\n")
    answered = tokenizer.encode("it is \\boxed{7} or \\boxed{answer here} ") + tokenizer.encode("so.\n\n")
    script = {"A": quoted + answered + said("more"), "B": said("b " * 80)}
    result = await play(job(script, answer="boxed"), tokenizer=tokenizer)
    assert (result.answer, result.finish_reason) == ("7", "stop")
    assert "**A [3]:** " in result.text and "more" not in result.text
    alone = await play(job({"A": quoted, "B": said("b " * 40)}, answer="boxed"), tokenizer=tokenizer)
    assert (alone.answer, alone.finish_reason) == (None, "length")


B_ENDS = {"late": said("b " * 40), "in the midst": said("b c d ", "yes.\n\n", "b " * 40)}
"""What B says so that A's `**` and `B [` come in one call or, since B's step ended between them, in two."""


@pytest.mark.parametrize("when", B_ENDS)
async def test_impersonation_ends_the_step(when):
    script = {"A": said("i say **B [9]:** hello ", "x" * 20), "B": B_ENDS[when]}
    result = await play(job(script, ban_impersonation=True, passes=25))
    assert result.usage.counts["impersonations"] == 1
    assert "**A [1]:** go i say \n\n" in result.text and "**A [2]:** " in result.text
    assert "B [9" not in result.text


@pytest.mark.parametrize("heading", ["### Past steps", "### Work in progress (own)"])
async def test_headings_are_not_to_be_written_either(heading):
    script = {"A": said("i say ", heading, "x" * 20), "B": said("b " * 40)}
    result = await play(job(script, ban_impersonation=True, passes=36))
    assert result.usage.counts["impersonations"] == 1 and "### Past" not in result.text
    assert result.text.count("### Work") == 1  # in front of the unfinished steps


async def test_who_forges_at_once_is_made_to_say_something_else(monkeypatch):
    """Without an empty step for each attempt; the tokens it began with are out of the question in that place."""
    banned = []
    original = TracedBranch.generate

    async def generate(self, params):
        banned.append((self.record.label, params.max_tokens, params.forbidden_ids))
        return await original(self, params)

    monkeypatch.setattr(TracedBranch, "generate", generate)
    stars, star = said("**")[0], said("*")[0]
    script = {"A": [*said("**B [**B ["), star, star, *said("B [fine "), *said("x" * 20)], "B": said("b " * 40)}
    result = await play(job(script, ban_impersonation=True, passes=30))
    assert result.usage.counts["impersonations"] == 3 and result.usage.counts["forced_steps"] == 0
    assert "**A [1]:** go fine x" in result.text
    calls = [set(forbidden) for label, most, forbidden in banned if label == "A" and forbidden and most == 1]
    assert calls == [{stars}, {stars}, {stars, star}]
    again = await play(job(sampled_tokens(result.trace), ban_impersonation=True, passes=30))
    assert again.text == result.text
    script = {"A": said("# B workspace ", "x" * 20), "B": said("b " * 40)}
    result = await play(job(script, ban_impersonation=True, layout="contiguous", passes=30))
    assert result.usage.counts["impersonations"] == 1 and "B workspace" not in result.text


def test_it_is_banned_by_default():
    assert Hogwild(prompt="p").ban_impersonation


@pytest.mark.parametrize("workers", [2, 3])
async def test_first_steps_do_not_run_into_each_other(workers):
    """A blank line stands between the first steps of the others, where there are others to stand between."""
    result = await play(job({}, workers=workers, openers=None, passes=1))
    began = [
        TOKENIZER.decode(result.trace.segments_of(branch.id)[0].token_ids).split("[")[0]
        for branch in result.trace.branches.values()
        if branch.label in DEFAULT_NAMES
    ]
    gap = "\n\n" if workers > 2 else ""
    assert began == ["**Alice ", *(f"{gap}**{name} " for name in ("Bob", "Carol")[: workers - 1])]


BLANKS = {piece: f"{piece[:-2]}!" for piece in TOKENIZER.pieces if piece.endswith(".\n\n")} | {"\n\n": "\n\n "}
"""Pieces in place of those that hold a full stop and a blank line: the one that is left holds a blank too many."""


@pytest.mark.parametrize("other", [said("b " * 40), said("b c d ef", "?\n\n", "b " * 40)])
async def test_a_blank_line_of_two_tokens_ends_a_step(other):
    tokenizer = Other(BLANKS)
    found = pieces(tokenizer)
    assert found.blank and found.is_split and not pieces(TOKENIZER).is_split
    script = {"A": [*tokenizer.encode("i try 3.\n\nand 4:\n\nno.\n\n"), *said("x" * 20)], "B": other}
    result = await play(job(script, passes=40), tokenizer=tokenizer)
    of_a = result.text.replace("**B [1]:** go b c d ef?\n\n", "")
    assert "**A [1]:** go i try 3.\n\n**A [2]:** and 4:\n\nno.\n\n" in of_a and "**A [3]:** " in of_a
    result = await play(job(script, passes=40, policy="repo"), tokenizer=tokenizer)
    assert "**A [2]:** " not in result.text  # there only tokens count


class Prefixed(ToyTokenizer):
    """Puts Q in front of whole texts, as others do BOS."""

    prefix_ids = (TOKENIZER.pieces.index("Q"),)

    def encode(self, text):
        return [*self.prefix_ids, *super().encode(text)]

    def encode_continuation(self, before, text):
        return super().encode(text)


async def test_the_concluding_text_begins_once():
    script = {"A": said("i try 3.\n\n", "no "), "B": said("b " * 10)}
    result = await play(job(script), tokenizer=Prefixed())
    assert "### Work in progress (others)" in result.text and "Q" not in result.text


async def test_stop_strings_are_found_across_the_others_step_ends():
    script = {"A": said("abcd  STOP def"), "B": said("b c d e", ".\n\n", "b " * 20)}
    result = await play(job(script, stop=("STOP",), passes=14))
    assert result.finish_reason == "stop" and "abcd" in result.text and "STOP" not in result.text


async def test_stop_strings_and_tokens_end_the_group():
    script = {"A": said("abc STOP def"), "B": said("b c d e f g h i j k l m n o p ")}
    result = await play(job(script, stop=("STOP",)))
    assert result.finish_reason == "stop" and "abc" in result.text and "STOP" not in result.text
    stop = TOKENIZER.pieces.index("Q")
    result = await play(job({"A": [*said("abc "), stop, *said("def")], "B": said("b " * 20)}, stop_token_ids=(stop,)))
    assert result.finish_reason == "stop" and "Q" not in result.text and "def" not in result.text
