"""Names to things: methods by their `method` field, models by their scheme, text dialects by name.

Built-in entries are imported when asked for, so that a missing heavy library hurts only its user. Other packages add
theirs with `register`, `register_scheme` and `register_dialect`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from .engine import Engine
from .errors import InvalidInput, InvalidJob, UnknownModel, UnsupportedByEngine
from .methods.dialect import Dialect

if TYPE_CHECKING:
    from .methods.base import Method

    M = TypeVar("M", bound=Method)

EngineLoader = Callable[[str, dict[str, Any]], Engine]
"""(what follows the scheme, options) -> an engine that is not started yet."""

MODELS = Path(__file__).parent.parent / "models"
"""Where the shipped models are."""

_methods: dict[str, type[Method]] = {}
_schemes: dict[str, EngineLoader] = {}
_dialects: dict[str, Callable[[], Dialect]] = {}


# -- methods ---------------------------------------------------------------------------------------------------


def register(cls: type[M]) -> type[M]:
    """Class decorator: make a method known by the default of its `method` field."""
    name = cls.model_fields["method"].default
    if not isinstance(name, str):
        raise InvalidInput(f"{cls.__name__}.method needs its name as default: method: Literal['x'] = 'x'")
    if _methods.get(name, cls) is not cls:
        raise InvalidInput(f"the method name {name!r} is taken by {_methods[name].__name__}")
    _methods[name] = cls
    return cls


def method_names() -> list[str]:
    return sorted(_methods)


def parse_method(data: object) -> Method:
    """The method that a JSON object describes. Raises `InvalidJob`."""
    if not isinstance(data, dict):
        raise InvalidJob(f"a method is a JSON object with a `method` name, not {type(data).__name__}")
    name = data.get("method")
    cls = _methods.get(name) if isinstance(name, str) else None
    if cls is None:
        raise InvalidJob(f"unknown method {name!r}; known: {', '.join(method_names())}")
    return cls(**data)


def describe(error: ValidationError, what: str) -> str:
    """One line for all mistakes in a pydantic model."""
    mistakes = (f"{'.'.join(map(str, e['loc'])) or what}: {e['msg']}" for e in error.errors())
    return f"malformed {what}: {'; '.join(mistakes)}"


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
