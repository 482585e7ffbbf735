"""Names of files."""

from __future__ import annotations

import re


def slug(text: str) -> str:
    """A text as a part of a file's name, 60 characters at most."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", text)[:60]
