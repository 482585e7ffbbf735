"""Files of predictions: what comes back, other systems' forms of them, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput
from plait.agents.predictions import Prediction, read_predictions, read_systems, write_predictions

PATCH = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\u2028c\r\n"


def one(instance="a__b-1", model="plait", patch=PATCH):
    return Prediction(instance_id=instance, model_name_or_path=model, model_patch=patch)


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.text(), st.text())), st.sampled_from([".json", ".jsonl"]))
def test_what_is_written_is_read(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.getbasetemp() / f"rows{suffix}"
    written = [one(name, model, patch) for name, (model, patch) in rows.items()]
    write_predictions(path, written)
    assert read_predictions(path) == written


def test_nothing_else_is_left_beside_the_file_and_the_old_one_is_replaced(tmp_path):
    path = tmp_path / "all.jsonl"
    write_predictions(path, [one()])
    write_predictions(path, [one("c__d-2")])
    assert [file.name for file in tmp_path.iterdir()] == ["all.jsonl"]
    assert json.loads(path.read_text())["model_patch"] == PATCH


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_predictions(tmp_path / "no" / "all.jsonl", [one()])
    with pytest.raises(InvalidInput, match="jsonl"):
        write_predictions(tmp_path / "all.txt", [one()])


def test_other_systems_write_lists_lines_and_objects(tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"instance_id": "i", "model_patch": "p\\n"}\n\n')
    (tmp_path / "list.json").write_text('[{"instance_id": "i", "model_patch": null, "model_name_or_path": "m"}]')
    (tmp_path / "object.json").write_text('{"i": {"model_patch": "q"}, "j": "r"}')
    (tmp_path / "20240101_other").mkdir()
    (tmp_path / "20240101_other" / "all_preds.jsonl").write_text('{"instance_id": "i", "model_patch": "s"}')
    (tmp_path / "notes.txt").write_text("no predictions")
    systems = read_systems(tmp_path)
    assert systems == {
        "20240101_other": [one("i", "20240101_other", "s")],
        "lines": [one("i", "lines", "p\n")],
        "list": [one("i", "m", "")],
        "object": [one("i", "object", "q"), one("j", "object", "r")],
    }
    assert read_systems(tmp_path / "list.json") == {"list": systems["list"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"instance_id": "i", "model_patch": ""}\n{', r"a\.jsonl:2: not JSON"),
        ("a.json", '[\n{"instance_id": "i",\n}]', r"a\.json:3: not JSON"),
        ("a.jsonl", "[]", r"a\.jsonl:1: a prediction is an object"),
        ("a.jsonl", '\n{"instance_id": "i"}', r"a\.jsonl:2: model_patch is missing"),
        ("a.jsonl", '{"model_patch": "i"}', r"a\.jsonl:1: instance_id"),
        ("a.jsonl", '{"instance_id": "i", "model_patch": 3}', r"a\.jsonl:1: .*texts"),
        (
            "a.json",
            '[{"instance_id": "i", "model_patch": ""}, {"instance_id": "i", "model_patch": ""}]',
            "entry 2: a sec",
        ),
        ("a.json", "3", "write a list"),
        ("a.json", "[" * 100_000, "JSON"),
        ("a.jsonl", "\n" + "9" * 5000, r"a\.jsonl:2: a number is too long"),
    ],
)
def test_malformed_files_are_named_with_their_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_predictions(tmp_path / name)


def test_folders_without_predictions_and_names_that_clash(tmp_path):
    with pytest.raises(InvalidInput, match="holds no predictions"):
        read_systems(tmp_path)
    with pytest.raises(InvalidInput, match="not a file"):
        read_systems(tmp_path / "nothing.json")
    for suffix in ("json", "jsonl"):
        (tmp_path / f"a.{suffix}").write_text("")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InvalidInput, match="rename one"):
        read_systems(tmp_path)
