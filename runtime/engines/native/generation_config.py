"""generation_config.json: what a model's makers sample with, by the rules of transformers' `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...engine import SamplingDefaults
from ...errors import InvalidInput
from ...plain import read_object

FILE = "generation_config.json"
_SHAPE = ("top_k", "top_p", "min_p", "repetition_penalty")


def read_defaults(folder: str | Path) -> SamplingDefaults:
    """Of a model folder (a model in one file has none); raises `InvalidInput`, naming file and field, for what
    nobody can sample with.

    Without the file, and without `do_sample: true` in it, the model decodes greedily; with that, at the temperature of
    the file, else at 1. What else the file says holds beside a temperature of the caller's own as well. What it does
    not say is off: transformers' old default for top_k, 50, is not assumed. End-of-sequence ids are the tokenizer's
    matter.
    """
    path = Path(folder) / FILE
    try:
        data = read_object(path)
    except FileNotFoundError:
        return SamplingDefaults()
    found: dict[str, Any] = {name: data[name] for name in _SHAPE if data.get(name) is not None}
    samples = data.get("do_sample")
    if samples is not None and not isinstance(samples, bool):
        raise InvalidInput(f"{path}: do_sample must be true or false, not {samples!r}")
    if samples:
        temperature = data.get("temperature")
        found["temperature"] = 1.0 if temperature is None else temperature
    try:
        return SamplingDefaults(**found)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None
