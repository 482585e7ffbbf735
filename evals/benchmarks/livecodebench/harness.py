"""Runs `solution.py` once, inside the sandbox, as a program of its own: `harness.py [FUNCTION RESULT]`.

What solutions may use without importing it is there, in the order of LiveCodeBench's own runner, and so is its limit of
recursion. A function's arguments are read from standard input, one in JSON a line; its value goes into the file
descriptor RESULT as JSON, numbers and arrays of numpy as Python's. Standard library only.
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
    """What numpy has, in Python's types. Raises `TypeError` for what else JSON has not."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def main() -> None:
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
        with os.fdopen(int(result), "w", encoding="utf-8") as file:
            file.write(json.dumps(value, default=plain))
    except SystemExit:
        pass  # A program that has had its say.


if __name__ == "__main__":
    main()
