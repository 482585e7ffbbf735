"""Things that JSON, configurations and commands name, and where they come from: one way in for ours and for others'.

A package adds a thing by an entry point of the group `plait.<kind>` in its own metadata:

    [project.entry-points."plait.methods"]
    debate = "debate.method:Debate"

What is built in comes the same way (`pyproject.toml`), so a missing heavy library hurts only its user. A script that is
no package registers what it has in a file that `import_plugin` runs (`plait run job.json --import debate.py`).
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from .errors import InvalidInput

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind -> things that were registered in this process, or that entry points of its group load."""

    def __init__(self, kind: str, group: str) -> None:
        """`kind`: what messages call one of them."""
        self.kind = kind
        self.group = group
        self._things: dict[str, T] = {}

    def register(self, name: str, thing: T) -> None:
        """Make a thing known. Raises `InvalidInput` when the name is taken by another one."""
        known = self._things.get(name)
        if (known is not None and known is not thing) or name in _entries(self.group):
            raise InvalidInput(f"the {self.kind} name {name!r} is taken")
        self._things[name] = thing

    def find(self, name: object) -> T | None:
        """The thing of this name; None: there is none. Raises `InvalidInput` if its package cannot be loaded."""
        if not isinstance(name, str):
            return None
        if name not in self._things:
            entry = _entries(self.group).get(name)
            if entry is None:
                return None
            self._things[name] = self._load(entry)
        return self._things[name]

    def names(self) -> list[str]:
        """All names, sorted; loads nothing."""
        return sorted({*self._things, *_entries(self.group)})

    def unknown(self, name: object) -> str:
        """What to say of a name that is not known."""
        return f"unknown {self.kind} {name!r}; known: {', '.join(self.names()) or 'none'}"

    def _load(self, entry: EntryPoint) -> T:
        try:
            thing: T = entry.load()
        except Exception as error:  # Whatever importing somebody's module raises.
            package = entry.dist.name if entry.dist is not None else "a package"
            raise InvalidInput(
                f"the {self.kind} {entry.name!r} of {package} cannot be loaded ({entry.value}): "
                f"{type(error).__name__}: {error}"
            ) from error
        return thing


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    """Installed entry points of a group, read once. Raises `InvalidInput` when two packages use the same name."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise InvalidInput(
                f"two installed packages have an entry point {entry.name!r} in {group}: {other.value} and {entry.value}"
            )
    return found


def import_plugin(name: str) -> None:
    """Import a module by its name, or run a file `NAME.py` as one, for what it registers. Raises `InvalidInput`."""
    path = Path(name)
    try:
        if path.suffix != ".py":
            import_module(name)
            return
        module_name = path.stem
        if module_name in sys.modules:
            if Path(getattr(sys.modules[module_name], "__file__", None) or "").resolve() == path.resolve():
                return
            module_name = f"plait_plugin_{abs(hash(path.resolve()))}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise InvalidInput(f"cannot import {name}: no such file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    except InvalidInput:
        raise
    except Exception as error:  # Whatever a user's module raises.
        raise InvalidInput(f"cannot import {name}: {type(error).__name__}: {error}") from error
