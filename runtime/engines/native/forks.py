"""A process forked from one that has computed: OpenMP's and torch's threads are not in it, and it would wait for them
for ever."""

from __future__ import annotations

import os

from ...errors import EngineClosed

_owner: list[int] = []
"""The process that loaded a model first; a fork inherits it."""


def check_process() -> None:
    """Raise `EngineClosed` in a process that was forked after its parent had loaded a model."""
    if not _owner:
        _owner.append(os.getpid())
    if is_forked():
        raise EngineClosed(
            "this process was forked after its parent had loaded a model, whose threads are not here: fork before "
            "loading, or start processes by multiprocessing's 'spawn'"
        )


def is_forked() -> bool:
    return bool(_owner) and _owner[0] != os.getpid()
