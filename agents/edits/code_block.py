"""A block of Python that a model wrote: its name line, its syntax tree."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..definitions import Definition, definitions, parse, problem
from .base import EditError, Source
from .fences import Fence, fences
from .names import name_in, read_name

_PYTHON = ("", "py", "python", "python3")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBlock:
    where: str
    """What messages call it: `block 2`."""
    path: str | None
    """As its name line writes it."""
    name: str | None
    lines: Sequence[str]
    """Without the margin of its first statement."""
    written: Sequence[str]
    """With it."""
    inner: frozenset[int]
    """Lines, from 0, that begin inside a string that is no docstring: white space there is the string's."""
    tree: ast.Module
    definitions: Sequence[Definition]


def code_blocks(text: str, source: Source) -> list[CodeBlock]:
    """The Python blocks of an edit; all of it, if that is Python. Raises `EditError` for a block that
    does not parse."""
    found = [block for block in fences(text) if block.info.split(" ")[0].lower() in _PYTHON or "::" in block.info]
    if re.search(r"(?m)^[ \t]*(async def|def|class)\b", text):
        lines = text.replace("\r\n", "\n").split("\n")
        whole = Fence(line=1, info="", before="", lines=lines, is_closed=True)
        if not found:
            return [_read(whole, 1, source)]
        # The fences of what is Python as a whole stand in its docstrings.
        with suppress(EditError):
            return [_read(whole, 1, source)]
    return [_read(block, number, source) for number, block in enumerate(found, start=1)]


def _read(block: Fence, number: int, source: Source) -> CodeBlock:
    lines = list(block.lines)
    where = f"block {number} (line {block.line})"
    first = next((at for at, line in enumerate(lines) if line.strip()), None)
    named = name_in(block.info if "::" in block.info else block.before, source, where)
    if first is not None:
        is_comment = lines[first].lstrip().startswith("#")
        own = read_name(lines[first], source)
        if own is None and named is None and is_comment:
            own = name_in(lines[first], source, where)
        if own is not None and (is_comment or own[1] is not None):
            named = own
            lines[first] = ""
    if named is not None and named[1] is None and named[0] not in source.files:
        named = None
    code = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    margin = code[: len(code) - len(code.lstrip())]
    written, lines = lines, [line.removeprefix(margin) for line in lines]
    text = "\n".join(lines) + "\n"
    tree = parse(text)
    if tree is None:
        wrong = re.sub(r"^line (\d+)", lambda match: f"line {match[1]} of the block", problem(text) or "")
        raise EditError(f"{where} is no valid Python: {wrong}")
    path, name = named or (None, None)
    return CodeBlock(
        where=where,
        path=path,
        name=name,
        lines=lines,
        written=written,
        inner=_inside_strings(text),
        tree=tree,
        definitions=definitions(tree, lines),
    )


def _inside_strings(text: str) -> frozenset[int]:
    """Lines that begin inside a string, other than one that is a statement of its own."""
    inside: set[int] = set()
    begins_statement, depth, start = True, 0, 0
    for token in _tokens(text):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":
            depth, start = depth + 1, token.start[0] if depth == 0 else start
        elif kind == "FSTRING_END":
            depth -= 1
            if depth == 0:
                inside.update(range(start, token.end[0]))
        elif kind == "STRING" and not begins_statement:
            inside.update(range(token.start[0], token.end[0]))
        if kind not in ("COMMENT", "NL"):
            begins_statement = kind in ("NEWLINE", "INDENT", "DEDENT", "ENCODING")
    return frozenset(inside)


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    # What parses may still be too odd for this reader; what it has read until there counts.
    with suppress(tokenize.TokenError, SyntaxError):
        yield from tokenize.generate_tokens(io.StringIO(text).readline)
