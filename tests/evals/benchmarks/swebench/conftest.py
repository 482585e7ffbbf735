from __future__ import annotations

import pytest

from plait.tests.evals.benchmarks.swebench.tools import mirrors, write_recipes


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of mirrors, recipes and environments, and the two instances by repository."""
    pytest.importorskip("swebench")
    folder = tmp_path_factory.mktemp("swebench")
    rows = mirrors(folder / "mirrors")
    write_recipes(folder / "recipes.toml")
    return folder, rows
