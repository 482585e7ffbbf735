"""Text that cannot steer a terminal."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from plait.runtime.printable import printable


@given(st.text())
def test_nothing_but_tabs_and_line_ends_is_left_of_what_steers(text):
    shown = printable(text)
    assert {char for char in shown if unicodedata.category(char) == "Cc"} <= {"\t", "\n"}
    assert not {char for char in shown if unicodedata.bidirectional(char) in ("RLO", "LRO", "RLE", "LRE", "RLI", "LRI")}
    if all(char.isprintable() for char in text):
        assert shown == text


def test_escapes_are_spelt_out():
    assert printable("\x1b[31mred\x1b[0m\ta\r\nb\rc\x9b") == "\\x1b[31mred\\x1b[0m\ta\nb\\rc\\x9b"
