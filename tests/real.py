"""Real models for tests that need some: folders under `PLAIT_REAL_MODELS`; without it these tests skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NAMES = ("smol135", "q05", "q15")


def folder(name: str) -> Path:
    """The folder of a real model; skips the test where it is not."""
    root = os.environ.get("PLAIT_REAL_MODELS")
    if root is None or not (Path(root) / name / "config.json").is_file():
        pytest.skip(f"PLAIT_REAL_MODELS names no folder with {name}")
    return Path(root) / name
