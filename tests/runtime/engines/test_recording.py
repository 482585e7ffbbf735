"""Recordings with anything changed: refused on reading, naming the line, or played until the job ends or fails."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from typing import Any

import pytest

from plait import Budget, InvalidInput, PlaitError, Recorder, ReplayEngine, Runtime, ScriptedEngine, SelfConsistency
from plait.tests.runtime.trace.test_damaged import WRONG, places, put

METHOD = SelfConsistency(prompt="q", n=3, max_tokens=20, temperature=1.0, answer="text")


async def play(engine):
    """Run the job with someone reading its events; fails on what only the loop was told of."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(METHOD, budget=Budget(seconds=20))
        async for _ in job:
            pass
        result = await job
    assert not told
    return result


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Those of a recording of the job."""
    file = tmp_path_factory.mktemp("recording") / "file"
    asyncio.run(play(Recorder(ScriptedEngine(lambda _: "four and", name="toy"), file)))
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def recording(lines, tmp_path):
    """Writes the recording with `line` in the place of the first one of a kind; its number."""

    def write(kind, line):
        number = next(i for i, record in enumerate(lines) if record["type"] == kind)
        texts = [json.dumps(record) for record in lines]
        texts[number] = line(copy.deepcopy(lines[number])) if callable(line) else line
        (tmp_path / "file").write_text("\n".join(texts))
        return tmp_path / "file", number + 1

    return write


@pytest.mark.parametrize("seed", range(150))
async def test_a_changed_value(lines, tmp_path, seed):
    rng = random.Random(seed)
    lines = copy.deepcopy(lines)
    kind = rng.choice(["header", "call", "encode", "decode"])
    number = rng.choice([i for i, record in enumerate(lines) if record["type"] == kind])
    put(lines, (number, *rng.choice(list(places(lines[number])))), rng.choice([*WRONG, [1] * 5000, "99"]))
    file = tmp_path / "file"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        await play(ReplayEngine(file))
    except PlaitError as error:
        str(error).encode()


def each(place: tuple[str, ...], *values: Any) -> list[tuple[Any, ...]]:
    return [(*place, value) for value in values]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("header", "context_limit", 0),
        ("header", "eos_ids", [None]),
        ("header", "engine", 1),
        *each(("header", "tool_marks"), ["<"], [1, 2], 1),
        *each(("header", "capabilities"), {"logprobs": "yes"}, {"flies": True}, [1]),
        *each(("call", "completion"), None, [], {}),
        *each(("call", "interrupted"), [1.5], [5], None),
        *each(("call", "costs"), {"preemptions": "1"}, {"sleep": 1}, None),
        *each(("call", "key"), 5, [], None),
        *each(("encode", "value"), "text", ["5"], {}, None, [10**30]),
        *each(("decode", "value"), [5], 1, None),
        *each(("decode", "type"), "x", [], None),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(recording, kind, name, value):
    file, number = recording(kind, lambda record: json.dumps({**record, name: value}))
    with pytest.raises(InvalidInput, match=f":{number}: not a recording"):
        ReplayEngine(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *each(("token_ids",), {}, "99", [None], [[1]]),
        *each(("text",), 1, None),
        *each(("top_logprobs",), [], 5, [{"a": 1.0}], {"1": 1.0}),
        *each(("logprobs",), [-1.0] * 99, ["x"]),
        *each(("finish_reason",), "done", 5, []),
        *each(("accepted_tokens",), "99", 1.5, None),
        ("certainty", "x"),
        ("hidden_state", 1),
        ("stop", []),
        ("unknown", 1),
    ],
)
def test_a_wrong_completion_is_refused_with_its_line(recording, name, value):
    file, number = recording(
        "call",
        lambda record: json.dumps(
            {**record, "completion": {**record["completion"], "token_ids": [5], "text": "x", name: value}}
        ),
    )
    with pytest.raises(InvalidInput, match=f":{number}: not a recording"):
        ReplayEngine(file)


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", "[" * 100_000, "\0", '{"type":"call","key":"a"}', "1" * 5000])
@pytest.mark.parametrize("kind", ["header", "call", "decode"])
def test_lines_that_are_no_records(recording, kind, line):
    file, number = recording(kind, line)
    with pytest.raises(InvalidInput, match=f":{number}: not a recording"):
        ReplayEngine(file)


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_an_answer_longer_than_what_was_asked_for(lines, tmp_path, is_interrupted):
    records, tokens = copy.deepcopy(lines), [5] * 21
    for record in records:
        if record["type"] == "call" and record["completion"]["token_ids"]:
            record["completion"] |= {"token_ids": tokens, "logprobs": None}
            if is_interrupted:
                del record["completion"]
                record["interrupted"] = tokens
    (tmp_path / "file").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(InvalidInput, match="answer of 21 tokens where 20 were asked for"):
        await play(ReplayEngine(tmp_path / "file"))


def test_what_earlier_recordings_have_not(recording):
    """Nor had they to say what their engines could not do."""
    later = ("sampling_defaults", "tool_marks")
    file, _ = recording(
        "header", lambda record: json.dumps({k: v for k, v in {**record, "capabilities": {}}.items() if k not in later})
    )
    assert ReplayEngine(file).tokenizer.tool_marks is None
    counts = ("drafted_tokens", "accepted_tokens", "certainty", "hidden_state")
    file, _ = recording(
        "call",
        lambda record: json.dumps(
            {**record, "completion": {k: v for k, v in record["completion"].items() if k not in counts}}
        ),
    )
    assert ReplayEngine(file).name == "toy"
