"""Stop strings in a text that comes token by token: found with the first token that completes one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.engines.native.sampled_text import SampledText
from plait.tests.runtime.engines.native.helpers import IdTokenizer

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
        kept = text.num_kept(match)
        written = [len(TOKENIZER.decode(given_tokens[:n])) for n in range(count + 1)]
        if include:
            assert written[kept] >= end > written[kept - 1]
        else:
            assert written[kept] <= end and (kept == count or written[kept + 1] > end)
        assert text.cut(match, given_tokens[:kept]) == whole[:end]
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


class ByteTokenizer(IdTokenizer):
    """A token is a byte of UTF-8."""

    def decode(self, tokens):
        return bytes(tokens).decode(errors="replace")


characters = st.text("aé✓😀", max_size=8)


@given(characters, st.text("aé✓😀", min_size=1, max_size=2), st.booleans())
def test_characters_of_several_tokens_stay_whole(written, stop, include):
    text, shown = SampledText(ByteTokenizer(256), [stop], include_stop=include), 0
    for byte in written.encode():
        if (match := text.push(byte)) is not None:
            kept = written.encode()[: text.num_kept(match)]
            assert kept.decode() == text.cut(match, kept) == written[: match.at + len(stop) * include]
            assert shown <= len(kept)
            return
        shown = text.num_certain(shown)
        assert written.startswith(written.encode()[:shown].decode())
    assert stop not in written
