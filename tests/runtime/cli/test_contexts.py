"""`plait contexts`: what it adds, jobs find."""

from __future__ import annotations

import io
import json
import shutil
from types import SimpleNamespace

import pytest
from rich.console import Console

from plait.runtime.cli.contexts import show
from plait.runtime.cli.main import main


def test_added_contexts_are_listed_found_and_dropped(tmp_path, capsys):
    store, one, two = tmp_path / "store", tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text(": k1 v2 k3 v4")
    two.write_text(": k5 v6")
    command = ["contexts", "add", "--model", "recall", "--instruction", "recall", "--store", str(store)]
    assert main([*command, str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert "k1 v2" in out and "2 contexts" in out
    job = tmp_path / "job.json"
    fields = {"instruction": "recall", "contexts": [two.read_text(), one.read_text()], "max_tokens": 1}
    job.write_text(json.dumps({"method": {"method": "sequential", "prompt": "? k3", **fields}}))
    assert main(["run", str(job), "--model", "recall", "--contexts", str(store)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["answer"].strip(), result["usage"]["reused_tokens"]) == ("v4", 8)
    # Keys and values of another precision are others: jobs find those that were encoded as they run.
    other = ["run", str(job), "--model", "recall", "--contexts", str(store), "--dtype", "bfloat16"]
    assert main(other) == 0
    assert json.loads(capsys.readouterr().out)["usage"]["reused_tokens"] == 0
    shutil.rmtree(store)
    assert main([*command, str(one), str(two), "--dtype", "bfloat16"]) == 0
    capsys.readouterr()
    assert main(other) == 0
    assert json.loads(capsys.readouterr().out)["usage"]["reused_tokens"] == 8
    assert main(["contexts", "drop", "--all", "--store", str(store)]) == 0
    assert main(["contexts", "list", "--store", str(store)]) == 0
    assert "0 contexts" in capsys.readouterr().out


def test_no_text_steers_the_terminal():
    context = SimpleNamespace(name="a", model="m", tokens=3, size=10, used=0.0, text="[x]\n\x1b[2J")
    console = Console(file=io.StringIO(), width=160)
    show(SimpleNamespace(all=lambda: [context], folder="here"), console)
    assert "[x] \\x1b[2J" in console.file.getvalue() and "\x1b" not in console.file.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ["drop"],
        ["drop", "--all", "ab"],
        ["drop", ""],
        ["drop", "ab", ""],
        ["add", "--model", "recall", "/none/x"],
        ["add", "--model", "no", __file__],
        ["drop", "none"],
    ],
)
def test_mistakes_are_one_line(arguments, tmp_path, capsys):
    assert main(["contexts", *arguments, "--store", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("plait: ") and error.count("\n") == 1


def test_a_store_that_is_a_file_is_refused(capsys):
    assert main(["contexts", "list", "--store", __file__]) == 1
    assert capsys.readouterr().err == f"plait: {__file__} is not a folder\n"
