"""What Python files hold: their functions, and an outline to show."""

from __future__ import annotations

import ast

from .definitions import Definition, definitions, parse
from .edits.base import Excerpt
from .edits.lines import split


def functions(path: str, text: str) -> list[Excerpt]:
    """Every function and method with its decorators, and every class that has no methods; none of what is no valid
    Python. The text is that of the file, line by line."""
    tree = parse(text)
    if tree is None:
        return []
    lines = split(text)
    found = definitions(tree, lines)
    owners = {one.name.rpartition(".")[0] for one in found}
    return [
        Excerpt(path=path, name=one.name, first_line=one.first + 1, text="".join(lines[one.first : one.last]))
        for one in found
        if not one.is_class or one.name not in owners
    ]


def outline(text: str, *, most: int = 40) -> str:
    """Signatures with line numbers and the first line of each docstring; of what is no valid Python its first `most`
    lines."""
    tree = parse(text)
    if tree is None:
        return "\n".join(text.split("\n")[:most])
    return "\n".join(_line(one) for one in definitions(tree, split(text)))


def _line(one: Definition) -> str:
    node = one.node
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in [*node.bases, *(word.value for word in node.keywords)])
        signature = f"class {node.name}" + (f"({bases})" if bases else "")
    else:
        word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
        signature = f"{word} {node.name}({ast.unparse(node.args)}){returns}"
    doc = (ast.get_docstring(node) or "").strip().split("\n")[0]
    decorators = "".join(f"@{name} " for name in one.decorators)
    return f"{one.head + 1}: {'    ' * one.name.count('.')}{decorators}{signature}" + (f"  # {doc}" if doc else "")
