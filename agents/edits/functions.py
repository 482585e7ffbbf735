"""Whole functions, methods and classes: the form of small models, which cannot copy search lines exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ..definitions import Node
from .base import Edit, EditError, EditForm, NothingFound, Source
from .code_block import CodeBlock, code_blocks
from .finish import finish
from .lines import Change, change, file_lines
from .paths import existing
from .rewriting import appended, beside, imported, rewritten
from .targets import Scope, Target, find


class Functions(EditForm):
    """Functions written anew; where they stand in the file is found by their names.

    - A line `path::Qualified.name` above a code block, or as its first comment, names what the block holds. Without one
      the name of the `def` must be that of one thing shown.
    - A path that is not there is left out of account where the name is that of one thing shown.
    - `class X:` around methods only says where they belong, unless the line names `X`, or `X` was shown as such and not
      as a part of a file: then it is the whole class.
    - A function that the file does not have goes to the end of the class or file that the line names.
    - A setter, an overload or another `@x.register def _` is one more function, unless the file has the same.
    - Decorators and comments above the old one stay where the new one has none.
    - Imports in a block are added to the file where the new code uses them and the file has nothing of that name; other
      statements beside the functions are left out, and refused if the functions use what they define.
    - The same function twice: the last one counts.
    """

    name: ClassVar[str] = "functions"
    example: ClassVar[str] = """\
<edit>
shop/cart.py::Cart.total
```python
    def total(self):
        return sum(item.price * item.count for item in self.items)
```
</edit>"""

    def instructions(self) -> str:
        return """\
Write every function or method that changes whole, all inside one <edit> and </edit>. For each one:
first a line path/of/file.py::Name, or path/of/file.py::Class.name for a method,
then a ```python block with the whole new function, from its first to its last line.
Rules:
- Leave nothing out: the function will hold exactly these lines. Write no "..." and no "rest unchanged".
- Keep its name and what you do not need to change. Do not repeat functions that stay as they are.
- A name that the file does not have makes a new function, at the end of that class or file.
- To change a class outside its methods, write the whole class, named path/of/file.py::Class, if you see all of it."""

    def parse(self, text: str, source: Source) -> Edit:
        try:
            return self._parse(text, source)
        except RecursionError:
            raise EditError("the code is nested too deep") from None

    def _parse(self, text: str, source: Source) -> Edit:
        blocks = code_blocks(text, source)
        if not blocks:
            raise NothingFound("there is no ```python block with a function in it")
        targets = [target for block in blocks for target in _targets(block, source)]
        if not targets:
            raise EditError(f"{blocks[0].where}: it holds no function: write the whole function, with its 'def' line")
        # The last one counts.
        places = {target.place: target for target in targets}
        changes: dict[str, list[Change]] = {}
        for target in places.values():
            changes.setdefault(target.path, []).append(_change(target, source))
        for path in changes:
            blocks_here = [target.block for target in places.values() if target.path == path]
            # In front: a new function may go to the same line.
            changes[path] = imported(blocks_here, source.files[path]) + changes[path]
        return finish({path: change(source.files[path], parts) for path, parts in changes.items()}, source)


def _change(target: Target, source: Source) -> Change:
    lines = file_lines(source.files[target.path])
    if target.old is not None:
        return rewritten(target, lines)
    return beside(target, lines) if target.siblings else appended(target, lines)


def _path(block: CodeBlock, source: Source) -> str | None:
    """The file that the line names. One that is not there counts as not named where the name alone is that of one thing
    shown: small models copy the path of an example."""
    if block.path is None:
        return None
    try:
        return existing(block.path, source, block.where)
    except EditError as error:
        if block.name is None:
            raise
        shown, last = Scope(source, None), block.name.rpartition(".")[2]
        if len(shown.named(block.name, exact=True)) == 1:
            return None
        alike = shown.named(last, exact=False)
        if len(alike) != 1:
            raise
        path, one = alike[0]
        raise EditError(f"{error}; {last} is {path}::{one.name}") from None


def _targets(block: CodeBlock, source: Source) -> Iterator[Target]:
    path = _path(block, source)
    if path is not None and not path.endswith((".py", ".pyi")):
        raise EditError(f"{block.where}: {path} is no Python file: its functions cannot be found")
    if block.name is not None:
        last = block.name.rpartition(".")[2]
        held = [definition.node.name for definition in block.definitions]
        if held and last not in held:
            raise EditError(f"{block.where}: the line above names {block.name}, but the block holds {', '.join(held)}")
    for node in block.tree.body:
        if isinstance(node, Node):
            yield from find(block, node, path, source)
