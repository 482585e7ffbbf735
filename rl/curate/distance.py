"""How far one text is from another."""

from __future__ import annotations

import numpy as np


def relative_distance(a: str, b: str) -> float:
    """Levenshtein's distance over the length of the longer text, runs of white space counting as one; 0 to 1."""
    first, second = (np.array([ord(c) for c in " ".join(text.split())], dtype=np.int32) for text in (a, b))
    if not len(first) or not len(second):
        return float(len(first) != len(second))
    places = np.arange(len(second) + 1)
    row = places.copy()
    for i, character in enumerate(first, start=1):
        best = np.empty_like(row)
        best[0] = i
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (second != character))
        # What was put in counts from the best place before it.
        row = np.minimum.accumulate(best - places) + places
    return float(row[-1]) / max(len(first), len(second))
