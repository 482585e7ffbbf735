"""Runs `solution.py` once, inside the sandbox, as a program of its own: `harness.py [FUNCTION RESULT]`.

What solutions may use without importing it is there, in the order of LiveCodeBench's own runner, and so are its limits
of recursion and of digits. A function's arguments are read from standard input, one in JSON a line; its value goes into
the file descriptor RESULT as JSON. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "builtins typing"
).split()
MODULES = STARRED[:-2]
RECURSION = 50_000
DIGITS = 50_000
"""Of a whole number, read or written."""


def run(source: str, name: str) -> dict[str, Any]:
    """Run a module of this name; what it defines."""
    module = ModuleType(name)
    sys.modules[name] = module
    names = [f"from {one} import *" for one in STARRED] + [f"import {one}" for one in MODULES]
    exec("\n".join(names), module.__dict__)
    sys.setrecursionlimit(RECURSION)
    exec(compile(source, "solution.py", "exec"), module.__dict__)
    return module.__dict__


def plain(value: Any) -> Any:
    """One number of numpy as Python's. Raises `TypeError` for what else JSON has not: `==` of a longer array and a list
    is neither true nor false."""
    if getattr(value, "size", 0) == 1:
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def check(value: Any) -> None:
    """Raise `TypeError` for what is equal in JSON alone: LiveCodeBench compares by Python's `==`."""
    if isinstance(value, tuple):
        raise TypeError("a tuple inside a value is no list")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key that is no text is none of JSON")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            check(item)


def main() -> None:
    sys.set_int_max_str_digits(DIGITS)
    source = Path("solution.py").read_text(encoding="utf-8", errors="surrogateescape")
    try:
        if len(sys.argv) == 1:
            run(source, "__main__")
            return
        function, result = sys.argv[1:]
        arguments = [json.loads(line) for line in sys.stdin.read().split("\n")]
        defined = run(source, "solution")
        owner = defined["Solution"]() if "Solution" in defined else None
        target = defined[function] if owner is None else getattr(owner, function)
        value = target(*arguments)
        value = list(value) if isinstance(value, tuple) else value
        check(value)
        with os.fdopen(int(result), "w", encoding="utf-8") as file:
            file.write(json.dumps(value, default=plain))
    except SystemExit:
        pass  # A program that has had its say.


if __name__ == "__main__":
    main()
