"""What belongs to an installed plait beside its code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import plait

ROOT = Path(plait.__file__).parent
PACKAGED = """
import os
from distutils.core import run_setup

dist = run_setup("setup.py", stop_after="init")
dist.parse_config_files()
build = dist.get_command_obj("build_py")
build.ensure_finalized()
build.manifest_files = {}
for package in dist.packages:
    print(*map(os.path.relpath, build.find_data_files(package, build.get_package_dir(package))), sep="\\n")
"""


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what is in the tree is asked of git")
def test_every_file_of_a_package_is_installed_with_it():
    def printed(*command: str) -> set[str]:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return {line for line in done.stdout.splitlines() if line.strip()}

    tracked = printed("git", "ls-files", "--", *(f"{path.parent.name}/" for path in ROOT.glob("[a-z]*/__init__.py")))
    data = {name for name in tracked if not name.startswith("tests/") and not name.endswith((".py", ".md"))}
    data |= {name for name in printed("git", "ls-files", "models") if not name.endswith(".md")}
    assert data and not data - printed(sys.executable, "-W", "ignore", "-c", "import setuptools\n" + PACKAGED)
