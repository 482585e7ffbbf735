"""Fixtures of the native engine's tests."""

from __future__ import annotations

from typing import Any

import pytest

from plait.runtime.engines.native.scheduler import Scheduler


@pytest.fixture
def bursts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of each burst that was run."""
    lengths: list[int] = []
    commit = Scheduler.commit_burst

    def counted(self: Scheduler, step: Any, decoded: Any) -> Any:
        lengths.append(len(decoded.tokens))
        return commit(self, step, decoded)

    monkeypatch.setattr(Scheduler, "commit_burst", counted)
    return lengths
