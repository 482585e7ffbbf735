"""What belongs to an installed plait beside its code, and to its source distribution."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import plait

ROOT = Path(plait.__file__).parent
BUILD = """
import sys
from setuptools import build_meta

folder = sys.argv[1]
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what is in the tree is asked of git")


def tracked(*paths: str) -> set[str]:
    listed = subprocess.check_output(["git", "ls-files", "-z", "--", *paths], cwd=ROOT, text=True)
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel, without kernels, and a source distribution, as tools that build packages make them."""
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    # Only what builds them has to be read; of the rest, models among it, the names are looked at.
    read = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md"}
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if name in read:
            shutil.copyfile(ROOT / name, tree / name)
        else:
            (tree / name).touch()
    no_compiler = {"CC": "false", "CXX": "false"}
    command = [sys.executable, "-P", "-W", "ignore", "-c", BUILD, str(folder)]
    subprocess.run(command, cwd=tree, env={**os.environ, **no_compiler}, capture_output=True, check=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path) -> set[str]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def test_every_file_of_a_package_is_installed_with_it(installed: set[str]) -> None:
    data = tracked(*(f"{path.parent.name}/" for path in ROOT.glob("[a-z]*/__init__.py")))
    data = {name for name in data if not name.startswith("tests/") and not name.endswith((".py", ".md"))}
    data |= {name for name in tracked("models") if not name.endswith(".md")}
    assert data and not {f"plait/{name}" for name in data} - installed


def test_nothing_that_only_the_tree_needs_is_installed(installed: set[str]) -> None:
    own = {name.removeprefix("plait/") for name in installed if name.startswith("plait/")}
    assert {name for name in own if "/" not in name} == {"__init__.py", "__main__.py", "py.typed"}
    assert not {name for name in own if name.startswith(("docs/", "tests/", "requirements/"))}


def test_the_source_distribution_has_what_the_readme_leads_to(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert "rl/README.md" in linked and not linked - names
    assert not {"CHANGELOG.md", "SECURITY.md", "Makefile", "mkdocs.yml", *tracked("docs")} - names
    assert not {name for name in names if name.startswith("tests/")}
