"""Problems of the hub: which data set is asked for, and strictness."""

from __future__ import annotations

import json
import sys
import zipfile
from types import ModuleType

import pytest

from plait import InvalidInput
from plait.evals import parse_benchmark
from plait.evals.hub import HubSet, hub_rows
from plait.evals.records import Record


class Row(Record):
    n: int


@pytest.fixture
def hub(monkeypatch):
    """A `datasets` module: what it was asked for, and the rows that it gives."""
    module = ModuleType("datasets")
    module.asked, module.rows = [], [{"n": 1}]

    def load_dataset(*names, **options):
        module.asked.append((*names, options))
        return module.rows

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_what_is_asked_for(hub):
    assert [row.n for row in hub_rows(HubSet(name="a/b"), Row)] == [1]
    hub_rows(HubSet(name="a/b", config="c", split="train"), Row)
    hub_rows(HubSet(name="a/b", files=("x.jsonl", "y.zip::d/z.jsonl")), Row)
    files = ["hf://datasets/a/b/x.jsonl", "zip://d/z.jsonl::hf://datasets/a/b/y.zip"]
    assert hub.asked == [
        ("a/b", {"split": "test"}),
        ("a/b", "c", {"split": "train"}),
        ("json", {"data_files": files, "split": "train"}),
    ]


def test_rows_are_as_strict_as_a_file_s(hub):
    hub.rows = [{"n": 1}, {"n": 2.0}]
    with pytest.raises(InvalidInput, match="a/b, row 2: n: "):
        hub_rows(HubSet(name="a/b"), Row)


@pytest.mark.parametrize(
    ("benchmark", "asked"),
    [
        ({"name": "gsm8k"}, ("openai/gsm8k", "main")),
        ({"name": "limo"}, ("GAIR/LIMO",)),
        ({"name": "olympiadbench", "subject": "physics"}, ("Hothan/OlympiadBench", "OE_TO_physics_en_COMP")),
        ({"name": "gpqa", "subset": "main"}, ("Idavidrein/gpqa", "gpqa_main")),
        ({"name": "longbench", "subset": "qasper"}, ("json",)),
        ({"name": "livecodebench", "release": "v2"}, ("json",)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_every_benchmark_s_own_set(hub, benchmark, asked):
    hub.rows = [{}]
    with pytest.raises(InvalidInput, match="row 1: a problem needs the field"):
        parse_benchmark(benchmark).load()
    ((*names, options),) = hub.asked
    assert tuple(names) == asked
    if benchmark["name"] == "livecodebench":
        assert [url.rpartition("/")[2] for url in options["data_files"]] == ["test.jsonl", "test2.jsonl"]
    if benchmark["name"] == "longbench":
        assert options["data_files"] == ["zip://data/qasper.jsonl::hf://datasets/THUDM/LongBench/data.zip"]


def test_datasets_reads_files_in_archives(tmp_path, monkeypatch):
    """The form of the address is one that `datasets` knows; the archive lies here instead of on the hub."""
    datasets = pytest.importorskip("datasets")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/x.jsonl", json.dumps({"n": 3}) + "\n")
    monkeypatch.setattr(HubSet, "_url", lambda self, file: str(tmp_path / file))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
    assert [row.n for row in hub_rows(HubSet(name="a/b", files=("data.zip::data/x.jsonl",)), Row)] == [3]
