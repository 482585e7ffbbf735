"""Functions and classes of a Python text, and the lines they take up."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..runtime.python_text import undisturbed

Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function or class; not one inside a function. Lines count from 0."""

    name: str
    """Qualified: `Blueprint.__init__`."""
    node: Node
    first: int
    """Its first decorator, or its `def` or `class`."""
    head: int
    """Its `def` or `class`."""
    last: int
    """Behind its last line; comments below it that are indented deeper than it is belong to it."""
    indent: str

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def decorators(self) -> list[str]:
        return [ast.unparse(decorator) for decorator in self.node.decorator_list]

    @property
    def role(self) -> tuple[str, ...]:
        """What it is beside others of its name that all stay in use: a property's setter, an overload with its
        arguments, a function that only its decorators give a name to (`_`), with the type it is for. Empty: it is the
        one that the name stands for."""
        if isinstance(self.node, ast.ClassDef) or not self.node.decorator_list:
            return ()
        callees = [ast.unparse(getattr(decorator, "func", decorator)) for decorator in self.node.decorator_list]
        for callee in callees:
            owner, _, last = callee.rpartition(".")
            if last == "overload":
                return ("overload", ast.unparse(self.node.args))
            if owner and last in ("getter", "setter", "deleter"):
                return (last,)
        if self.node.name != "_":
            return ()
        arguments = [*self.node.args.posonlyargs, *self.node.args.args]
        types = [ast.unparse(argument.annotation) for argument in arguments if argument.annotation is not None]
        return (callees[0], *self.decorators, *types[:1])


def parse(text: str) -> ast.Module | None:
    """The syntax tree, its lines apart at `\\n` alone; None: no valid Python (of the version this runs on)."""
    tree = _parse(text)
    return tree if isinstance(tree, ast.Module) else None


def problem(text: str) -> str | None:
    """What is wrong with a Python text, with line and source; None: it parses."""
    error = _parse(text)
    if isinstance(error, ast.Module):
        return None
    if not isinstance(error, SyntaxError) or error.lineno is None:
        return str(error) or type(error).__name__
    lines = text.split("\n")
    source = lines[error.lineno - 1].strip()[:160] if 0 < error.lineno <= len(lines) else ""
    return f"line {error.lineno}: {error.msg}" + (f": {source}" if source else "")


def bound_names(text: str) -> set[str]:
    """Names that the top level of a Python text binds."""
    try:
        with undisturbed():
            table = symtable.symtable(_plain(text), "text", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}


def _parse(text: str) -> ast.Module | Exception:
    try:
        with undisturbed():
            return ast.parse(_plain(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error


def _plain(text: str) -> str:
    """Without what is none of the text, a byte order mark, and without lone carriage returns, which end a line for
    Python and for nobody else."""
    return re.sub(r"\r(?!\n)", " ", text.removeprefix("\ufeff"))


def definitions(tree: ast.Module, lines: Sequence[str]) -> list[Definition]:
    """All definitions in the order of the text. `lines`: of the text the tree is of."""
    found = []
    # Not by recursion: a chain of `elif` is as deep as it is long.
    left: list[tuple[ast.stmt, str]] = [(node, "") for node in reversed(tree.body)]
    while left:
        node, prefix = left.pop()
        if isinstance(node, Node):
            found.append(_definition(node, prefix, lines))
        if isinstance(node, ast.ClassDef):
            left += [(inner, f"{prefix}{node.name}.") for inner in reversed(node.body)]
        elif not isinstance(node, Node):
            left += [(inner, prefix) for inner in reversed([*_inner(node)])]
    return found


def _inner(node: ast.stmt) -> Iterator[ast.stmt]:
    """Statements of an `if`, `try`, `with`, `match` or loop."""
    yield from getattr(node, "body", ())
    for case in getattr(node, "cases", ()):
        yield from case.body
    for handler in getattr(node, "handlers", ()):
        yield from handler.body
    yield from getattr(node, "orelse", ())
    yield from getattr(node, "finalbody", ())


def _definition(node: Node, prefix: str, lines: Sequence[str]) -> Definition:
    head = node.lineno - 1
    first = min([head, *(decorator.lineno - 1 for decorator in node.decorator_list)])
    indent = lines[head][: len(lines[head]) - len(lines[head].lstrip())]
    assert node.end_lineno is not None
    last = node.end_lineno
    for number in range(last, len(lines)):
        line = lines[number]
        if not line.strip():
            continue
        if not (line.startswith(indent) and line[len(indent)].isspace() and line.lstrip().startswith("#")):
            break
        last = number + 1
    return Definition(name=prefix + node.name, node=node, first=first, head=head, last=last, indent=indent)
