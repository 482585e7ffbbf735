"""Things that JSON, configurations and commands name, and where they come from: one way in for ours and for others'.

A package adds a thing by an entry point of the group `plait.<kind>` in its own metadata:

    [project.entry-points."plait.methods"]
    debate = "debate.method:Debate"

What is built in comes the same way (`pyproject.toml`), so a missing heavy library hurts only its user. A script that is
no package registers what it has in a file that `import_plugin` runs (`plait run job.json --import debate.py`).
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from pathlib import Path
from typing import Any, Generic, TypeVar

from .errors import InvalidInput, PlaitError, told

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Registry(Generic[T]):
    """Names of one kind -> things that were registered in this process, or that entry points of its group load."""

    def __init__(
        self,
        kind: str,
        group: str,
        expected: str = "a function",
        fits: Callable[[str, Any], bool] = lambda name, thing: callable(thing),
    ) -> None:
        """`kind`: what messages call one of them. `fits`: is a thing of this name what is `expected`?"""
        self.kind = kind
        self.group = group
        self._expected = expected
        self._fits = fits
        self._things: dict[str, T] = {}

    def register(self, name: str, thing: T) -> None:
        """Make a thing known. Raises `InvalidInput` when it is something else than is expected of its
        kind, or the name is taken by another one."""
        if not self._fits(name, thing):
            raise InvalidInput(f"the {self.kind} {name!r} is not {self._expected}")
        known = self._things.get(name)
        # A package may do both: name a thing in its metadata, and register it where it is defined.
        package = (getattr(thing, "__module__", None) or "").partition(".")[0]
        others = [entry for entry in _entries(self.group).get(name, ()) if entry.module.partition(".")[0] != package]
        if others or (known is not None and known is not thing):
            raise InvalidInput(f"the {self.kind} name {name!r} is taken")
        self._things[name] = thing

    def find(self, name: object) -> T | None:
        """The thing of this name; None: there is none. Raises `InvalidInput` if its package cannot be loaded or
        has something else there, or if several packages have one of that name."""
        if not isinstance(name, str):
            return None
        if name not in self._things:
            entries = _entries(self.group).get(name, ())
            if not entries:
                return None
            if len(entries) > 1:
                packages = " and ".join(map(_package, entries))
                raise InvalidInput(f"the {self.kind} {name!r} comes from {packages}: uninstall all but one")
            self._things[name] = self._load(entries[0])
        return self._things[name]

    def names(self) -> list[str]:
        """All names, sorted; loads nothing."""
        return sorted({*self._things, *_entries(self.group)})

    def called(self, name: str) -> str:
        """What messages call the thing of this name: its kind, and the package that it comes from."""
        packages = " and ".join(map(_package, _entries(self.group).get(name, ())))
        return f"the {self.kind} {name!r}" + (f" of {packages}" if packages else "")

    def unknown(self, name: object) -> str:
        """What to say of a name that is not known."""
        return f"unknown {self.kind} {name!r}; known: {', '.join(self.names()) or 'none'}"

    def _load(self, entry: EntryPoint) -> T:
        called = self.called(entry.name)
        try:
            thing: T = entry.load()
        except (Exception, SystemExit) as error:  # Whatever importing somebody's module raises.
            raise InvalidInput(f"{called} cannot be loaded ({entry.value}): {told(error)}") from error
        if not self._fits(entry.name, thing):
            raise InvalidInput(f"{called} is not {self._expected} ({entry.value})")
        return thing


def is_subclass(thing: object, base: type) -> bool:
    return isinstance(thing, type) and issubclass(thing, base)


def has_methods(thing: object, protocol: type) -> bool:
    """Has it the methods of the protocol? Properties are not looked at: some have no value yet."""
    return all(
        callable(getattr(thing, name, None))
        for name, one in vars(protocol).items()
        if isfunction(one) and name[0] != "_"
    )


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """What code that may be anyone's raises inside is `InvalidInput` that says `what` it is of; plait's own errors stay
    as they are."""
    try:
        yield
    except PlaitError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidInput(f"{what}: {told(error)}") from error


@cache
def _entries(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Installed entry points of a group by name, read once. What is built in cannot be replaced: there it is the only
    one of its name."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    for name, entries in found.items():
        own = tuple(entry for entry in entries if _package(entry) == "plait")
        if own and len(entries) > 1:
            others = ", ".join(_package(entry) for entry in entries if entry not in own)
            logger.warning("%s of %s is not used: plait has one of that name in %s", name, others, group)
            found[name] = own
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "a package without metadata"


def import_plugin(name: str) -> None:
    """Import a module, or run a file `NAME.py` as one, once, for what it registers. Raises `InvalidInput`."""
    try:
        if not name.endswith(".py"):
            import_module(name)
        else:
            _run_file(Path(name).resolve())
    except (Exception, SystemExit) as error:  # Whatever a user's module raises.
        raise InvalidInput(f"cannot import {name}: {told(error)}") from error
    logger.info("imported %s", name)


def _run_file(path: Path) -> None:
    module_name = path.stem
    if module_name in sys.modules:
        if getattr(sys.modules[module_name], "__file__", None) == str(path):
            return
        module_name = str(path)  # The name belongs to something else.
        if module_name in sys.modules:
            return
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Known by its name before it runs: what it defines may be looked up there (annotations, pickles).
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
