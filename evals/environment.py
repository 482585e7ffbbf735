"""What an evaluation ran on, and fingerprints of what it ran."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .benchmark import Sample

PACKAGES = ("plait", "torch", "transformers", "numpy", "math-verify")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def samples_digest(samples: Sequence[Sample]) -> str:
    """Changes with any problem, its order or its answer."""
    rows = [(sample.id, sample.question, sample.reference, sample.data) for sample in samples]
    return digest(rows)


def digest(value: Any) -> str:
    """Of any value; see `_plain`."""
    return hashlib.sha256(json.dumps(_plain(value)).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """The value as JSON has it, the same in every process; of what says nothing of itself, its type."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        if all(key is None or isinstance(key, str | int | float) for key in value):
            return {key: _plain(one) for key, one in value.items()}
        return [[_plain(key), _plain(one)] for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=json.dumps)
    if is_dataclass(value) and not isinstance(value, type):
        return [_plain(getattr(value, one.name)) for one in fields(value)]
    return _ADDRESS.sub("", str(value))
