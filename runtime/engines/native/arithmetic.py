"""Which instructions multiply weights in bfloat16: the fastest of this machine, measured once and kept in a file.

One choice for rows in any number. Where few rows and many were multiplied in different ways, whose roundings differ, a
row's result would depend on the rows beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from ...disk import cache_folder, replace_file
from ...errors import InvalidInput
from .kernels import BFLOAT16, BFLOAT16_TILES, FLOAT32_HALVED, LinearArguments, WorkArguments

NAMES = {BFLOAT16: "bfloat16", FLOAT32_HALVED: "float32", BFLOAT16_TILES: "tiles"}
"""Products of pairs in vector registers; inputs that are not rounded; tile registers (AMX)."""

_ROWS = (1, 16, 64)
_INPUTS, _OUTPUTS = 1024, 4096
_REPEATS = 8
_MARGIN = 1.15
"""So many times as fast as BFLOAT16 is what takes its place: closer than that, two measurements could disagree."""

logger = logging.getLogger(__name__)


@functools.cache
def fastest(library: ctypes.CDLL) -> int:
    """The type (`WorkArguments.type`) by which weights packed as BFLOAT16 are multiplied on this machine. Without a
    place for the file: tile registers if there are any, else BFLOAT16."""
    there = candidates(library)
    try:
        path, key = cache_folder("arithmetic.json"), build_key(library)
        known = _read(path)
        for arithmetic, name in NAMES.items():
            if known.get(key) == name and arithmetic in there:
                return arithmetic
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = choose(measure(library), measure(library))
        replace_file(path, json.dumps({**known, key: NAMES[chosen]}).encode())
    except (OSError, InvalidInput):
        # A measurement that is not kept could come out otherwise at the next start, and tokens with it.
        chosen = BFLOAT16_TILES if BFLOAT16_TILES in there else BFLOAT16
        logger.info("bfloat16 weights are multiplied by %s: there is no place for a measurement", NAMES[chosen])
    else:
        logger.info("bfloat16 weights are multiplied by %s, the fastest here; kept in %s", NAMES[chosen], path)
    return chosen


def candidates(library: ctypes.CDLL) -> tuple[int, ...]:
    """What this library and processor have."""
    return (BFLOAT16, FLOAT32_HALVED, *((BFLOAT16_TILES,) if library.plait_has_tiles() else ()))


def measure(library: ctypes.CDLL) -> dict[int, float]:
    """Seconds of each candidate for one matrix: the geometric mean over several numbers of rows, on one thread, whose
    own time it is: others may be busy."""
    panel = library.plait_panel()
    panels = torch.randn(_OUTPUTS // panel, _INPUTS // 2, 2 * panel).bfloat16()
    matrix = LinearArguments(panels=panels.data_ptr(), bias=None, inputs=_INPUTS, outputs=_OUTPUTS, bits=16)
    x, hidden, norm = torch.randn(max(_ROWS), _INPUTS), torch.empty(max(_ROWS), _INPUTS), torch.ones(_INPUTS)
    space, logits = torch.zeros(max(_ROWS), _INPUTS + 16), torch.empty(max(_ROWS), _OUTPUTS)
    work = WorkArguments(hidden_size=_INPUTS, eps=1e-6, threads=1, input=space.data_ptr(), input_stride=space.stride(0))
    best = {(arithmetic, rows): math.inf for arithmetic in candidates(library) for rows in _ROWS}
    for _ in range(_REPEATS):
        for arithmetic, rows in best:
            work.type = arithmetic
            start = time.thread_time()
            library.plait_head(
                ctypes.addressof(matrix), norm.data_ptr(), ctypes.addressof(work), x.data_ptr(), _INPUTS, rows, None,
                hidden.data_ptr(), _INPUTS, logits.data_ptr(),
            )  # fmt: skip
            best[arithmetic, rows] = min(best[arithmetic, rows], time.thread_time() - start)
    return {
        arithmetic: math.prod(best[arithmetic, rows] for rows in _ROWS) ** (1 / len(_ROWS))
        for arithmetic in candidates(library)
    }


def choose(*measurements: Mapping[int, float]) -> int:
    """BFLOAT16, unless another is clearly faster in all of them."""
    found = {min(seconds, key=lambda arithmetic: seconds[arithmetic]) for seconds in measurements}
    if len(found) > 1:
        return BFLOAT16
    (best,) = found
    is_clear = all(seconds[best] * _MARGIN < seconds[BFLOAT16] for seconds in measurements)
    return best if is_clear else BFLOAT16


@functools.cache
def build_key(library: ctypes.CDLL) -> str:
    """Of this build and this processor: what they compute they compute alike, bit for bit."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return hashlib.sha256(Path(library._name).read_bytes() + processor.encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, str]:
    """What was measured before; nothing if that cannot be read."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
