"""Functions of files, outlines, and the ranking of files and functions by the words of an issue."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agents.lexical import rank_files, rank_functions
from plait.agents.outline import functions, outline
from plait.agents.repository import Repository, is_test, is_test_file

TEXT = '''\
"""Doc."""
import os
\f
class Cart(dict, metaclass=Meta):
    """What a customer wants.

    More.
    """

    @property
    @cached
    def total(
        self,
    ) -> float:
        return 1  # \u2028

    class Inner:
        x = 1


if os:
    async def load(path: str, *, n=3):
        """Read."""
        def inner():
            pass
        return path
        # Its last line.
    # Not its.
else:
    load = None
'''


def test_functions_are_the_lines_of_the_file():
    found = functions("a.py", TEXT)
    lines = TEXT.split("\n")
    assert [(one.name, one.first_line) for one in found] == [("Cart.total", 10), ("Cart.Inner", 17), ("load", 22)]
    for one in found:
        count = one.text.count("\n")
        assert one.path == "a.py"
        assert one.text == "\n".join(lines[one.first_line - 1 : one.first_line - 1 + count]) + "\n"
    assert found[0].text.startswith("    @property") and found[0].text.endswith("return 1  # \u2028\n")
    assert found[2].text.endswith("# Its last line.\n")


def test_an_outline_shows_signatures_with_their_lines():
    assert outline(TEXT) == (
        "4: class Cart(dict, Meta)  # What a customer wants.\n"
        "12:     @property @cached def total(self) -> float\n"
        "17:     class Inner\n"
        "22: async def load(path: str, *, n=3)  # Read."
    )


def test_what_is_no_python_has_no_functions():
    assert functions("a.py", "print 1\n") == []
    assert outline("print 1\nprint 2\nprint 3\n", most=2) == "print 1\nprint 2"
    assert outline("") == "" and functions("a.py", "x\0") == []
    assert functions("a.py", "(" * 10_000) == []


def test_windows_lines_and_no_last_newline():
    (one,) = functions("a.py", "def f():\r\n    return 1")
    assert one.text == "def f():\r\n    return 1"


@given(st.text())
def test_any_text_has_an_outline(text):
    outline(text)
    functions("a.py", "def f():\n    x\n" + text)


SHOP = {
    "shop/__init__.py": "from .cart import Cart\n",
    "shop/cart.py": (
        "class Cart:\n"
        "    def __init__(self, owner):\n        self.owner = owner\n        self.items = []\n\n"
        "    def total(self):\n        return sum(item.price for item in self.items)\n\n"
        "    def clear(self):\n        self.items = []\n"
    ),
    "shop/discount.py": (
        "def apply_discount(total, percent):\n    if percent > 100:\n        raise ValueError(percent)\n"
        "    return total - total * percent\n"
    ),
    "shop/storage.py": (
        "def save_items(items, path):\n    path.write_text(items)\n\n\ndef load_items(path):\n    return path\n"
    ),
    "README.md": "Carts and discounts.\n",
}


@pytest.mark.parametrize(
    ("issue", "path", "function"),
    [
        (
            "apply_discount gives negative totals\nWith `percent=50` the total is negative.",
            "shop/discount.py",
            "apply_discount",
        ),
        ("Total ignores counts\nThe total of a cart with two of an item is too low.", "shop/cart.py", "Cart.total"),
        ("Cart without an owner\nCreating a Cart with owner None should fail.", "shop/cart.py", "Cart.__init__"),
        (
            'It fails\n  File "/usr/lib/shop/storage.py", line 2, in save_items\nTypeError',
            "shop/storage.py",
            "save_items",
        ),
        ("Wrong result\nI call shop.discount and get nonsense of carts, items, totals.", "shop/discount.py", None),
        ("items of a cart are lost\nSee shop/storage.py", "shop/storage.py", None),
    ],
)
def test_the_words_of_an_issue_find_the_place(issue, path, function):
    ranked = rank_files(issue, SHOP)
    assert ranked[0] == path and sorted(ranked) == sorted(SHOP)
    if function is not None:
        assert rank_functions(issue, SHOP, ranked[:2])[0].name == function


def test_without_a_word_in_common_the_order_is_that_of_the_paths():
    for issue in ("", "zzz"):
        assert rank_files(issue, SHOP) == sorted(SHOP)
        assert [one.name for one in rank_functions(issue, SHOP, ["shop/storage.py"])] == ["save_items", "load_items"]
    assert rank_files("x", {}) == [] and rank_functions("x", {}, []) == []


def test_the_order_of_the_files_does_not_matter():
    issue = "Total of a Cart"
    backwards = dict(reversed(SHOP.items()))
    assert rank_files(issue, backwards) == rank_files(issue, SHOP)
    assert rank_functions(issue, SHOP, backwards) == rank_functions(issue, SHOP, SHOP)


FLASK = """Require a non-empty name for Blueprints
Things do not work correctly if a Blueprint is given an empty name (e.g. #4944). It would be helpful if a `ValueError`
was raised when trying to do that."""
PYTEST = """Symlinked directories not collected since pytest 6.1.0
When there is a symlink to a directory in a test directory, it is skipped over, but it should be followed and collected
as usual. For some reason there is a `follow_symlinks=False` in there; it should be removed."""


@pytest.mark.parametrize(
    ("name", "commit", "issue", "path", "function"),
    [
        (
            "pallets+flask",
            "7ee9ceb71e868944a46e1ff00b506772a53a4f1d",
            FLASK,
            "src/flask/blueprints.py",
            "Blueprint.__init__",
        ),
        ("pytest-dev+pytest", "a7e38c5c61928033a2dc1915cbee8caa8544a4d0", PYTEST, "src/_pytest/pathlib.py", "visit"),
    ],
)
def test_real_issues_find_the_place_of_their_fix(name, commit, issue, path, function):
    repository = Path(os.environ.get("PLAIT_REPOS", "/nowhere")) / name / "repo"
    if not repository.is_dir():
        pytest.skip(f"PLAIT_REPOS names no folder with {name}/repo")
    files = Repository(repository, commit).files()
    files = {path: text for path, text in files.items() if path.endswith(".py") and not is_test(path)}
    ranked = [path for path in rank_files(issue, files) if not is_test_file(path)]
    assert ranked[0] == path
    assert function in [one.name for one in rank_functions(issue, files, ranked[:5])[:3]]
