"""The output folder of a training: which configuration made it, and what a run that goes on may have changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.disk import make_folder, replace_file, writing
from ..runtime.errors import InvalidInput
from ..runtime.spec import Spec
from .checkpoints import STAGING, checkpoints

CONFIG = "config.json"
"""In the output folder: the fields that the training was begun with."""
MODELS = ("adapter", "model")
"""In the output folder, in the end: what was trained."""


def claim(config: Spec, out: Path, *, may_change: Sequence[str], outcomes: Sequence[str], fresh: bool) -> None:
    """Write the configuration down, or see that it is that of the folder.

    `may_change`: fields that a run that goes on may have other values of. `outcomes`: files and folders that a run
    writes as it goes, removed where it begins anew: without a checkpoint there is nothing to go on from, and what they
    say is of another run. `fresh` removes checkpoints and models as well. Raises `InvalidInput`.
    """
    make_folder(out)
    fields = config.model_dump(mode="json")
    file = out / CONFIG
    shutil.rmtree(out / STAGING, ignore_errors=True)
    found = checkpoints(out)
    # Without a configuration what is there is no run's.
    if fresh or (file.exists() and not found):
        for old in (*found, *(out / name for name in (*outcomes, *(MODELS if fresh else ())))):
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
    elif file.exists():
        check_same(file, fields, may_change, advice="give another --out, or --fresh to begin anew")
    with writing(file):
        replace_file(file, json.dumps(fields, indent=1).encode() + b"\n", sync=True)


def check_same(file: Path, fields: Mapping[str, Any], may_change: Collection[str], *, advice: str) -> None:
    """Raise `InvalidInput`, with `advice`, unless the file holds these fields, but for those that may change."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InvalidInput(f"{file} is damaged: {advice}") from None
    if differ := [name for name in fields if name not in may_change and known.get(name) != fields[name]]:
        raise InvalidInput(f"{file.parent} was made with other {', '.join(differ)}: {advice}")
