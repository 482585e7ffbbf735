"""Models by name: shipped ones, folders, GGUF files, the hub's, and schemes (`replay:FILE`) of ours and of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import InvalidInput, UnknownModel
from ..passwords import without_password
from ..plain import whole
from ..plugins import Registry, has_methods
from .hub import HubName, download

EngineLoader = Callable[[str, dict[str, Any]], Engine]
"""(what follows the scheme, options) -> an engine that is not started yet."""

MODELS = Path(__file__).parents[2] / "models"
"""Where the shipped models are."""

_schemes: Registry[EngineLoader] = Registry("engine scheme", "plait.engines")


def register_scheme(scheme: str, load: EngineLoader) -> None:
    """Make `Runtime("scheme:rest")` load an engine with `load(rest, options)`. Raises `InvalidInput` for a scheme that
    is taken."""
    _schemes.register(scheme, load)


def shipped_models() -> list[str]:
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


@dataclass(frozen=True, slots=True)
class FoundModel:
    """Where a model is."""

    path: Path
    """A folder in Hugging Face's layout, or a GGUF file."""
    name: str
    """What to call it."""


def find_model(model: str | Path) -> FoundModel:
    """A shipped model, a folder, a GGUF file, or a model of the Hugging Face hub (`org/name`, `org/name@revision`,
    `org/name:FILE.gguf`), which is fetched if need be. Raises `UnknownModel`."""
    if str(model) in shipped_models():
        return FoundModel(MODELS / str(model), str(model))
    if not str(model):
        raise UnknownModel(f"no model is named; shipped are {', '.join(shipped_models()) or 'none'}")
    path = Path(model)
    try:
        if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
            return FoundModel(path, last_part(path))
        is_there = path.exists()
    except OSError:  # a name that no file can have
        is_there = False
    if is_there:
        raise UnknownModel(f"{path} is not a folder, nor a GGUF file (their names end in .gguf)")
    name = HubName.parse(model) if isinstance(model, str) else None
    if name is None:
        raise UnknownModel(
            f"no model {without_password(str(model))[:200]!r}: not a shipped model "
            f"({', '.join(shipped_models()) or 'none'}), not a folder or GGUF file, not a name of the "
            f"hub (org/name), and not one of the schemes {', '.join(f'{name}:' for name in _schemes.names())}"
        )
    return FoundModel(download(name), str(name))


def last_part(model: str | Path) -> str:
    """Of a path or a name; a folder's own where it is `.`, `..` or the like. Paths need not be
    UTF-8; what stands in traces and messages is."""
    path = Path(model)
    return whole(path.name if path.name not in ("", "..") else path.resolve().name)


def split_scheme(model: str) -> tuple[str, str]:
    """Scheme and rest of a model string; the scheme is empty where none is named."""
    scheme, colon, rest = model.partition(":")
    return (scheme, rest) if colon and scheme in _schemes.names() else ("", model)


def load_engine(model: str | Path, options: dict[str, Any]) -> Engine:
    """The engine for a model string: a scheme, or what the native engine takes (see `find_model`). It may take minutes:
    see `loading.load_in_thread`.

    Raises `UnknownModel` with what there is to choose from, and `InvalidInput` where a scheme gives no engine.
    """
    scheme, colon, rest = str(model).partition(":")
    load = _schemes.find(scheme) if colon else None
    if load is not None:
        engine = load(rest, options)
        if not has_methods(engine, Engine):
            raise InvalidInput(f"{_schemes.called(scheme)} gave {type(engine).__name__}, and no Engine")
        return engine
    native = _schemes.find("native")
    if native is None:
        raise UnknownModel("no engine 'native': plait is not installed whole, its entry points are missing")
    return native(str(model), options)
