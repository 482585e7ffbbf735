"""A written function as lines of the file."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from itertools import groupby

from ..definitions import Definition, Node, bound_names, parse
from .base import EditError
from .code_block import CodeBlock
from .lines import Change, file_lines
from .targets import Target

_ENCODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*[-\w.]+")  # PEP 263.


def rewritten(target: Target, lines: Sequence[str]) -> Change:
    """The old function becomes the new one. `lines`: of the file."""
    old, new = target.old, target.new
    assert old is not None
    above = _comments_above(target.block.lines, new)
    start = _first_comment(lines, old) if above else old.first
    kept = lines[old.first : old.head] if not new.node.decorator_list else []
    body = _indented(target.block, new, old.indent, lines[old.first : old.last])
    comments = [old.indent + line.strip() for line in above]
    return Change(first=start, last=old.last, lines=[*comments, *kept, *body], where=target.block.where)


def appended(target: Target, lines: Sequence[str]) -> Change:
    """A new function at the end of its class or file. Raises `EditError` for a class of one line."""
    scope, new = target.scope, target.new
    if scope is None:
        at, indent, space = len(lines), "", ["", ""]
    else:
        first = scope.node.body[0].lineno - 1
        line = lines[first]
        indent = line[: len(line) - len(line.lstrip())]
        if first == scope.head or len(indent) <= len(scope.indent):
            raise EditError(f"{target.block.where}: class {scope.name} stands on one line: write it whole")
        at, space = scope.last, [""]
    above = [indent + line.strip() for line in _comments_above(target.block.lines, new)]
    body = _indented(target.block, new, indent, ())
    return Change(first=at, last=at, lines=[*space, *above, *body], where=target.block.where)


def beside(target: Target, lines: Sequence[str]) -> Change:
    """A new setter, overload or the like at those of its name: behind them, but overloads before what they are of."""
    new = target.new
    alike = [one for one in target.siblings if one.role[:1] == new.role[:1]]
    other = (alike or target.siblings)[-1]
    above = [other.indent + line.strip() for line in _comments_above(target.block.lines, new)]
    written = [*above, *_indented(target.block, new, other.indent, ())]
    space = [""] if other.indent else ["", ""]
    if new.role[0] == "overload" and not alike:
        at = _first_comment(lines, target.siblings[0])
        written += space
    else:
        at = other.last
        written = [*space, *written]
    return Change(first=at, last=at, lines=written, where=target.block.where)


def imported(blocks: Sequence[CodeBlock], text: str) -> list[Change]:
    """Imports that the blocks have, their code uses and the file lacks. Raises `EditError` where the code uses what
    another statement of its block defines."""
    bound, modules = bound_names(text), _modules(text)
    added: dict[str, None] = {}
    for block in blocks:
        parts = [node for node in block.tree.body if isinstance(node, Node)]
        used = {name.id for part in parts for name in ast.walk(part) if isinstance(name, ast.Name)}
        for node in block.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    name = (alias.asname or alias.name).partition(".")[0]
                    # `import a.b` does not bring `a.c`.
                    is_part = isinstance(node, ast.Import) and alias.asname is None and name in modules
                    is_there = alias.name in modules if is_part else name in bound
                    if name in used and not is_there and getattr(node, "module", None) != "__future__":
                        added[ast.unparse(_only(node, alias))] = None
            elif node not in parts:
                names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and _stores(name)}
                if missing := sorted(names & used - bound):
                    raise EditError(
                        f"{block.where}: {missing[0]} is set beside the functions (line {node.lineno} of the block), "
                        f"where only imports may stand: set it inside the function"
                    )
    if not added:
        return []
    at = _place(text)
    return [Change(first=at, last=at, lines=list(added), where="the imports")]


def _modules(text: str) -> set[str]:
    """Modules that a Python text imports by their whole names outside its functions, and those that these are in."""
    tree = parse(text)
    found: set[str] = set()
    left: list[ast.AST] = [] if tree is None else [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names if alias.asname is None]
            found.update(".".join(parts[:end]) for parts in names for end in range(1, len(parts) + 1))
        elif not isinstance(node, Node | ast.expr):
            left += ast.iter_child_nodes(node)
    return found


def _stores(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _only(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.stmt:
    if isinstance(node, ast.Import):
        return ast.Import(names=[alias])
    return ast.ImportFrom(module=node.module, names=[alias], level=node.level)


def _place(text: str) -> int:
    """The line before which an import goes: behind those at the top of the file, else behind its docstring, else behind
    what only the first lines may say: the interpreter and the encoding."""
    tree = parse(text)
    at = 0
    for number, line in enumerate(file_lines(text)[:2], start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if (number == 1 and line.startswith("#!")) or _ENCODING.match(line):
            at = number
    for number, node in enumerate(tree.body if tree is not None else ()):
        is_docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, Node):
            break
        if is_docstring or isinstance(node, ast.Import | ast.ImportFrom):
            at = node.end_lineno or at
    return at


def _comments_above(lines: Sequence[str], definition: Definition) -> list[str]:
    return list(lines[_first_comment(lines, definition) : definition.first])


def _first_comment(lines: Sequence[str], definition: Definition) -> int:
    """Where the comments directly above a definition begin."""
    at = definition.first
    while at > 0 and lines[at - 1].startswith(definition.indent + "#"):
        at -= 1
    return at


def _indented(block: CodeBlock, new: Definition, indent: str, old: Sequence[str]) -> list[str]:
    """The lines of the new function, indented as the old one is.

    Inside a string white space is text: its lines are moved with the code only where that makes more of them lines of
    the old function than leaving them as they were written.
    """
    numbers = range(new.first, new.last)
    moved = [indent + block.lines[n].removeprefix(new.indent) if block.lines[n].strip() else "" for n in numbers]
    written = [block.written[n] for n in numbers]
    known = set(old)
    result: list[str] = []
    for is_text, group in groupby(range(len(moved)), key=lambda at: new.first + at in block.inner):
        part = list(group)
        here, there = ([lines[at] for at in part] for lines in (written, moved))
        stays = is_text and sum(line in known for line in here) >= sum(line in known for line in there)
        result += here if stays else there
    return result
