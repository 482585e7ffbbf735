"""LiveCodeBench's rows: a problem of a programming contest and its tests, hidden ones too."""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ....runtime.errors import InvalidInput
from ...records import Label, Record, Text, read_record

MOST_BYTES = 2**30
"""Of one problem's tests, unpacked."""


def _moment(value: Any) -> Any:
    """Of ISO 8601, as files have it; `datasets` may have read it already."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


class Test(Record):
    """What goes in and what has to come out."""

    __test__ = False

    input: Text
    """Standard input; of a function its arguments, one in JSON a line."""
    output: Text
    """Standard output; of a function its value in JSON."""
    testtype: Literal["stdin", "functional"]

    @property
    def arguments(self) -> list[Any]:
        """Of a function. Raises `ValueError`."""
        return [read_value(line) for line in self.input.split("\n")]


def read_value(text: str) -> Any:
    """A function's argument or value, from JSON. Whole numbers are `Decimal`, equal to the same numbers: Python reads
    none of more than 4,300 digits as `int`. Raises `ValueError`, `RecursionError`."""
    return json.loads(text, parse_int=Decimal)


class Problem(Record):
    """One row."""

    id: Label = Field(min_length=1, validation_alias="question_id")
    title: Text = Field(default="", validation_alias="question_title")
    question: Text = Field(min_length=1, validation_alias="question_content")
    starter_code: Text = ""
    contest_date: Annotated[datetime, BeforeValidator(_moment)]
    public_test_cases: Text
    """A list in JSON."""
    private_test_cases: Text
    """The same; or that text pickled, packed by zlib, in base64."""
    metadata: Text = "{}"
    """An object in JSON."""

    def tests(self) -> list[Test]:
        """All of them, unpacked anew. Raises `InvalidInput` that names what is wrong."""
        found = [*self._listed("public_test_cases"), *self._listed("private_test_cases")]
        if not found:
            raise InvalidInput(f"problem {self.id}: it has no tests")
        if {test.testtype for test in found} != {"functional" if self.function else "stdin"}:
            raise InvalidInput(f"problem {self.id}: metadata: tests of a function need its name, others have none")
        for number, test in enumerate(found if self.function else (), start=1):
            try:
                assert test.arguments is not None
                read_value(test.output)
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"problem {self.id}: test {number}: not in JSON: {error}") from None
        return found

    @property
    def function(self) -> str | None:
        """What is called, alone or in a class `Solution`; None: programs are run. Raises `InvalidInput`."""
        try:
            data = json.loads(self.metadata)
        except (ValueError, RecursionError):
            data = None
        name = data.get("func_name") if isinstance(data, dict) else 0
        if name is not None and not isinstance(name, str):
            raise InvalidInput(f"problem {self.id}: metadata: not an object in JSON with a text as func_name")
        return name

    def _listed(self, field: str) -> list[Test]:
        where = f"problem {self.id}: {field}"
        text = getattr(self, field)
        try:
            data = json.loads(text if text.lstrip()[:1] == "[" else _unpacked(text))
        except (ValueError, RecursionError, binascii.Error, zlib.error) as error:
            raise InvalidInput(f"{where}: not a list in JSON, nor one that is packed: {error}") from None
        if not isinstance(data, list):
            raise InvalidInput(f"{where}: not a list")
        return [read_record(item, Test, f"{where}, test {number}") for number, item in enumerate(data, start=1)]


class _Plain(pickle.Unpickler):
    """Data alone: whatever names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpacked(text: str) -> str:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    if not unpacker.eof:
        raise ValueError(f"cut off, or more than {MOST_BYTES:,} bytes")
    try:
        found = _Plain(io.BytesIO(data)).load()
    except Exception as error:  # Bytes that are no pickle raise all kinds.
        raise ValueError(error) from None
    if not isinstance(found, str):
        raise ValueError("what is packed is no text")
    return found
