"""The grading process: reads one JSON request per line, answers with one line; run by `grading.MathGrader`.

It has no way to know how long a comparison takes, so it is ended from outside when one takes too long; memory is
limited from within.
"""

from __future__ import annotations

import json
import logging
import resource
import sys

MEMORY = 2 << 30
"""Bytes of address space."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    logging.disable(logging.CRITICAL)
    # The channel is the true standard output; whatever a library prints goes to standard error.
    channel, sys.stdout = sys.stdout, sys.stderr
    from math_verify import parse, verify

    def read(text: str) -> list[object]:
        found: list[object] = parse(text, parsing_timeout=None, raise_on_error=True)
        return found

    def answer(request: dict[str, str]) -> dict[str, object]:
        gold, target = read(request["gold"]), read(request["text"])
        if not target:
            return {"correct": False, "parsed": None}
        correct = verify(gold, target, timeout_seconds=None, raise_on_error=True)
        return {"correct": bool(correct), "parsed": str(target[-1])[:200]}

    print(json.dumps({"ready": True}), file=channel, flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except (Exception, RecursionError, MemoryError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(reply), file=channel, flush=True)


if __name__ == "__main__":
    main()
