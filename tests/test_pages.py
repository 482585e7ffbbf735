"""The pages' Python, as `make check` shows it to the type checker."""

from __future__ import annotations

import ast

from plait.tests.pages import ROOT, modules


def test_the_modules_have_the_blocks_on_their_lines():
    found = {name: text for name, text in modules().items() if name.startswith("docs_tutorial_")}
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").splitlines()
    assert len(found) == sum(line.startswith("```py") for line in page)
    for name, text in found.items():
        fence = int(name.removeprefix("docs_tutorial_"))
        assert page[fence - 1].startswith("```py")
        block = text.splitlines()[fence:]
        assert block and [line.strip() for line in block] == [line.strip() for line in page[fence:]][: len(block)]


def test_every_module_is_python():
    found = modules()
    assert any("async def block() -> None:" in text for text in found.values())
    for name, text in found.items():
        ast.parse(text, name)
