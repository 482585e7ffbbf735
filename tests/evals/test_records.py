"""Files of problems: every benchmark reads right ones, and names line and field of wrong ones."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput
from plait.evals import Sample, parse_benchmark, run
from plait.evals.benchmark import check_samples
from plait.evals.benchmarks.countdown.problems import load
from plait.evals.records import Record, Text, read_rows
from plait.runtime.cli.files import read_text, write_text
from plait.tests.evals.tools import engine, grid

ROWS: dict[str, dict[str, Any]] = {
    "countdown": {"id": "c", "nums": [3, 5, 9], "target": 24},
    "math500": {"id": "m", "problem": "What is $1+1$?", "answer": "2"},
    "rag": {"id": "r", "question": "Who?", "contexts": ["Ada", "Bob"], "answers": ["Ada"]},
}
FIRST = {name: {**row, "id": "first"} for name, row in ROWS.items()}

half = st.sampled_from(["\ud800", "a\udfffb", "x \ud83d"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), half)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner))
fields = st.sampled_from([(name, field) for name, row in ROWS.items() for field in row])


def read(name, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problems.jsonl"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return parse_benchmark({"name": name, "data": path}).load()


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@given(fields, values)
def test_a_value_is_right_or_its_line_and_field_are_named(place, value):
    name, field = place
    try:
        samples = read(name, lines(FIRST[name]) + "\n" + lines({**ROWS[name], field: value}))
    except InvalidInput as error:
        assert f"problems.jsonl:3: {field}" in str(error) and "\n" not in str(error)
        str(error).encode()
    else:
        assert len(samples) == 2
        check_samples(samples)
        is_text = isinstance(value, str) or (field in ("id", "answer") and type(value) is int)
        assert is_text or (field in ("nums", "contexts", "answers") and isinstance(value, list)) or type(value) is int


@pytest.mark.parametrize("field", ["problem", "answer"])
@pytest.mark.parametrize("blank", ["", "  ", "\n\u2028"])
def test_a_problem_says_something_and_so_does_its_answer(field, blank):
    with pytest.raises(InvalidInput, match=rf"problems.jsonl:2: {field}: there is nothing in it"):
        read("math500", lines(FIRST["math500"], {**ROWS["math500"], field: blank}))


@given(st.sampled_from(list(ROWS)), st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_read_or_refused(name, data):
    try:
        samples = read(name, data)
    except InvalidInput as error:
        assert "\n" not in str(error)
    else:
        check_samples(samples)


WRONG = [
    ("countdown", "nums", [3.0, 5, 9], r"nums\[0\].*: 3\.0"),
    ("countdown", "nums", [3, True, 9], r"nums\[1\].*: true"),
    ("countdown", "nums", ["3", 5, 9], r'nums\[0\].*: "3"'),
    ("countdown", "nums", [3, 5], "nums: .*at least 3 items"),
    ("countdown", "nums", [3, 5, 1000], r"nums\[2\]: .*less than or equal to 999: 1000"),
    ("countdown", "nums", "359", "nums: .*list"),
    ("countdown", "target", 24.0, "target: .*integer: 24.0"),
    ("countdown", "target", True, "target: .*integer: true"),
    ("math500", "problem", None, "problem: .*string: null"),
    ("math500", "problem", ["x"], 'problem: .*string: \\["x"\\]'),
    ("math500", "answer", math.nan, "answer: .*string: NaN"),
    ("math500", "answer", 2.5, "answer: .*string: 2.5"),
    ("math500", "id", None, "id: .*string: null"),
    ("math500", "problem", "a\ud800", r"problem: half a surrogate pair at character 1: .*\\ud800"),
    ("rag", "question", 7, "question: .*string: 7"),
    ("rag", "contexts", ["a", "\udc00"], r"contexts\[1\]: half a surrogate pair"),
    ("rag", "answers", [], "answers: .*at least 1 item"),
    ("rag", "id", "\ud800", "id: half a surrogate pair"),
]


@pytest.mark.parametrize(("name", "field", "value", "message"), WRONG)
def test_what_is_wrong_is_said(name, field, value, message):
    with pytest.raises(InvalidInput, match=f":2: {message}"):
        read(name, lines(FIRST[name], {**ROWS[name], field: value}))


@pytest.mark.parametrize("name", ROWS)
def test_a_byte_order_mark_line_ends_of_windows_and_empty_lines_are_skipped(name):
    text = lines(FIRST[name], ROWS[name])
    plain = read(name, text)
    assert [sample.id for sample in plain] == ["first", ROWS[name]["id"]]
    assert read(name, b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode()) == plain


@pytest.mark.parametrize("name", ROWS)
def test_ids(name):
    row = {key: value for key, value in ROWS[name].items() if key != "id"}
    assert [sample.id for sample in read(name, lines(row, {**row, "id": "x"}, {**row, "id": 7}))] == ["1", "x", "7"]
    for first, second in [({"id": "x"}, {"id": "x"}), ({"id": 3}, {"id": "3"}), ({"id": "2"}, {})]:
        with pytest.raises(InvalidInput, match=":3: id: '.' is the id of line 1 too"):
            read(name, lines({**row, **first}) + "\n" + lines({**row, **second}))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("text", ["[1]", "3", "{", '{"a": 1', "[" * 100_000, "1" * 10_000])
def test_lines_that_are_no_objects(name, text):
    with pytest.raises(InvalidInput, match=":2: not a JSON object"):
        read(name, lines(FIRST[name]) + text)


@pytest.mark.parametrize("name", ROWS)
def test_one_array_is_read_as_its_lines_are(name):
    rows = [FIRST[name], ROWS[name]]
    assert read(name, "\ufeff\n" + json.dumps(rows, indent=4)) == read(name, lines(*rows))
    with pytest.raises(InvalidInput, match="jsonl: item 3: id: 'first' is the id of item 1 too"):
        read(name, json.dumps([*rows, FIRST[name]]))
    with pytest.raises(InvalidInput, match="jsonl: item 2: not a JSON object: 7"):
        read(name, json.dumps([FIRST[name], 7]))
    for text in (f"{lines(ROWS[name])[:-1]},", json.dumps(rows)[:-1], "[" * 100_000):
        with pytest.raises(InvalidInput, match="jsonl: not a JSON array" if text[0] == "[" else "not a JSON object"):
            read(name, text)
    with pytest.raises(InvalidInput, match="holds no problems"):
        read(name, "[]")


def test_problems_to_train_on_are_read_likewise(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"nums": [3, 5], "target": "24"}\n')
    with pytest.raises(InvalidInput, match=":1: target: "):
        load(path)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no problems"),
        ([Sample(id="a", question="q"), Sample(id="a", question="r")], "problems 1 and 2 have the id 'a'"),
        ([Sample(id="a", question="\ud800")], "problem 1: question: .*surrogate"),
        ([Sample(id="a", question="", reference="\ud800")], "problem 1: reference: .*surrogate"),
    ],
)
async def test_problems_of_any_source_are_checked(samples, message, tmp_path, monkeypatch):
    config = grid()
    monkeypatch.setattr(type(config.benchmark), "load", lambda self: samples)
    with pytest.raises(InvalidInput, match=message):
        await run(config, tmp_path, engine=engine())
    assert not list(tmp_path.iterdir())


def test_half_a_surrogate_pair_in_a_configuration_is_refused():
    with pytest.raises(InvalidInput, match="stop.0: half a surrogate pair"):
        grid(methods=[{"method": "sequential", "stop": ["\ud800"]}])
    with pytest.raises(InvalidInput, match="label: half a surrogate pair"):
        grid(methods=[{"method": "sequential", "label": "\ud800"}])


def test_parquet(tmp_path):
    """Strict as well: columns have types of their own."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    class Row(Record):
        n: int
        texts: list[Text]

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"n": [1, 2], "texts": [["a"], ["b", "c"]]}), path)
    assert [(row.id, row.n, row.texts) for row in read_rows(path, Row)] == [("1", 1, ["a"]), ("2", 2, ["b", "c"])]
    parquet.write_table(pyarrow.table({"n": [1, None], "texts": [["a"], ["b"]]}), path)
    with pytest.raises(InvalidInput, match=r"rows.parquet: row 2: n: "):
        read_rows(path, Row)
    path.write_bytes(b"no table")
    with pytest.raises(InvalidInput, match="cannot read the problems"):
        read_rows(path, Row)


@given(st.text(max_size=3), st.text(max_size=3), st.sampled_from([str, Path]))
def test_a_path_that_no_file_can_have_is_refused(before, behind, kind):
    path = before + "\0" + behind
    with pytest.raises(InvalidInput, match="data: no path has a NUL in it"):
        parse_benchmark({"name": "countdown", "data": kind(path)})
    uses = (
        lambda: read_rows(Path(path), Record),
        lambda: read_rows(Path(f"{path}.parquet"), Record),
        lambda: read_text(path),
        lambda: write_text(Path(path), ""),
    )
    for use in uses:
        with pytest.raises(InvalidInput, match="cannot (read|write)|is Parquet"):
            use()
