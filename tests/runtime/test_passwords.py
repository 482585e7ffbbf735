"""What addresses are shown as; that no message tells a password, however malformed, is in mqtt/test_pool.py."""

from __future__ import annotations

import pytest

from plait.runtime.passwords import without_password


@pytest.mark.parametrize("name", ["mqtt://h:1883/a/b", "mqtt://[::1]:1883/p", "org/name@rev", "org/name:F.gguf", "C:x"])
def test_names_without_a_password_are_told_whole(name):
    assert without_password(name) == name


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("mqtt://u:secret@h:1883/p", "mqtt://...@h:1883/p"),
        ("mqtt://u:se@cret@[::1]/p", "mqtt://...@[::1]/p"),
        ("mqtt://h/p?password=secret", "mqtt://h/p..."),
    ],
)
def test_what_may_be_one_is_left_out(address, shown):
    assert without_password(address) == shown
