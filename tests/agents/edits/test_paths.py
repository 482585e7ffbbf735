"""Which file a path of a model means."""

from __future__ import annotations

import pytest

from plait.agents.edits.base import EditError, Excerpt, Source
from plait.agents.edits.paths import existing

FILES = dict.fromkeys(["src/shop/cart.py", "src/shop/till.py", "old/till.py", "setup.py"], "x = 1\n")


def source(*shown: str) -> Source:
    return Source(files=FILES, excerpts=[Excerpt(path=path, text="x = 1\n") for path in shown], paths=list(FILES))


def test_folders_may_be_left_out_where_one_file_that_was_shown_ends_so():
    assert existing("cart.py", source("src/shop/cart.py"), "it") == "src/shop/cart.py"
    assert existing("shop/cart.py", source("src/shop/cart.py", "src/shop/till.py"), "it") == "src/shop/cart.py"
    assert existing("setup.py", source("src/shop/cart.py"), "it") == "setup.py", "what is there is meant"


@pytest.mark.parametrize(
    "path, shown",
    [
        ("till.py", ("src/shop/till.py", "old/till.py")),  # two end so
        ("till.py", ("src/shop/cart.py",)),  # none that was shown does
        ("art.py", ("src/shop/cart.py",)),  # not at a folder's name
    ],
)
def test_else_it_is_no_file(path, shown):
    with pytest.raises(EditError, match="there is no file"):
        existing(path, source(*shown), "it")
