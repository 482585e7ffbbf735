"""`Snapshot`: a repository as it stands at one commit, with a patch on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a command runs on. Equal snapshots are equal files."""

    repository: Path
    """A git repository: a checkout, a bare one or a mirror. It is only read."""
    commit: str
    """Full hash."""
    patch: str = ""
    """Unified diff against the commit; empty: the commit itself."""
