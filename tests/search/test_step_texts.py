"""Texts of steps: together they are the text of the tokens, wherever tokens, characters and delimiters end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from plait import ScriptedEngine, TreeSearch
from plait.runtime.engines.scripted import CharTokenizer
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


@settings(deadline=None)
@given(
    st.lists(st.integers(2, len(PIECES) - 1), max_size=12),
    st.sampled_from([(";",), (".", '"'), (";a",), ("€",)]),
    st.integers(1, 6),
)
async def test_texts_of_steps_are_the_text_of_the_tokens(tokens, delimiters, step_tokens):
    seen = []

    def reward(prompt, steps):
        seen.append("".join(steps))
        return 0.5

    method = TreeSearch(
        prompt="q", width=1, strategy="rebase", reward=reward, delimiters=delimiters, step_tokens=step_tokens
    )
    engine = Fixed(tokens)
    result, _ = await run(method, None, engine=engine)
    whole = engine.tokenizer.decode(tokens)
    assert result.text == whole == seen[-1]
    assert all(whole.startswith(text) for text in seen)
