"""`Journal`: results of one stage, a line for each sample, on disk when `add` returns."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON Lines with a `digest` each, of the sample that it is about; a line that a crash cut off is dropped
    on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            row = json.loads(line)
            if "digest" in row:  # rows of before there were digests may be of any sample
                self.rows[row["digest"]] = row
        self._file = path.open("ab")
        self._file.truncate(end)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a row; of two of one sample the later holds."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows[row["digest"]] = row
        return row

    def close(self) -> None:
        self._file.close()
