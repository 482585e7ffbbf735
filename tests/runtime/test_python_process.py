"""Where the Python processes that plait starts import from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import plait
from plait.runtime.python_process import import_environment, python_command

HOME = Path(plait.__file__).parents[1]
ASK = "import json, sys, plait, extra; print(json.__file__, plait.__file__, extra.__file__)"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this process alone imports from, while it works in one whose files nobody vouches for."""
    for name in ("found", "anybody's"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "extra.py").write_text("")
    (tmp_path / "anybody's" / "json.py").write_text("raise SystemExit('this is run')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path / "anybody's")
    return tmp_path / "found"


@pytest.mark.parametrize("working", [[], [""], ["."]])  # as on the path of notebooks
def test_a_process_imports_what_this_one_does_and_nothing_from_the_working_folder(
    working: list[str], found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*working, str(HOME), *sys.path, str(found)])
    said = subprocess.check_output(python_command("-c", ASK), env=import_environment(), text=True)
    assert said.split() == [sys.modules["json"].__file__, plait.__file__, str(found / "extra.py")]


def test_plait_may_be_in_the_working_folder(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HOME)
    monkeypatch.setattr(sys, "path", ["", *(folder for folder in sys.path if folder != str(HOME))])
    assert import_environment()["PYTHONPATH"].split(os.pathsep)[0] == str(HOME)


def test_a_working_folder_that_was_removed_is_left_out(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "somewhere", str(HOME), *sys.path, str(found)])
    shutil.rmtree(Path.cwd())
    said = subprocess.check_output(python_command("-c", ASK), env=import_environment(), text=True)
    assert said.split()[2] == str(found / "extra.py")


def test_a_folder_whose_name_holds_the_separator_is_left_out(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = f"{found}{os.pathsep}{Path.cwd()}"  # The second of what it would be read as is the working folder.
    monkeypatch.setattr(sys, "path", [split, str(HOME), *sys.path, str(found)])
    said = subprocess.check_output(python_command("-c", ASK), env=import_environment(), text=True)
    assert said.split() == [sys.modules["json"].__file__, plait.__file__, str(found / "extra.py")]
