"""Options that commands share: engines, budgets, fields and values."""

from __future__ import annotations

import argparse
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import Budget, InvalidBudget, InvalidInput, Sequential
from plait.runtime.cli.command import COMMANDS
from plait.runtime.cli.main import _parser, main, parse
from plait.runtime.cli.options import (
    add_engine_options,
    add_job_options,
    engine_options,
    parse_field,
    parse_fields,
    with_job_options,
)
from plait.runtime.job_spec import JobSpec

names = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(names, values), st.sampled_from([None, 2]), st.booleans())
def test_any_json_comes_back(fields, indent, is_ascii):
    text = ",".join(
        f"{name}={json.dumps(value, indent=indent, ensure_ascii=is_ascii)}" for name, value in fields.items()
    )
    assert parse_fields(text) == fields
    for name, value in fields.items():
        assert parse_field(f"{name}={json.dumps(value)}") == (name, value)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        assert isinstance(parse_fields(text), dict)
    except InvalidInput as error:
        assert "FIELD=VALUE" in str(error) or "twice" in str(error)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("n=4", {"n": 4}),
        ("n=4,", {"n": 4}),
        ("n= 4 , answer=boxed", {"n": 4, "answer": "boxed"}),
        ('stop=["a","b"],n=2', {"stop": ["a", "b"], "n": 2}),
        ('stop=["a, b"], x={"y": [1, 2], "z": "]}"}', {"stop": ["a, b"], "x": {"y": [1, 2], "z": "]}"}}),
        (r"answer=regex:x\[(.*?)\],n=2", {"answer": r"regex:x\[(.*?)\]", "n": 2}),
        ("answer=regex:a=b", {"answer": "regex:a=b"}),
        ("a=1.5x,b=", {"a": "1.5x", "b": ""}),
        ("temperature=[0,0.6]", {"temperature": [0, 0.6]}),
    ],
)
def test_fields(text, fields):
    assert parse_fields(text) == fields


@pytest.mark.parametrize("text", ["n", "=4", "n=1,m", "a=[b,c]", "n=1,n=2"])
def test_what_is_no_field(text):
    with pytest.raises(InvalidInput, match=r"FIELD=VALUE|twice"):
        parse_fields(text)


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    add_job_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("text", ["é", "\udcc3\udca9"])  # as Python reads it where the locale's encoding is ASCII
@pytest.mark.parametrize(
    "line",
    [
        ["run", "--prompt"],
        ["run", "--method"],
        ["chat", "m", "--system"],
        ["chat", "m", "--method"],
        ["contexts", "add", "f", "--model", "m", "--system"],
        ["contexts", "add", "f", "--model", "m", "--instruction"],
        ["calibrate-ape", "m", "--data", "f", "--instruction"],
        ["calibrate-ape", "m", "--data", "f", "--template"],
        ["serve", "m", "--name"],
        ["worker", "m", "--broker", "mqtt://h/p", "--name"],
        ["worker", "m", "--broker", "mqtt://h/p", "--prefix"],
        ["eval", "--method"],
    ],
)
def test_texts_are_utf_8_whatever_the_locale_says(line, text, capsys):
    assert "é" in sum(
        (value if isinstance(value, list) else [value] for value in vars(parse([*line, text])).values()), []
    )
    with pytest.raises(SystemExit):
        parse([*line, "\udcff"])
    assert f"argument {line[-1]}: invalid utf8 value: '\\udcff'" in capsys.readouterr().err


def test_engine_options_are_what_was_given():
    assert engine_options(parsed()) == {}
    flags = ["--device", "cpu", "--threads", "2", "--dtype", "float32", "--kv-tokens", "64"]
    assert engine_options(parsed(*flags, "--option", "contexts=a,b", "--option", "headless=true")) == {
        "device": "cpu",
        "num_threads": 2,
        "dtype": "float32",
        "kv_tokens": 64,
        "contexts": "a,b",
        "headless": True,
    }


def test_job_options_go_before_the_job():
    spec = JobSpec(method=Sequential(prompt="x"), budget=Budget(total_tokens=5, seconds=3.0), seed=1, priority=2)
    assert with_job_options(spec, parsed()) == spec
    options = parsed("--seed", "7", "--budget", "total_tokens=9,width=2", "--budget", "seconds=null")
    found = with_job_options(spec, options)
    assert (found.seed, found.priority, found.budget) == (7, 2, Budget(total_tokens=9, width=2))
    for wrong in ("--seed", "--priority"):
        with pytest.raises(InvalidInput, match="malformed job"):
            with_job_options(spec, parsed(wrong, str(10**30)))
    with pytest.raises(InvalidBudget, match="total_token"):
        with_job_options(spec, parsed("--budget", "total_token=9"))


def leaves(parser):
    """The commands without commands of their own below them, by name."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser.prog, {action.dest for action in parser._actions}
    for action in below:
        for one in action.choices.values():
            yield from leaves(one)


def test_whatever_takes_a_model_takes_engine_options():
    names = dict(leaves(_parser(COMMANDS.names())))
    assert "model" in names["plait chat"] and "model" in names["plait contexts add"]
    lacking = [name for name, known in names.items() if "model" in known and not {"dtype", "option"} <= known]
    assert lacking == ["plait demo"]  # plays with a shipped model


JOB = {"method": {"method": "sequential", "prompt": "seq 24 : 8 3 1 ;", "logprobs": False}}


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(JOB)))


def test_run_takes_them(job, tmp_path, capsys):
    flags = ["--kv-tokens", "2048", "--dtype", "bfloat16", "--threads", "1", "--option", "block_size=32"]
    trace = tmp_path / "trace"
    assert main(["run", "-", *flags, "--seed", "5", "--budget", "total_tokens=3", "--trace", str(trace)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["finish_reason"], result["usage"]["total_tokens"]) == ("total_tokens", 3)
    header = json.loads(trace.read_text().splitlines()[0])
    assert header["seed"] == 5 and header["settings"]["budget"] == {"total_tokens": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "nope=1"], "the native engine has no option 'nope'; known: device"),
        (["--dtype", "int3"], "unknown dtype 'int3'; known: auto, float32"),
        (["--device", "moon"], "device 'moon' cannot be used here"),
        (["--option", "device=3.5"], "device '3.5' cannot be used here"),
        (["--option", "impl=gpu"], "unknown impl 'gpu'"),
        (["--option", "max_rows=many"], "max_rows must be a whole number, not 'many'"),
        (["--option", "kv_tokens=true"], "kv_tokens must be a whole number, not True"),
        (["--option", "context_limit=0"], "context_limit must be at least 1"),
        (["--kv-tokens", "0"], "kv_tokens must be positive"),
        (["--threads", "0"], "num_threads must be at least 1"),
        (["--budget", "total_tokens=0"], "budget.total_tokens is 0"),
        (["--budget", "total_tokens"], "FIELD=VALUE"),
        (["--model", "replay:x", "--kv-tokens", "9"], "a recording has no options, and kv_tokens was given"),
    ],
)
def test_refusals_are_one_line(job, arguments, message, capsys):
    assert main(["run", "-", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plait: ") and message in err and err.count("\n") == 1
