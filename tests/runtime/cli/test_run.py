"""`plait run` and `plait trace`."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from plait import Trace
from plait.runtime.cli.main import main
from plait.tests.runtime.methods.apr.test_apr import WHOLE


def test_run_prints_the_result_as_json(recorded, capsys):
    job = recorded / "marked.json"
    job.write_bytes(b"\xef\xbb\xbf" + (recorded / "job.json").read_bytes())  # a BOM, as some editors write
    arguments = ["run", str(job), "--model", f"replay:{recorded / 'recording'}"]
    assert main([*arguments, "--trace", str(recorded / "again")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["answer"] == WHOLE
    assert "3 threads" in err and len(Trace.load(recorded / "again").branches) == 3


def test_run_reads_standard_input(recorded, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO((recorded / "job.json").read_text()))
    assert main(["run", "-", "--model", f"replay:{recorded / 'recording'}"]) == 0
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "eos"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_standard_input_is_read_as_a_file_is(encoding, recorded, capsys, monkeypatch):
    def given(data):
        stream = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, errors="surrogateescape")
        monkeypatch.setattr("sys.stdin", stream)
        return main(["run", "-", "--model", f"replay:{recorded / 'recording'}"])

    assert given(b"\xef\xbb\xbf" + (recorded / "job.json").read_bytes()) == 0
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "eos"
    assert given(b'{"method": "\xff"}') == 1
    err = capsys.readouterr().err
    assert err.startswith("plait: cannot read standard input: ") and err.count("\n") == 1


@pytest.mark.parametrize("kind", ["full", "unread"])
def test_a_result_is_printed_where_nothing_can_be_said_beside_it(kind, recorded, capsys, monkeypatch):
    if kind == "full":
        stderr = Path("/dev/full").open("w")
    else:
        read, write = os.pipe()
        os.close(read)
        stderr = os.fdopen(write, "w")
    with stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        assert main(["run", str(recorded / "job.json"), "--model", f"replay:{recorded / 'recording'}"]) == 0
        assert main(["run", "/no/such/job.json"]) == 1
    assert json.loads(capsys.readouterr().out)["answer"] == WHOLE


@pytest.mark.parametrize("other", ["linked", "job.json", "../{folder}/job.json"])
def test_what_is_read_is_not_written_over(other, recorded, capsys):
    job, trace = recorded / "job.json", recorded / "trace"
    for file in (job, trace):
        name = recorded / other.format(folder=recorded.name).replace("job.json", file.name)
        if other == "linked":
            name.unlink(missing_ok=True)
            name.hardlink_to(file)
        before = file.read_bytes()
        commands = [["trace", "view", str(file), "--out", str(name)]]
        commands += [["trace", "export", "--perfetto", str(file), str(name)]]
        if file is job:
            commands = [["run", str(job), "--trace", str(name), "--model", f"replay:{recorded / 'recording'}"]]
        for command in commands:
            assert main(command) == 1
            assert "is read, and would be overwritten" in capsys.readouterr().err
        assert file.read_bytes() == before


def test_run_keeps_to_a_constraint(capsys, monkeypatch):
    constraint = {"constraint": "choice", "choices": [" 24 + 1", " 24 - 1"]}
    method = {"method": "sequential", "prompt": "seq 24 : 8 3 1 ;", "constraint": constraint}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"method": method})))
    assert main(["run", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] in constraint["choices"]
    method["constraint"] = {"constraint": "regex", "pattern": "("}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"method": method})))
    assert main(["run", "-"]) == 1
    assert "regex constraint: invalid regex" in capsys.readouterr().err


def test_run_takes_a_prompt_and_a_method_in_place_of_a_job(capsys):
    line = ["run", "--prompt", "seq 24 : 8 3 1 ;", "--seed", "2"]
    assert main([*line, "--method", "sequential:max_tokens=5,temperature=0"]) == 0
    five = json.loads(capsys.readouterr().out)
    assert five["text"] and five["usage"]["generated_tokens"] == 5
    assert main([*line, "--budget", "total_tokens=5"]) == 0  # one line if nothing is said
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "total_tokens"
    assert main([*line, "--method", "sc3:max_tokens=4"]) == 0
    assert json.loads(capsys.readouterr().out)["usage"]["branches"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["job.json", "--method", "apr"], "--method is for --prompt"),
        (["--prompt", "x", "--method", "sequential:prompt=y"], "there is a prompt in --method, and --prompt too"),
        (["--prompt", "x", "--method", "nothing"], "unknown method 'nothing'"),
        (["--prompt", "x", "--method", "sequential:n=2"], "malformed Sequential: n: "),
    ],
)
def test_run_refuses_methods_that_are_none(arguments, message, capsys):
    assert main(["run", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plait: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--method", "sequential"], ["./folder", "--prompt", "x"]])
def test_run_takes_one_of_job_and_prompt(arguments, capsys):
    assert main(["run", *arguments]) == 1
    assert capsys.readouterr().err == "plait: give either a job or --prompt\n"


@pytest.mark.parametrize("what", [["--prompt", "x"], ["job.json"]])
def test_an_option_that_there_is_not_is_named(what, capsys):
    with pytest.raises(SystemExit):
        main(["run", *what, "--metod", "apr"])
    assert "unrecognized arguments: --metod" in capsys.readouterr().err


def test_trace_show(recorded, capsys):
    assert main(["trace", "show", str(recorded / "trace")]) == 0
    out = capsys.readouterr().out
    assert "apr on scripted 3 branches, 1,203 tokens, 1,100 on the critical path" in " ".join(out.split())
    parts = (
        "root  0",
        "0,1  1.0.0",
        "0,0  1.1.0",
        "join of 2, 1 with a result",
        "injected",
        "Goal Reached in Sub Search 1",
    )
    places = [out.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "arguments",
    [["run", "/no/such/job.json"], ["run", "-", "--model", "no-such-model"], ["trace", "show", "/no/such/trace"]],
)
def test_refusals_are_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"method": {"method": "sequential", "prompt": "q"}}'))
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plait: ") and err.count("\n") == 1
