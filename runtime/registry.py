"""Names to things: methods by their `method` field, models by their scheme, text dialects by name.

Built-in entries are imported when asked for, so that a missing heavy library hurts only its user. Other packages add
theirs with `register`, `register_scheme` and `register_dialect`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .engine import Engine
from .errors import InvalidInput, UnknownModel, UnsupportedByEngine
from .methods.dialect import Dialect
from .spec import Kinds

if TYPE_CHECKING:
    from .methods.base import Method

    M = TypeVar("M", bound=Method)

EngineLoader = Callable[[str, dict[str, Any]], Engine]
"""(what follows the scheme, options) -> an engine that is not started yet."""

MODELS = Path(__file__).parent.parent / "models"
"""Where the shipped models are."""

_methods: Kinds[Method] = Kinds("method")
_schemes: dict[str, EngineLoader] = {}
_dialects: dict[str, Callable[[], Dialect]] = {}


# -- methods ---------------------------------------------------------------------------------------------------


def register(cls: type[M]) -> type[M]:
    """Class decorator: make a method known by the default of its `method` field."""
    _methods.register(cls)
    return cls


def parse_method(data: object) -> Method:
    """The method that a JSON object describes. Raises `InvalidJob`."""
    return _methods.make(data)


# -- dialects --------------------------------------------------------------------------------------------------


def register_dialect(name: str, make: Callable[[], Dialect]) -> None:
    """Make a spawn/join dialect known to `APR(dialect=name)`."""
    _dialects[name] = make


def dialect(name: str) -> Dialect:
    """Raises `InvalidInput` for an unknown name."""
    if name not in _dialects:
        raise InvalidInput(f"unknown dialect {name!r}; known: {', '.join(sorted(_dialects))}")
    return _dialects[name]()


def _builtin(module: str, cls: str) -> Callable[[], Dialect]:
    def make() -> Dialect:
        made: Dialect = getattr(import_module(module, __package__), cls)()
        return made

    return make


register_dialect("paper", _builtin(".methods.dialect_paper", "PaperDialect"))
register_dialect("compact", _builtin(".methods.dialect_compact", "CompactDialect"))


# -- models ----------------------------------------------------------------------------------------------------


def register_scheme(scheme: str, load: EngineLoader) -> None:
    """Make `Runtime("scheme:rest")` load an engine with `load(rest, options)`."""
    _schemes[scheme] = load


def shipped_models() -> list[str]:
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def model_folder(model: str | Path) -> Path:
    """The folder of a shipped model, or the given one. Raises `UnknownModel`."""
    folder = MODELS / str(model) if str(model) in shipped_models() else Path(model)
    if not folder.is_dir():
        raise UnknownModel(
            f"no model {str(model)!r}: not a shipped model ({', '.join(shipped_models()) or 'none'}), not a folder, "
            f"and not one of the schemes {', '.join(f'{name}:' for name in sorted(_schemes))}"
        )
    return folder


def load_engine(model: str | Path, options: dict[str, Any]) -> Engine:
    """The engine for a model string: a scheme, a shipped model, a folder, or whatever the native engine takes.

    Raises `UnknownModel` with what there is to choose from.
    """
    scheme, colon, rest = str(model).partition(":")
    if colon and scheme in _schemes:
        return _schemes[scheme](rest, options)
    folder = model_folder(model)
    from .native.engine import NativeEngine

    return NativeEngine.load(folder, **options)


def _load_replay(rest: str, options: dict[str, Any]) -> Engine:
    from .replay import ReplayEngine

    return ReplayEngine(rest, **options)


def _not_yet(scheme: str) -> EngineLoader:
    def load(rest: str, options: dict[str, Any]) -> Engine:
        raise UnsupportedByEngine(f"{scheme}:{rest}: this version has no {scheme} engine; use a local folder")

    return load


register_scheme("replay", _load_replay)
for _name in ("vllm", "openai"):
    register_scheme(_name, _not_yet(_name))
