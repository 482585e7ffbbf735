"""Texts of steps: together they are the text of the tokens, wherever tokens, characters and delimiters end."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Finish, ScriptedEngine, TreeSearch
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


@settings(deadline=None)
@given(
    written(piece for piece in PIECES[2:] if piece.isascii()),
    st.sampled_from(["rebase", "best_of_n"]),
    st.sampled_from([("b",), (".;", "q"), ('"',), (";", "a")]),
    st.sampled_from([(";",), (".", '"')]),
)
async def test_stop_strings_are_cut_off_and_delimiters_stay(tokens, strategy, stop, delimiters):
    """The branch is left with the tokens that end before it."""
    result, decode = await search(tokens, strategy=strategy, delimiters=delimiters, stop=stop)
    ends = delimiters if strategy == "rebase" else ()
    assert (result.text, result.finish_reason) == expected(tokens, ends, stop, decode)
    text, spoken = Reading.read[-1]
    assert text == result.text and text.startswith(spoken)


def expected(tokens, ends, stop, decode):
    """Of text that is written in one call after another, each up to a delimiter or a stop string."""
    begun = 0
    for count in range(1, len(tokens) + 1):
        text = decode(tokens[begun:count])
        if found := [text.find(end) for end in stop if end in text and end not in ends]:
            return decode(tokens[:begun]) + text[: min(found)], Finish.STOP
        if any(end in text for end in ends):
            begun = count
    return decode(tokens), Finish.EOS
