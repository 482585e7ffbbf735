"""Python processes that plait starts for itself: they import what this one does, and nothing from the working folder,
whose files may be anybody's."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def python_command(*arguments: str) -> list[str]:
    """This Python with these arguments."""
    return [sys.executable, "-P", *arguments]


def import_environment() -> dict[str, str]:
    """This process's environment, for a Python that imports from the folders that this one does, however they came onto
    its path."""
    home = Path(__file__).parents[2]
    try:
        here = Path.cwd()
    except FileNotFoundError:  # It was removed: a relative one leads nowhere.
        here = Path()
    # A relative one is the working folder, or in it; plait itself may have been found there.
    folders = [str(here / path) for path in map(Path, sys.path) if path.is_absolute() or here / path == home]
    # With a separator in its name a folder would be read as several others, the working folder maybe among them.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(name for name in folders if os.pathsep not in name)}
