"""Files of JSON Lines, and the names that stand for several."""

from __future__ import annotations

import json

import pytest

from plait import InvalidInput
from plait.rl.lines import files, folders, read_lines


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/1.jsonl", ["a/1.jsonl"]),
        ("a/*.jsonl", ["a/1.jsonl", "a/2.jsonl"]),
        ("*/1.jsonl", ["a/1.jsonl", "b/1.jsonl"]),
        ("?/[12].jsonl", ["a/1.jsonl", "a/2.jsonl", "b/1.jsonl"]),
        ("**/*.jsonl", ["a/1.jsonl", "a/2.jsonl", "b/1.jsonl", "b/c/[3].jsonl"]),
        ("b/c/[3].jsonl", ["b/c/[3].jsonl"]),
    ],
)
def test_names_stand_for_files_as_in_a_shell(tmp_path, name, found):
    for file in ("a/1.jsonl", "a/2.jsonl", "b/1.jsonl", "b/c/[3].jsonl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    assert files([str(tmp_path / name)]) == [tmp_path / file for file in found]
    with pytest.raises(InvalidInput, match="there is no file"):
        files([str(tmp_path / name), str(tmp_path / "a")])


def test_folders_are_named_so_too(tmp_path):
    for folder in ("a/one", "a/[2]", "b/one"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("")
    found = {"a/*": ["a/[2]", "a/one"], "*/one": ["a/one", "b/one"], "a/[2]": ["a/[2]"], "b": ["b"]}
    for name, some in found.items():
        assert folders([str(tmp_path / name)]) == [tmp_path / folder for folder in some]
    with pytest.raises(InvalidInput, match="there is no folder"):
        folders([str(tmp_path / "a/one/*")])


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    """What else ends lines in Unicode may stand in a text."""
    rows = [{"text": "one\u2028two\u2029three\x85four"}, {"text": "five"}]
    path = tmp_path / "rows.jsonl"
    text = "\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for start in ("", "\ufeff"):
        path.write_text(start + text, encoding="utf-8", newline="")
        assert list(read_lines(path)) == [(f"{path}:1", rows[0]), (f"{path}:3", rows[1])]


@pytest.mark.parametrize("line", ["[1]", "{", '{"a": "\\ud800"}', '{"a": NaN}', "[" * 100_000, '{"a": ' * 5000])
def test_what_is_no_plain_object_is_named_by_its_place(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + line)
    with pytest.raises(InvalidInput, match=r"rows\.jsonl:2: "):
        list(read_lines(path))
