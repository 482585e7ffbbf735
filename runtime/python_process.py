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
    # A relative one is the working folder, or in it; plait itself may have been found there.
    folders = [folder for folder in map(Path, sys.path) if folder.is_absolute() or folder.absolute() == home]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(folder.absolute()) for folder in folders)}
