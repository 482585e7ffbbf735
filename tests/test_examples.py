"""The Python in README, docs and model cards runs as it stands."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path

import pytest

import plait

ROOT = Path(plait.__file__).parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("models/*/README.md"))]
PAGES.remove(ROOT / "docs" / "methods.md")  # Its blocks belong together: see test_methods_page.py.
EXAMPLES = [
    pytest.param(match[1], id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, match in enumerate(re.finditer(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_run(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"plait": plait}
    code = compile(text, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.iscoroutine(running := eval(code, namespace)):
        asyncio.run(running)
    if "print(" in text:
        assert capsys.readouterr().out.strip()


def test_there_are_examples():
    assert len(EXAMPLES) > 3
