"""Where data that is not committed may be found; tests that need it skip where it is missing."""

from __future__ import annotations

import os
from pathlib import Path

import plait

SHARED = Path(os.environ.get("PLAIT_DATA", Path(plait.__file__).parents[1] / "shared" / "data"))
