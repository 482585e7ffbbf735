"""A pytest plugin (`addopts`): the root of the repository is a folder of tests like any other.

It has an `__init__.py`, so pytest would import it once more, by the name of the checkout: the whole package, twice.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return pytest.Dir.from_parent(parent, path=path) if path == parent.config.rootpath else None
