"""Calling what may never return: a model folder's chat template is a program of somebody else's."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_AGAIN = 0.2
"""Seconds between attempts to end it."""
_ATTEMPTS = 25


class _TooLong(BaseException):
    """Raised in the thread; no `except Exception` keeps it."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call`, which is Python code, gives or raises. Raises `TimeoutError` after so many seconds; it has ended
    then, unless it is stuck inside one operation."""
    found: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="plait-template", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        for _ in range(_ATTEMPTS):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_TooLong))
            thread.join(_AGAIN)
            if not thread.is_alive():
                break
        raise TimeoutError
    if errors:
        raise errors[0]
    return found[0]
