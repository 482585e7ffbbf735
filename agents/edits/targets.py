"""Which function of which file a written function stands for."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..definitions import Definition, Node, definitions, parse
from .base import EditError, Source
from .code_block import CodeBlock
from .lines import bare, file_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    block: CodeBlock
    new: Definition
    """In the block."""
    path: str
    name: str
    """Qualified, in the file."""
    old: Definition | None
    """In the file; None: it is new there."""
    scope: Definition | None = None
    """The class that a new one goes to; None: the file."""
    siblings: Sequence[Definition] = ()
    """In the file: those of its name that a new one stands beside, as a setter beside its property."""

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for those that stand for one function."""
        return (self.path, self.name, *((self.old.first,) if self.old is not None else self.new.role))


def find(block: CodeBlock, node: Node, path: str | None, source: Source) -> Iterator[Target]:
    """The functions and classes that a definition of a block replaces or adds. Raises `EditError`."""
    written = {definition.node: definition for definition in block.definitions}
    scope = Scope(source, path)
    wanted = block.name
    if not isinstance(node, ast.ClassDef) or _is_whole(node, wanted, scope):
        # The line names this one, or it is a helper beside the one that is named.
        exact = wanted is not None and wanted.rpartition(".")[2] == node.name
        yield _target(block, written[node], wanted if exact and wanted else node.name, scope, is_named=exact)
        return
    yield from _methods(block, node, written, node.name, scope)


class Scope:
    """The definitions that a name may mean: those of the named file, else those shown."""

    def __init__(self, source: Source, path: str | None) -> None:
        self.source, self.path = source, path
        self._files: dict[str, list[Definition]] = {}

    def of(self, path: str) -> list[Definition]:
        if path not in self._files:
            text = self.source.files.get(path, "") if path.endswith((".py", ".pyi")) else ""
            tree = parse(text)
            self._files[path] = [] if tree is None else definitions(tree, file_lines(text))
        return self._files[path]

    def shown(self) -> list[tuple[str, Definition]]:
        """Those that an excerpt shows, each once."""
        found: dict[tuple[str, int], tuple[str, Definition]] = {}
        for excerpt in self.source.excerpts:
            if self.path not in (None, excerpt.path):
                continue
            for one in self.of(excerpt.path):
                if excerpt.name is None or f"{one.name}.".startswith(f"{excerpt.name}."):
                    found[excerpt.path, one.first] = (excerpt.path, one)
        return list(found.values())

    def shows_all(self, name: str) -> bool:
        """Whether a class of that name was shown as such, from its first line to its last."""
        lengths = {
            (excerpt.path, excerpt.name, excerpt.first_line - 1): len(bare(excerpt.text))
            for excerpt in self.source.excerpts
        }
        return any(
            lengths.get((path, one.name, one.first), 0) >= one.last - one.first
            for path, one in self.shown()
            if one.is_class and f".{one.name}".endswith(f".{name}")
        )

    def covers(self, path: str, one: Definition) -> bool:
        """Whether all of it was shown, in whatever excerpt."""
        return any(
            excerpt.path == path and excerpt.first_line - 1 <= one.head < one.last <= excerpt.first_line - 1 + length
            for excerpt in self.source.excerpts
            if (length := len(bare(excerpt.text)))
        )

    def owners(self, name: str) -> list[tuple[str, Definition]]:
        """Classes of that name, or whose name ends in it, of which a part was shown."""
        found = {
            (excerpt.path, one.first): (excerpt.path, one)
            for excerpt in self.source.excerpts
            if excerpt.name is not None and self.path in (None, excerpt.path)
            for one in self.of(excerpt.path)
            if one.is_class and excerpt.name.startswith(f"{one.name}.") and f".{one.name}".endswith(f".{name}")
        }
        return [pair for pair in found.values() if pair[1].name == name] or list(found.values())

    def named(self, name: str, *, exact: bool) -> list[tuple[str, Definition]]:
        """Those of that name; unless `exact`, also those whose name ends in it. Those shown go first."""
        pools = [self.shown()]
        if self.path is not None:
            pools.append([(self.path, one) for one in self.of(self.path)])
        if exact:
            pools.reverse()
            for pool in pools:
                if same := [(path, one) for path, one in pool if one.name == name]:
                    return same
        for pool in pools:
            if alike := [(path, one) for path, one in pool if f".{one.name}".endswith(f".{name}")]:
                return alike
        return []


def _is_whole(node: ast.ClassDef, wanted: str | None, scope: Scope) -> bool:
    """Whether a class in a block is all of the class, and not only what its methods belong to."""
    if wanted is not None:
        return wanted.rpartition(".")[2] == node.name
    return scope.shows_all(node.name)


def _methods(
    block: CodeBlock, node: ast.ClassDef, written: dict[Node, Definition], name: str, scope: Scope
) -> Iterator[Target]:
    found = [(path, one) for path, one in scope.named(name, exact=True) if one.is_class] or scope.owners(name)
    if len(found) != 1:
        raise EditError(f"{block.where}: {_which_class(name, found)}")
    path, owner = found[0]
    known = {ast.dump(part) for part in owner.node.body}
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            full = f"{owner.name}.{part.name}"
            inside = Scope(scope.source, path)
            inside_class = [one for one in inside.of(path) if one.name == full]
            new = written[part]
            old = _one(block, new, [(path, one) for one in inside_class], scope)
            yield Target(
                block=block,
                new=new,
                path=path,
                name=full,
                old=old[1] if old else None,
                scope=owner,
                siblings=_siblings(new, inside_class),
            )
        elif isinstance(part, ast.ClassDef):
            yield from _methods(block, part, written, f"{owner.name}.{part.name}", Scope(scope.source, path))
        elif not _says_nothing(part) and ast.dump(part) not in known:
            how = f"write the whole class, named by a line {path}::{owner.name}"
            if not scope.covers(path, owner):
                how = "it was not shown whole, so only its methods can be written"
            raise EditError(
                f"{block.where}: line {part.lineno} of the block belongs to class {node.name} itself, not to a "
                f"method: {how}"
            )


def _says_nothing(node: ast.stmt) -> bool:
    """`pass`, `...` or a docstring."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _target(block: CodeBlock, new: Definition, name: str, scope: Scope, *, is_named: bool) -> Target:
    found = scope.named(name, exact=is_named)
    found = [(path, one) for path, one in found if one.is_class == new.is_class]
    if is_named:
        # `path::run` may be a new function of the file, whatever methods of that name there are.
        found = [(path, one) for path, one in found if one.name == name or _first_argument(one) == _first_argument(new)]
    old = _one(block, new, found, scope)
    if old is not None and new.is_class and not scope.covers(*old):
        raise EditError(
            f"{block.where}: class {old[1].name} was not shown whole and cannot be written anew: name each method that "
            f"changes by a line {old[0]}::{old[1].name}.method above a block of its own"
        )
    if old is not None:
        return Target(block=block, new=new, path=old[0], name=old[1].name, old=old[1])
    if siblings := _siblings(new, [one for _, one in found]):
        if len({(path, one.name) for path, one in found}) > 1:
            raise EditError(f"{block.where}: {_which(name, found)}")
        return Target(block=block, new=new, path=found[0][0], name=siblings[0].name, old=None, siblings=siblings)
    if not is_named or scope.path is None:
        raise EditError(f"{block.where}: {_which(name, found)}")
    outer = name.rpartition(".")[0]
    if holders := _holders(new.node.name, outer, scope.of(scope.path)):
        raise EditError(
            f"{block.where}: {new.node.name} is there inside {holders[0].name} (line {holders[0].head + 1}): "
            f"write {scope.path}::{holders[0].name} whole, or give a new function another name"
        )
    owners = [one for one in scope.of(scope.path) if one.name == outer and one.is_class]
    if outer and not owners:
        raise EditError(f"{block.where}: {scope.path} has no class {outer}")
    if not outer and parse(scope.source.files[scope.path]) is None:
        raise EditError(f"{block.where}: {scope.path} is no valid Python: nothing can be added to it")
    return Target(block=block, new=new, path=scope.path, name=name, old=None, scope=owners[0] if owners else None)


def _holders(name: str, outer: str, known: Sequence[Definition]) -> list[Definition]:
    """Functions that hold one of that name: of the file, or of the function or class `outer`."""
    return [
        one
        for one in known
        if not one.is_class
        and (not outer or f"{one.name}.".startswith(f"{outer}."))
        and any(isinstance(node, Node) and node.name == name for node in ast.walk(one.node) if node is not one.node)
    ]


def _first_argument(one: Definition) -> str | None:
    if isinstance(one.node, ast.ClassDef):
        return None
    arguments = [*one.node.args.posonlyargs, *one.node.args.args]
    return arguments[0].arg if arguments else None


def _one(
    block: CodeBlock, new: Definition, found: Sequence[tuple[str, Definition]], scope: Scope
) -> tuple[str, Definition] | None:
    """The one of them that is meant; None: there is none. Raises `EditError` for several."""
    if new.role:
        # It is one more beside those of its name, unless one is the same.
        found = [pair for pair in found if pair[1].role == new.role]
    elif new.decorators:
        found = [pair for pair in found if not pair[1].role] or found
    if len(found) > 1:
        # Their decorators tell them apart, or what was shown.
        found = [pair for pair in found if pair[1].decorators == new.decorators] or found
    if len(found) > 1:
        lines = {(excerpt.path, excerpt.first_line - 1) for excerpt in scope.source.excerpts if excerpt.name}
        found = [pair for pair in found if (pair[0], pair[1].first) in lines] or found
    if len(found) > 1:
        raise EditError(f"{block.where}: {_which(new.name, found)}")
    return found[0] if found else None


def _siblings(new: Definition, found: Sequence[Definition]) -> list[Definition]:
    """Those that a setter, an overload or the like is to stand beside."""
    if new.node.name == "_":
        # The name says nothing: those of the same decorator, so that what decorates them is there.
        return [one for one in found if new.role and one.role[:1] == new.role[:1]]
    return list(found) if new.role else []


def _which(name: str, found: Sequence[tuple[str, Definition]]) -> str:
    if not found:
        return f"no function {name} was shown: name it by a line path/of/file.py::{name} above the block"
    return (
        f"{name} may be {_listed(found)}: name one by a line path/of/file.py::Name above the block, with its decorators"
    )


def _which_class(name: str, found: Sequence[tuple[str, Definition]]) -> str:
    """Of methods: a line that names the class alone would make it the whole class."""
    method = f"a line path/of/file.py::{name}.method above the block"
    if not found:
        return f"no class {name} was shown: name a method by {method}, a new class by path/of/file.py::{name}"
    return f"{name} may be {_listed(found)}: name a method by {method}"


def _listed(found: Sequence[tuple[str, Definition]]) -> str:
    return ", ".join(f"{path}::{one.name} (line {one.head + 1})" for path, one in found[:5])
