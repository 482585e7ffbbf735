"""Paths in configurations: a folder of results goes on from anywhere, and a file's paths are beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest

from plait.evals import Benchmark, EvalConfig, register_benchmark
from plait.evals.config import read_toml
from plait.evals.paths import absolute, absolute_fields, absolute_model
from plait.runtime.cli.main import main
from plait.runtime.engines.registry import MODELS

COMMAND = ["eval", "--benchmark", "countdown", "--method", "sequential:max_tokens=4", "--kv-tokens", "65536"]


@register_benchmark
class Lookup(Benchmark):
    name: Literal["test_lookup"] = "test_lookup"
    """What configurations call it."""
    table: Path | None = None
    """One."""
    others: tuple[Path, ...] = ()
    """Some."""
    words: str = "words"
    """No path."""

    def load(self):
        return []

    def prompt(self, sample, method):
        return {}

    def grade(self, sample, answer, text):
        raise NotImplementedError


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A folder of results, begun with paths relative to `here`; then the command is elsewhere."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "problems.jsonl").write_text('{"nums": [1, 2, 3], "target": 6}\n')
    shutil.copytree(MODELS / "countdown", tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path / "here")
    assert main([*COMMAND, "--data", "problems.jsonl", "--model", "./model", "--out", "out"]) == 0
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "here" / "out"


def test_a_folder_goes_on_from_anywhere(begun, capsys):
    (begun / "results.jsonl").unlink()
    assert main(["eval", str(begun)]) == 0
    assert main(["eval", str(begun), "--report"]) == 0
    data = ["--data", "../here/problems.jsonl", "--out", str(begun)]
    assert main([*COMMAND, *data, "--model", str(begun.parent / "model")]) == 0
    assert main([*COMMAND, *data]) == 1
    assert "model: " in capsys.readouterr().err


@pytest.mark.parametrize("place", ["others", "../here/others", "."])
def test_paths_of_methods_are_those_of_where_they_were_given(tmp_path, monkeypatch, place):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    method = {"method": "code_monkeys", "candidates": place, "folder": "jobs"}
    settings = EvalConfig(benchmark={"name": "countdown"}, methods=[{**method, "label": "a"}, method]).settings()
    monkeypatch.chdir(tmp_path / "there")
    again = EvalConfig(**settings)
    assert again.settings() == settings
    paths = {"candidates": str((tmp_path / "here" / place).resolve()), "folder": str(tmp_path / "here" / "jobs")}
    for one in again.methods:
        assert one.fields == {"method": "code_monkeys", **paths}
    # Results are known by the name.
    assert f"candidates={'here' if place == '.' else 'others'}" in again.methods[1].name


def test_a_folder_with_relative_paths_goes_on_where_it_was_begun(begun, monkeypatch, capsys):
    kept = json.loads((begun / "settings.json").read_text())
    kept["settings"]["benchmark"]["data"] = "problems.jsonl"
    kept["settings"]["model"] = "model"
    (begun / "settings.json").write_text(json.dumps(kept))
    assert main(["eval", str(begun)]) == 1
    assert "problems.jsonl" in capsys.readouterr().err
    monkeypatch.chdir(begun.parent)
    assert main(["eval", "out"]) == 0


def test_paths_in_a_file_are_beside_it(tmp_path):
    path = tmp_path / "sub" / "eval.toml"
    path.parent.mkdir()
    path.write_text('[benchmark]\nname = "gsm8k"\ndata = "d.jsonl"\ntrain = "t.jsonl"\nshots = 1\n')
    assert read_toml(path)["benchmark"] == {
        "name": "gsm8k", "data": str(path.parent / "d.jsonl"), "train": str(path.parent / "t.jsonl"), "shots": 1,
    }  # fmt: skip
    fields = 'table = "a"\nothers = ["b", "/c"]\nwords = "d"\ndata = "~/e"\ncount = 3'
    path.write_text(f'[benchmark]\nname = "test_lookup"\n{fields}\n')
    assert read_toml(path)["benchmark"] == {
        "name": "test_lookup", "table": str(path.parent / "a"), "others": [str(path.parent / "b"), "/c"],
        "words": "d", "data": "~/e", "count": 3,
    }  # fmt: skip
    path.write_text('[benchmark]\nname = "no such"\ndata = "d"\n')
    assert read_toml(path)["benchmark"]["data"] == "d"


def test_one_file_has_one_name(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    assert absolute(tmp_path / "a" / ".." / "d") == str(tmp_path / "d")
    assert absolute(tmp_path / "link" / ".." / "d") == str(tmp_path / "link" / ".." / "d")  # that is `a/d`
    assert absolute(tmp_path / "no\0name") == str(tmp_path / "no\0name")
    assert absolute(tmp_path / "link" / "d") == str(tmp_path / "link" / "d")


def test_settings_name_paths_from_the_root_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = EvalConfig(benchmark=Lookup(table=Path("a")), methods=[{"method": "sequential"}])
    assert config.settings()["benchmark"] == {
        "name": "test_lookup", "table": str(tmp_path / "a"), "others": [], "words": "words",
    }  # fmt: skip
    assert config.benchmark.table == Path("a")
    assert EvalConfig(**config.settings()).settings() == config.settings()
    assert absolute_fields({"name": "test_lookup", "table": 3}, tmp_path)["table"] == 3


def test_models_on_this_disk_are_named_from_the_root_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m.gguf", "countdown"):
        (tmp_path / name).touch()
    names = ["m.gguf", "./m.gguf", "countdown", "org/name", "openai:http://h/v1", "", "x" * 5000]
    assert [absolute_model(name) for name in names] == [str(tmp_path / "m.gguf")] * 2 + names[2:]
