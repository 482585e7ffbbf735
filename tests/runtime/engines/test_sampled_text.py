"""Stop strings in a text that comes token by token: found with the first token that completes one."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.sampled_text import SampledText
from plait.tests import real
from plait.tests.runtime.engines.native.helpers import IdTokenizer
from plait.tests.runtime.engines.native.tokenizer_kinds import KINDS, ours

TOKENIZER = IdTokenizer(200)
tokens = st.lists(st.sampled_from([1, 2, 11, 12, 21, 121]), max_size=12)
stops = st.lists(
    st.sampled_from(["1.", "1.1", ".2", "12.1", "2.12", "21.", "1.2.1", ".", "11.", "1.1.2"]), min_size=1, max_size=3
)


@given(tokens, stops, st.booleans())
def test_a_stop_is_found_where_a_search_of_the_whole_text_finds_it(given_tokens, stops, include):
    text = SampledText(TOKENIZER, stops, include_stop=include)
    for count, token in enumerate(given_tokens, 1):
        whole = TOKENIZER.decode(given_tokens[:count])
        places = sorted((whole.find(stop), stops.index(stop)) for stop in stops if stop in whole)
        match = text.push(token)
        if not places:
            assert match is None
            continue
        assert match is not None and (match.at, match.stop) == (places[0][0], stops[places[0][1]])
        end = match.at + len(match.stop) if include else match.at
        kept = text.num_kept(match, given_tokens[:count])
        written = [len(TOKENIZER.decode(given_tokens[:n])) for n in range(count + 1)]
        if include:
            assert written[kept] >= end > written[kept - 1]
        else:
            assert written[kept] <= end and (kept == count or written[kept + 1] > end)
        assert text.cut(match, given_tokens[:count]) == whole[:end]
        return


@given(tokens, stops)
def test_what_is_certain_no_stop_can_take_back(given_tokens, stops):
    text = SampledText(TOKENIZER, stops, include_stop=False)
    certain = 0
    for count, token in enumerate(given_tokens, 1):
        if text.push(token) is not None:
            return
        whole = TOKENIZER.decode(given_tokens[:count])
        begun = [n for stop in stops for n in range(1, len(stop)) if whole.endswith(stop[:n])]
        safe = len(whole) - max(begun, default=0)
        certain = text.num_certain(certain)
        expected = max(n for n in range(count + 1) if len(TOKENIZER.decode(given_tokens[:n])) <= safe)
        assert certain == expected


class PieceTokenizer(IdTokenizer):
    """A token is a piece of a text's UTF-8."""

    def __init__(self, pieces: list[bytes]):
        super().__init__(len(pieces))
        self.pieces = pieces

    def decode(self, tokens):
        return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")


def assert_as_brute_force(tokenizer, tokens, stop, include):
    """The stop ends the text where it is first found in all that is written so far, the branch keeps the tokens that
    spell what is in front, and none of them was taken back from who reads along."""
    text, shown = SampledText(tokenizer, [stop], include_stop=include), 0
    for count, token in enumerate(tokens, 1):
        match, whole = text.push(token), tokenizer.decode(tokens[:count])
        assert (match is not None) == (stop in whole)
        if match is None:
            shown = text.num_certain(shown)
            continue
        end = whole.find(stop) + len(stop) * include
        kept = text.num_kept(match, tokens[:count])
        assert text.cut(match, tokens[:count]) == whole[:end]
        if include:
            assert kept == next(n for n in range(count + 1) if stop in tokenizer.decode(tokens[:n]))
        else:
            assert kept == max(n for n in range(count + 1) if whole[:end].startswith(tokenizer.decode(tokens[:n])))
        assert shown <= kept
        return


characters = st.text(" aé✓😀\ufffd", max_size=8)


@given(characters, st.text(" aé✓😀", min_size=1, max_size=2), st.booleans(), st.sets(st.integers(1, 31)))
@example("a 😀 b", "😀", False, {1, 4, 6})  # a token of a space and half the stop
@example("a 😀", "a ", True, {1, 4})
@example("a \ufffd stop", " stop", False, {1, 5})  # U+FFFD that the model wrote
def test_characters_of_several_tokens_stay_whole(written, stop, include, borders):
    encoded = written.encode()
    cuts = [0, *sorted(border for border in borders if border < len(encoded)), len(encoded)]
    tokenizer = PieceTokenizer([encoded[start:end] for start, end in pairwise(cuts)])
    assert_as_brute_force(tokenizer, list(range(tokenizer.vocab_size)), stop, include)


@pytest.mark.parametrize("name", [*KINDS, *real.NAMES])
@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", " ", " 👩", "\ufffd", " stop", "é", "\n", "世"]), min_size=2, max_size=9),
    st.lists(st.integers(0, 299), max_size=9),
    st.booleans(),
    st.data(),
)
def test_tokens_of_real_kinds_stay_whole(name, texts, some, include, data):
    """Texts as they are encoded, and tokens that are no text at all, as bytes that are not UTF-8."""
    tokenizer = ours(name) if name in KINDS else loaded(name)
    tokens = data.draw(st.sampled_from([tokenizer.encode("".join(texts)), [*tokenizer.encode("a"), *some]]))
    whole = tokenizer.decode(tokens)
    readable = [place for place, char in enumerate(whole) if char != "\ufffd"]
    assume(readable)
    start = data.draw(st.sampled_from(readable))
    stop = whole[start : start + data.draw(st.integers(1, 3))].partition("\ufffd")[0]
    assert_as_brute_force(tokenizer, tokens, stop, include)


@cache
def loaded(name):
    return HFTokenizer.load(real.folder(name))
