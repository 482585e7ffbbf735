"""Which steps say the same: clusters of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cluster(embeddings: Sequence[Sequence[float] | None], distance: float) -> list[int]:
    """A label per step, 0 .. K - 1 in order of first appearance.

    Agglomerative clustering of the cosine distance by average linkage, cut at `distance`, as in ETS. Steps without an
    embedding, or with one of no direction (zero, not finite), are clusters of their own.
    """
    labels = [-1] * len(embeddings)
    usable = []
    for i, embedding in enumerate(embeddings):
        if embedding is not None:
            vector = np.asarray(embedding, dtype=np.float64)
            norm = np.linalg.norm(vector)
            if np.isfinite(norm) and norm > 0:
                usable.append((i, vector / norm))
    if len(usable) > 1:
        from scipy.cluster.hierarchy import fcluster, linkage

        units = np.stack([vector for _, vector in usable])
        rows, columns = np.triu_indices(len(units), 1)
        distances = np.clip(1 - units @ units.T, 0, 2)[rows, columns]
        found = fcluster(linkage(distances, method="average"), distance, criterion="distance")
        for (i, _), label in zip(usable, found, strict=True):
            labels[i] = int(label)
    names: dict[int, int] = {}
    return [names.setdefault(label if label >= 0 else -1 - i, len(names)) for i, label in enumerate(labels)]
