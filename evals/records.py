"""Problems in a file of JSON Lines, of one JSON array, or in Parquet: every field is of the type that its benchmark
says, or the problem is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..runtime.errors import InvalidInput

MAX_SHOWN = 60
"""Characters of a wrong value in a message."""


def _whole(text: str) -> str:
    """Half a surrogate pair is no character: no file, tokenizer or page takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
"""A text that can be written as UTF-8."""


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("there is nothing in it")
    return text


Filled = AfterValidator(_filled)
"""Of a text: not blank."""


def _one_filled(texts: list[str]) -> list[str]:
    if not any(text.strip() for text in texts):
        raise ValueError("there is nothing in any of them")
    return texts


Accepted = Annotated[list[Text], Field(min_length=1), AfterValidator(_one_filled)]
"""Accepted answers. Published lists hold blank ones: these stay, for what is read is part of what an evaluation is told
by, and nothing equals them."""

Label = Annotated[Text, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""A text that files also give as an integer: an id, an answer such as 204."""


class Record(BaseModel):
    """One line. Fields are read strictly: 3.0, true and "3" are no integers, null is no text; other fields are left."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    id: Annotated[Label, Field(min_length=1)] = ""
    """As `read_rows` gives it: the line's own, else its number among the problems from 1."""


R = TypeVar("R", bound=Record)


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """The problems of a file: Parquet if it is called `*.parquet`, else in UTF-8 JSON Lines, or one JSON array if it
    begins with `[`; a byte order mark and empty lines are skipped.

    Raises `InvalidInput` that names the first wrong line (in an array: item; in Parquet: row) and its field, or both
    lines of an id that stands there twice.
    """
    rows: list[R] = []
    places: dict[str, str] = {}
    for place, where, data in _parquet(path) if path.suffix == ".parquet" else _json(path):
        row = read_record(data, kind, where)
        id = row.id or str(len(rows) + 1)
        if id in places:
            raise InvalidInput(f"{where}: id: {id!r} is the id of {places[id]} too")
        places[id] = place
        rows.append(row.model_copy(update={"id": id}))
    if not rows:
        raise InvalidInput(f"{path} holds no problems")
    return rows


def _json(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Place in short, place in full, value."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # the latter for what is no UTF-8, or can be no path
        raise InvalidInput(f"cannot read the problems in {path}: {error}") from None
    return _array(text, path) if text.lstrip().startswith("[") else _lines(text, path)


def _parquet(path: Path) -> Iterator[tuple[str, str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise InvalidInput(f"{path} is Parquet, which needs pyarrow: pip install 'plait[evals]'") from None
    try:
        rows = read_table(path).to_pylist()
    except (OSError, ValueError, ArrowException) as error:
        raise InvalidInput(f"cannot read the problems in {path}: {error}") from None
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", f"{path}: row {number}", row


def _lines(text: str, path: Path) -> Iterator[tuple[str, str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"{path}:{number}: not a JSON object: {error}") from None


def _array(text: str, path: Path) -> Iterator[tuple[str, str, Any]]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not a JSON array: {error}") from None
    for number, item in enumerate(items, start=1):
        yield f"item {number}", f"{path}: item {number}", item


def read_record(data: Any, kind: type[R], where: str) -> R:
    """One problem; its id is as it stands there. Raises `InvalidInput` that names `where` and the first wrong field."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "model_type":
            raise InvalidInput(f"{where}: not a JSON object: {_short(data)}") from None
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        if first["type"] == "missing":
            raise InvalidInput(f"{where}: a problem needs the field {field!r}") from None
        message = first["msg"].removeprefix("Value error, ").partition(", not ")[0].replace("Input", "this")
        raise InvalidInput(f"{where}: {field}: {message[:1].lower()}{message[1:]}: {_short(first['input'])}") from None


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr)  # ASCII: what is wrong with it must not come back in the message
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
