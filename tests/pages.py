"""The files that a page of the documentation holds, and its blocks of Python as modules for the type checker."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def named_files(page: str) -> dict[str, str]:
    """Name -> text, to the letter. The name is a comment on top, or, since JSON has none, ends the sentence before."""
    commented = re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", page, re.DOTALL)
    return dict([*commented, *re.findall(r"`(\S+\.json)`:\n\n```json\n(.*?)```", page, re.DOTALL)])


def modules() -> dict[str, str]:
    """Name -> text, one of each block: its page, and the line there of its fence. Its lines are numbered as there."""
    pages = [
        ROOT / "README.md",
        ROOT / "rl" / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("models/*/README.md"),
    ]
    found = {}
    for path in pages:
        page = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^```py(?:thon)?\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
            line = page.count("\n", 0, match.start()) + 1
            name = "_".join(path.relative_to(ROOT).with_suffix("").parts)
            found[f"{name}_{line}"] = "\n" * (line - 2) + _module(match[1])
    return found


def _module(block: str) -> str:
    """The block behind two lines: what it takes for granted, and a function around it if it awaits something outside of
    one."""
    given = "" if "import plait" in block else "import plait"
    code = compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        return f"{given}\nasync def block() -> None:\n{textwrap.indent(block, '    ')}"
    return f"{given}\n\n{block}"


if __name__ == "__main__":
    package = Path(sys.argv[1])
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in modules().items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
