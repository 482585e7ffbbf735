"""Data from outside, as JSON holds it, and JSON for it: read, checked and written in one place, whether a job, a model
folder or a trace."""

from __future__ import annotations

import json
import math
import operator
from pathlib import Path
from typing import Any

from .errors import InvalidInput

MAX_DEPTH = 64
"""Of lists and objects in each other."""
MAX_WHOLE = 2**64 - 1
"""Of a whole number, either way."""


def as_int(value: object) -> int | None:
    """The whole number that the value is, of whatever type; None if it is none. True and False are none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def parse_json(text: str | bytes, name: str) -> Any:
    """The value; `name` is what the message calls the text. Raises `InvalidInput` for what is no JSON, nested so deeply
    that it cannot be read, or not UTF-8."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not valid JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `InvalidInput`, and `FileNotFoundError` where there is none."""
    try:
        data = parse_json(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"{path} must hold a JSON object")
    return data


def whole(text: str) -> str:
    """The text with `?` in the place of halves of characters."""
    return text.encode("utf-8", "replace").decode()


def kept(value: object, depth: int = MAX_DEPTH) -> Any:
    """The value with stand-ins for what `check_plain` refuses even without `finite`: `?` for half a character, the
    hexadecimal digits of a long whole number, `...` for what is nested too deeply. What is no JSON stays."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, int):
        return value if abs(value) <= MAX_WHOLE else hex(value)
    if not isinstance(value, dict | list | tuple):
        return value
    if not depth:
        return "..."
    if isinstance(value, dict):
        names = (kept(name) if isinstance(name, str | int) else name for name in value)
        return {name: kept(part, depth - 1) for name, part in zip(names, value.values(), strict=True)}
    return [kept(part, depth - 1) for part in value]


def as_kept(value: object) -> Any:
    """What a JSON file would hold of the value, as `kept` leaves it, apart from it; in the place of what is no JSON the
    number that it is to NumPy, or its text. Raises `ValueError` for names that JSON has not."""
    try:
        return json.loads(json.dumps(kept(value), default=_stand_in))
    except TypeError as error:
        raise ValueError(str(error)) from None


def _stand_in(value: object) -> Any:
    """For what is no JSON: the number that a NumPy scalar holds, or a tensor of no dimensions, else its text."""
    if getattr(value, "shape", None) == ():
        try:
            number = value.item()  # type: ignore[attr-defined]
        except Exception:  # whatever somebody's type raises
            return str(value)
        if isinstance(number, int | float):
            return kept(number)
    return str(value)


def json_text(value: object, *, is_ascii: bool = True) -> str:
    """Without blanks, and with null in the place of numbers that are not finite, which JSON has not. In ASCII halves of
    characters stand there as escapes."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=is_ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=is_ascii)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def check_plain(value: object, *, only_json: bool = False, finite: bool = True, whole: bool = True) -> None:
    """Raise `ValueError`, naming where, for texts with half a surrogate pair, numbers that are not finite or of more
    than 64 bits, and what is nested more than `MAX_DEPTH` deep. `only_json`: for all else that JSON cannot hold, too;
    without, it is left to others. `finite`: without, any floating point number will do. `whole`: without, so will half
    a surrogate pair."""
    found = _mistake(value, MAX_DEPTH, only_json, finite, whole)
    if found is not None:
        where, what = found
        raise ValueError(f"{where}: {what}" if where else what)


def _mistake(value: object, depth: int, only_json: bool, finite: bool, whole: bool) -> tuple[str, str] | None:
    """Where and what."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if not whole or value.isascii() else _half(value)
    if isinstance(value, int):
        return None if abs(value) <= MAX_WHOLE else ("", "a whole number of more than 64 bits")
    if isinstance(value, float):
        return None if not finite or math.isfinite(value) else ("", f"{value} is not a finite number")
    if not isinstance(value, (dict, list, tuple)):
        return ("", f"a {type(value).__name__} is no JSON value") if only_json else None
    if not depth:
        return "", f"more than {MAX_DEPTH} lists and objects in each other"
    if isinstance(value, dict):
        for key, part in value.items():
            if whole and isinstance(key, str) and (found := _half(key)):
                return found
            if only_json and not isinstance(key, str):
                return "", f"the names in an object are texts, not {type(key).__name__}"
            if found := _mistake(part, depth - 1, only_json, finite, whole):
                return _at(str(key), found)
    else:
        for number, part in enumerate(value):
            if found := _mistake(part, depth - 1, only_json, finite, whole):
                return _at(str(number), found)
    return None


def _half(text: str) -> tuple[str, str] | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return "", f"half a surrogate pair at character {error.start}"
    return None


def _at(name: str, found: tuple[str, str]) -> tuple[str, str]:
    where, what = found
    return f"{name}.{where}" if where else name, what
