"""Make a checkout importable as `plait` without installing it: `python benchmarks/gpu/link.py FOLDER`.

For machines with no network and no right to install: FOLDER, to be put on PYTHONPATH, gets a link to the checkout and
the entry points of pyproject.toml, by which methods and engines are found.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def link(folder: Path, root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = folder / "plait.egg-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "PKG-INFO").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    place = folder / "plait"
    if place.is_symlink():
        place.unlink()
    place.symlink_to(root, target_is_directory=True)


if __name__ == "__main__":
    link(Path(sys.argv[1]), Path(__file__).resolve().parents[2])
