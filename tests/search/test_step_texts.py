"""Texts of steps: together they are the text of the tokens, wherever tokens, characters and delimiters end."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait import Finish, ScriptedEngine, Sequential, TreeSearch
from plait.runtime.engines.scripted import CharTokenizer
from plait.search.rewards.base import Reward
from plait.tests.runtime.tools import run

PIECES = [
    b"<s>",
    b"</s>",
    *(bytes([byte]) for byte in b'ab;."q'),
    b".;a",
    b'b;"',
    b";;",
    b";\xe2",
    b"\x82",
    b"\xac;",
    b"\xff",
]
EOS = 1


class PieceTokenizer(CharTokenizer):
    """Tokens of several bytes, which end within characters and behind delimiters."""

    def encode_continuation(self, before, text):
        return [PIECES.index(bytes([byte])) for byte in text.encode()]

    def decode(self, token_ids):
        return b"".join(PIECES[token] for token in token_ids).decode(errors="replace")


class Fixed(ScriptedEngine):
    """Writes these tokens behind a prompt of two, in as many calls as it takes."""

    def __init__(self, tokens):
        self.written = tokens
        super().__init__([], tokenizer=PieceTokenizer())

    async def _sample(self, context, params):
        for token in [*self.written, EOS][len(context) - 2 :]:
            yield token


class Reading(Reward):
    """Notes the text of each trajectory beside that of its branch."""

    reward: Literal["test_reading"] = "test_reading"
    read: ClassVar[list[tuple[str, str]]] = []
    statistics: ClassVar[dict[str, Any]] = {}

    async def open(self, ctx, question):
        self.read.clear()
        return self

    async def score(self, nodes):
        for node in nodes:
            if node.branch is not None:
                spoken = [token for token in node.branch.tokens[2:] if token != EOS]
                self.read.append((node.trajectory_text, node.branch.scope.tokenizer.decode(spoken)))
        return [0.5] * len(nodes)

    def release(self, nodes):
        pass

    def close(self):
        pass


async def search(tokens, **fields):
    method = TreeSearch(prompt="q", width=1, reward=Reading(), **fields)
    return (await run(method, None, engine=Fixed(tokens)))[0], PieceTokenizer().decode


def written(pieces):
    return st.lists(st.sampled_from([PIECES.index(piece) for piece in pieces]), max_size=12)


@settings(deadline=None)
@given(written(PIECES[2:]), st.sampled_from([(";",), (".", '"'), (";a",), ("€",)]), st.integers(1, 6))
async def test_texts_of_steps_are_the_text_of_the_tokens(tokens, delimiters, step_tokens):
    result, decode = await search(tokens, strategy="rebase", delimiters=delimiters, step_tokens=step_tokens)
    *earlier, last = Reading.read
    assert last == (result.text, decode(tokens)) and result.text == decode(tokens)
    for text, spoken in earlier:
        assert text == spoken.rstrip("\ufffd") and result.text.startswith(text)


def ascii_written():
    return written(piece for piece in PIECES[2:] if piece.isascii())


@settings(deadline=None)
@given(
    ascii_written(),
    st.sampled_from(["rebase", "best_of_n"]),
    st.sampled_from([("b",), (".;", "q"), ('"',), (";", "a"), (";;",), (";a", ";.", '";b'), ("ab.;", "b")]),
    st.sampled_from([(";",), (".", '"'), ("a;", "q")]),
    st.integers(1, 6),
)
@example([PIECES.index(piece) for piece in (b"a", b".", b";", b"q")], "rebase", (".;", "q"), (".", '"'), 6)
@example([PIECES.index(piece) for piece in (b"a", b";", b";", b"b")], "rebase", (";;",), (".", '"'), 2)
async def test_stop_strings_are_cut_off_and_delimiters_stay(tokens, strategy, stop, delimiters, step_tokens):
    """Whatever steps they begin and end in; the branch is left with the tokens that end before it."""
    fields = {"strategy": strategy, "delimiters": delimiters, "step_tokens": step_tokens}
    result, _ = await search(tokens, **fields, stop=stop)
    ends = delimiters if strategy == "rebase" else ()
    plain = Sequential(prompt="q", stop=[one for one in stop if one not in ends], max_tokens=99)
    expected = (await run(plain, None, engine=Fixed(tokens)))[0]
    assert (result.text, result.finish_reason) == (expected.text, expected.finish_reason)
    text, spoken = Reading.read[-1]
    assert text == result.text and text.startswith(spoken)


@settings(deadline=None)
@given(ascii_written(), st.sampled_from([(";;",), ('.;"',), (";a", "b"), (".;a",)]), st.integers(1, 4))
async def test_steps_end_where_a_delimiter_does_that_was_cut_in_two(tokens, delimiters, step_tokens):
    await search(tokens, strategy="rebase", delimiters=delimiters, step_tokens=step_tokens)
    decode, begun, cut, texts = PieceTokenizer().decode, 0, 0, []

    def is_delimited(start, count):
        return any(end in decode(tokens[start:count]) for end in delimiters)

    while True:
        counts = range(cut + 1, len(tokens) + 1)
        called = next((count for count in counts if is_delimited(cut, count) or count == cut + step_tokens), None)
        if called is None:
            break  # the policy ended it in this call: what is whole stays whole
        if (count := next((count for count in counts if is_delimited(begun, count)), called)) <= called:
            called = count
        texts.append(decode(tokens[:called]))
        begun, cut = called if is_delimited(begun, called) else begun, called
    assert list(dict.fromkeys(text for text, _ in Reading.read)) == list(dict.fromkeys([*texts, decode(tokens)]))


@pytest.mark.parametrize(
    ("bounds", "pieces", "delimiter"),
    [
        ({"max_depth": 2, "step_tokens": 4}, (b"a", b"b", b"b", b";", b";", b"q"), ";;"),
        ({"max_tokens": 7, "step_tokens": 4}, (b"a", b"b", b"b", b";", b";", b"q"), ";;"),
    ],
)
async def test_a_step_that_the_policy_ended_stays_whole(bounds, pieces, delimiter):
    """Whatever delimiter is found in it only now: behind it nothing might follow."""
    tokens = [PIECES.index(piece) for piece in pieces]
    result, decode = await search(tokens, strategy="rebase", delimiters=(delimiter,), **bounds)
    assert (result.text, result.finish_reason) == (decode(tokens), Finish.EOS)
    assert result.details["finished"] == 1 and result.details["votes"]


async def test_a_delimiter_of_which_a_character_was_cut_in_two_ends_a_step():
    """Though the engine, which did not see it whole, stopped at another one behind it."""
    tokens = [PIECES.index(piece) for piece in (b"a", b";\xe2", b"\x82", b"\xac;", b"b", b"q")]
    await search(tokens, strategy="rebase", delimiters=("€", "q"), step_tokens=3)
    assert [text for text, _ in Reading.read][:3] == ["a;", "a;€;", "a;€;bq"]


@pytest.mark.parametrize("reward", ["judge", {"reward": "prm", "model": "countdown_prm"}])
async def test_a_stop_string_goes_off_the_steps_it_began_in(reward):
    """Whoever judges it: the trajectory ends where the string begins, two steps further up."""
    engine = ScriptedEngine(lambda context: "24-9 ;; #stop; no"[len(context) - 1 :])
    fields = {"delimiters": (";",), "stop": (";; #stop",), "step_tokens": 3, "width": 2, "merge": False}
    method = TreeSearch(prompt="q", strategy="rebase", reward=reward, **fields)
    result, _ = await run(method, None, engine=engine)
    assert (result.text, result.finish_reason, result.details["finished"]) == ("24-9 ", Finish.STOP, 2)


async def test_the_stop_string_of_a_search_ends_what_a_generator_writes():
    text = "It is 4.\n\nQuestion: What is 3+3?\n\nIt is 6."
    engine = ScriptedEngine(lambda context: text[len(context) - 1 :])
    generator = Sequential(prompt="?", max_tokens=10)
    method = TreeSearch(
        prompt="q", width=1, strategy="rebase", delimiters=("\n",), reward=Reading(), generator=generator,
        stop=("\n\nQ",),
    )  # fmt: skip
    result, _ = await run(method, None, engine=engine)
    assert (result.text, result.finish_reason) == ("It is 4.", Finish.STOP)


@pytest.mark.parametrize(
    ("stop", "strategy", "delimiters", "expected"),
    [
        (("\n",), "rebase", ("\n\n",), "It is 4;\n\nand no m\n\nore."),
        (("\n\n",), "best_of_n", ("\n\n",), "It is 4;\n\n"),
        (("\n\n", "END"), "rebase", ("\n\n",), "It is 4;\n\nand no m\n\nore."),
        ((";\n",), "rebase", ("\n",), "It is 4;\nand no m\nore."),
        (("\nand",), "rebase", ("\n",), "It is 4;"),
        ((";\n\nand",), "rebase", ("\n\n",), "It is 4"),
    ],
)
async def test_a_delimiter_behind_what_a_generator_wrote_completes_no_stop_string(stop, strategy, delimiters, expected):
    """The search put it there; what goes on behind it is looked through with it."""

    def write(context):
        return "It is 4;and no more."[len(context.replace("\n", "")) - 1 :]

    method = TreeSearch(
        prompt="q", width=1, strategy=strategy, delimiters=delimiters, stop=stop, reward=Reading(),
        generator=Sequential(prompt="?", max_tokens=8),
    )  # fmt: skip
    result, _ = await run(method, None, engine=ScriptedEngine(write))
    assert result.text == expected
