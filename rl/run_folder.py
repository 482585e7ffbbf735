"""The output folder of a training: which configuration made it, and what a run that goes on may have changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..runtime.disk import replace_file
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
    out.mkdir(parents=True, exist_ok=True)
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
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise InvalidInput(f"{file} is damaged; --fresh begins anew") from None
        differ = [name for name in fields if name not in may_change and known.get(name) != fields[name]]
        if differ:
            raise InvalidInput(
                f"{out} was made with other {', '.join(differ)}: give another --out, or --fresh to begin anew"
            )
    replace_file(file, json.dumps(fields, indent=1).encode() + b"\n", sync=True)
