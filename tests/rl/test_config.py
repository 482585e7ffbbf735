"""Configurations of trainings: where the paths in them lead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import plait
from plait.rl.config import read_toml
from plait.rl.lines import files

CONFIGS = sorted((Path(plait.__file__).parent / "rl" / "configs").glob("*.toml"))
LINE = re.compile(r"^#     PLAIT_DATA=(\w+) plait train \w+ rl/configs/(\S+)", re.MULTILINE)


@pytest.mark.parametrize(
    "config", [one for one in CONFIGS if "$PLAIT_DATA" in one.read_text()], ids=lambda one: one.stem
)
def test_the_line_in_a_configuration_finds_the_data_in_the_working_folder(config, tmp_path, monkeypatch):
    ((folder, name),) = LINE.findall(config.read_text())
    assert name == config.name
    monkeypatch.setenv("PLAIT_DATA", folder)
    monkeypatch.chdir(tmp_path)
    paths = [Path(path) for source in read_toml(config)["data"] for path in source["paths"]]
    assert paths and all(path.is_relative_to(tmp_path / folder) for path in paths)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("t*.jsonl", "config"),
        ("$DATA/t*.jsonl", "work[1]/data"),
        ("${DATA}/t*.jsonl", "work[1]/data"),
        ("$ROOT/t*.jsonl", "root"),
        ("../$DATA/t*.jsonl", "data"),
    ],
)
def test_paths_are_relative_to_the_configuration_and_variables_to_the_working_folder(
    path, place, tmp_path, monkeypatch
):
    for folder in ("config", "work[1]/data", "root", "data"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "t1.jsonl").write_text("")
    (tmp_path / "config" / "c.toml").write_text(f'[[data]]\npaths = ["{path}"]\n')
    monkeypatch.setenv("DATA", "data")
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path / "work[1]")
    [source] = read_toml(Path("../config/c.toml"))["data"]
    monkeypatch.chdir(tmp_path)
    [found] = files(source["paths"])
    assert found.samefile(tmp_path / place / "t1.jsonl")
