"""`Journal`: results of one stage, a line for each sample, on disk when `add` returns."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...runtime.disk import writing
from ..lines import read_lines


class Journal:
    """A file of JSON Lines with a `digest` each, of the sample that it is about; a last line that a crash cut off is
    dropped on opening. Raises `InvalidInput`, naming the line, for any other that is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        with writing(path):
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        for _, row in read_lines(path):
            if "digest" in row:  # rows of before there were digests may be of any sample
                self.rows[str(row["digest"])] = row

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a row; of two of one sample the later holds. Raises `InvalidInput` where it cannot be written."""
        with writing(self.path), self.path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[row["digest"]] = row
        return row
