"""`AttentionPlan`: which query rows see which keys, for one forward pass over many branches.

Legend for shapes: N query rows, H query heads, K key/value heads, D head size, B block size, P pool blocks,
R runs, E entries, G groups.

A *run* is one segment as the pool holds it: a list of blocks. An *entry* says that a range of query rows sees a range
of a run's tokens. The entries of a row, over all runs, make up its view. Runs are unique, so entries on the same run
show where several branches can share one read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A score scale and a weight for the spans of one group (APE, arXiv 2502.05431, section 4)."""

    temperature: float = 1.0
    """T: scores of the group are divided by it."""
    factor: float = 1.0
    """Multiplies the group's joint log-sum-exp (APE's S * T), after the ordinary merge inside the group."""
    bias: float = 0.0
    """Added to the joint log-sum-exp after `factor`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """All arrays are C-contiguous."""

    num_rows: int
    """N."""
    run_blocks: Int32
    """Block ids of all runs, one run after the other."""
    run_start: Int32
    """(R + 1,): run r has blocks run_blocks[run_start[r] : run_start[r + 1]]; its token t lies in block t // B, slot t % B."""
    entries: Int32
    """(E, 8): columns `row, rows, run, begin, end, causal, shift, group`.

    Query rows row .. row + rows - 1 see the run's tokens begin .. end - 1; if `causal` is 1, row `row + i` sees only
    begin .. end - rows + i (the last row sees all, each earlier row one less: the rows are the run's own last tokens).
    `shift` moves the run's keys by that many positions. An empty range is allowed and contributes nothing. No row may
    see the same key twice; a row without any visible key gets zeros.
    """
    groups: tuple[Group, ...]
    """Group 0 is ordinary attention."""
