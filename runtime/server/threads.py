"""`Threads`: what the live page shows of a running job."""

from __future__ import annotations

from typing import Any

from ..events import AnyEvent, BranchEvent, BranchStarted, Pruned, Stopped, Text

TAIL = 200
"""Characters at the end of a thread's text that are shown."""
MOST = 100
"""Threads of a job that are shown, the latest."""


class Threads:
    """The threads of one job, by its events."""

    def __init__(self) -> None:
        self._threads: dict[str, dict[str, Any]] = {}
        self.tokens = 0
        """Of all texts."""

    def add(self, event: AnyEvent) -> None:
        if not isinstance(event, BranchEvent):
            return
        new = {"id": event.branch, "parent": None, "label": "", "tokens": 0, "text": "", "state": "open"}
        thread = self._threads.setdefault(event.branch, new)
        if isinstance(event, BranchStarted):
            thread.update(parent=event.parent, label=event.label)
        elif isinstance(event, Text):
            self.tokens += event.tokens
            text = (thread["text"] + event.text)[-TAIL:]
            thread.update(text=text, tokens=thread["tokens"] + event.tokens, state="writing")
        elif isinstance(event, Stopped):
            thread["state"] = event.reason
        elif isinstance(event, Pruned):
            thread["state"] = "pruned"

    def to_json(self) -> list[dict[str, Any]]:
        return list(self._threads.values())[-MOST:]
