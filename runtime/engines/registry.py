"""Models by name: the shipped ones, folders, and schemes (`replay:FILE`) of ours and of other packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import UnknownModel, UnsupportedByEngine
from ..plugins import Registry

EngineLoader = Callable[[str, dict[str, Any]], Engine]
"""(what follows the scheme, options) -> an engine that is not started yet."""

MODELS = Path(__file__).parents[2] / "models"
"""Where the shipped models are."""

PLANNED = ("openai", "vllm")
"""Schemes that are kept for engines to come."""

_schemes: Registry[EngineLoader] = Registry("engine scheme", "plait.engines")


def register_scheme(scheme: str, load: EngineLoader) -> None:
    """Make `Runtime("scheme:rest")` load an engine with `load(rest, options)`. Raises `InvalidInput` for a scheme that
    is taken."""
    _schemes.register(scheme, load)


def shipped_models() -> list[str]:
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def model_folder(model: str | Path) -> Path:
    """The folder of a shipped model, or the given one. Raises `UnknownModel`."""
    folder = MODELS / str(model) if str(model) in shipped_models() else Path(model)
    if not folder.is_dir():
        raise UnknownModel(
            f"no model {str(model)!r}: not a shipped model ({', '.join(shipped_models()) or 'none'}), not a folder, "
            f"and not one of the schemes {', '.join(f'{name}:' for name in _schemes.names())}"
        )
    return folder


def load_engine(model: str | Path, options: dict[str, Any]) -> Engine:
    """The engine for a model string: a scheme, or what the native engine takes (a shipped model, a folder).

    Raises `UnknownModel` with what there is to choose from.
    """
    scheme, colon, rest = str(model).partition(":")
    load = _schemes.find(scheme) if colon else None
    if load is None:
        if colon and scheme in PLANNED:
            raise UnsupportedByEngine(f"{model}: this version has no {scheme} engine; use a local folder")
        scheme, rest = "native", str(model_folder(model))
        load = _schemes.find(scheme)
    if load is None:
        raise UnknownModel(f"no engine {scheme!r}: plait is not installed whole, its entry points are missing")
    return load(rest, options)
