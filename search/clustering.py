"""Which steps say the same: clusters of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_EQUAL = 1e-9
"""Distances up to this are rounding."""


SHARE = 0.5
"""Of the median distance; see `own_distance`."""


def own_distance(embeddings: Sequence[Sequence[float] | None], share: float = SHARE) -> float:
    """Where to cut clusters of embeddings that lie at distances of their own: a share of the median of their cosine
    distances, those between equal ones left out."""
    units = _units(embeddings)
    distances = _distances([unit for _, unit in units]) if len(units) > 1 else np.zeros(0)
    apart = distances[distances > _EQUAL]
    return float(share * np.median(apart)) if len(apart) else _EQUAL


def cluster(embeddings: Sequence[Sequence[float] | None], distance: float) -> list[int]:
    """A label per step, 0 .. K - 1 in order of first appearance.

    Agglomerative clustering of the cosine distance by average linkage, cut at `distance`, as in ETS. Steps without an
    embedding, or with one of no direction (zero, not finite), are clusters of their own.
    """
    labels = [-1] * len(embeddings)
    usable = _units(embeddings)
    if len(usable) > 1:
        from scipy.cluster.hierarchy import fcluster, linkage

        distances = _distances([unit for _, unit in usable])
        found = fcluster(linkage(distances, method="average"), distance, criterion="distance")
        for (i, _), label in zip(usable, found, strict=True):
            labels[i] = int(label)
    names: dict[int, int] = {}
    return [names.setdefault(label if label >= 0 else -1 - i, len(names)) for i, label in enumerate(labels)]


def _units(embeddings: Sequence[Sequence[float] | None]) -> list[tuple[int, NDArray[np.float64]]]:
    """The directions of embeddings that have one, and their places."""
    found = []
    for i, embedding in enumerate(embeddings):
        if embedding is not None:
            vector = np.asarray(embedding, dtype=np.float64)
            norm = np.linalg.norm(vector)
            if np.isfinite(norm) and norm > 0:
                found.append((i, vector / norm))
    return found


def _distances(units: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Cosine distances of all pairs, in the order of SciPy's condensed form."""
    stacked = np.stack(units)
    rows, columns = np.triu_indices(len(stacked), 1)
    distances: NDArray[np.float64] = np.clip(1 - stacked @ stacked.T, 0, 2)[rows, columns]
    return distances
