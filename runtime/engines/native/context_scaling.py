"""APE's temperature and scale of a model, as `plait calibrate-ape` writes them into its folder."""

from __future__ import annotations

import json
from pathlib import Path

from ...disk import write_whole
from ...errors import InvalidInput
from ...plain import read_object
from ...sampling import MIN_TEMPERATURE
from .checkpoint import open_checkpoint

FILE = "ape.json"
PUBLISHED = {"mistral": (0.9, 1.0), "gemma2": (0.6, 1.0)}
"""Model type -> temperature and scale of the authors' experiments (arXiv 2502.05431), where they differ from what their
demonstration takes."""


def read_scaling(folder: Path) -> dict[str, float]:
    """`context_temperature` and `context_scale` for `Capabilities`: calibrated, or published for the model's family;
    else empty."""
    path = folder / FILE
    if not path.is_file():
        kind = open_checkpoint(folder).config.get("model_type")
        return dict(zip(("context_temperature", "context_scale"), PUBLISHED.get(str(kind), ()), strict=False))
    try:
        data = read_object(path)
        values = {"context_temperature": float(data["temperature"]), "context_scale": float(data["scale"])}
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise InvalidInput(f"{path} does not hold a temperature and a scale: {error!r}") from None
    largest = 1 / MIN_TEMPERATURE
    if not (MIN_TEMPERATURE <= values["context_temperature"] <= largest and 0 <= values["context_scale"] <= largest):
        raise InvalidInput(f"{path}: the temperature must be positive and the scale not negative, both at most 1e6")
    return values


def write_scaling(folder: Path, temperature: float, scale: float) -> Path:
    """Write them; returns the file. Raises `InvalidInput` if the disk does not take it; what was there stays."""
    path = folder / FILE
    write_whole(path, json.dumps({"temperature": temperature, "scale": scale}) + "\n")
    return path
