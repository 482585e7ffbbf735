"""Python texts that models or other people wrote, read as Python."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

_lock = threading.Lock()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """For `ast.parse`, `compile` and `symtable`: without warnings of the text, and one thread at a time. Before Python
    3.13 two that make trees take each other's depth for their own (a `SystemError`), and filters of warnings are the
    whole process's."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
