"""The command itself: commands of other packages, scripts, versions, completion."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

import plait
from plait import InvalidInput
from plait.runtime import plugins
from plait.runtime.cli.command import COMMANDS
from plait.runtime.cli.main import main


class Added:
    """`plait added`: count words."""

    def add_arguments(self, parser):
        parser.add_argument("words", nargs="*")

    def run(self, options):
        if "bad" in options.words:
            raise InvalidInput("not like that")
        return len(options.words)


@pytest.fixture
def commands(monkeypatch):
    """Entry points of another package: a command, one that cannot be loaded, one with the name of a built-in one."""
    others = [("added", f"{__name__}:added"), ("broken", "no_such_module"), ("run", f"{__name__}:added")]
    others += [("twice", f"{__name__}:added"), ("twice", "another:added")]
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(added=Added()))

    def found(group):
        ours = entry_points(group=group)
        theirs = [EntryPoint(name, value, group) for name, value in others] if group == "plait.commands" else []
        return [*ours, *theirs]

    monkeypatch.setattr("plait.runtime.plugins.entry_points", found)
    monkeypatch.setattr(COMMANDS, "_things", {})
    plugins._entries.cache_clear()
    yield
    plugins._entries.cache_clear()


@pytest.mark.usefixtures("commands")
def test_other_packages_add_commands(capsys):
    assert main(["added", "x", "y", "-v", "z"]) == 3
    assert main(["added", "bad"]) == 1
    err = capsys.readouterr().err
    assert err.endswith("\nplait: not like that\n") and "is not used: plait has one of that name" in " ".join(
        err.split()
    )
    with pytest.raises(SystemExit):
        main(["no-such-command"])
    assert "added" in capsys.readouterr().err
    assert main(["run", "/no/such/job.json"]) == 1  # built-in commands cannot be replaced
    assert "cannot read /no/such/job.json" in capsys.readouterr().err


@pytest.mark.usefixtures("commands")
def test_a_name_that_two_packages_have_is_nobodys(capsys):
    assert main(["twice"]) == 1
    assert "the command 'twice' comes from" in capsys.readouterr().err
    assert main(["added", "x"]) == 1  # the number of words


@pytest.mark.usefixtures("commands")
def test_a_broken_package_hurts_only_its_user(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "added count words" in out and "run a job and print its result" in out
    assert "broken the command 'broken' of a package without metadata cannot be loaded" in out
    assert main(["broken"]) == 1
    assert "cannot be loaded (no_such_module): ModuleNotFoundError" in capsys.readouterr().err


def test_every_command_says_what_it_does(capsys):
    for name in COMMANDS.names():
        command = COMMANDS.find(name)
        assert (command.__doc__ or "").startswith(f"`plait {name}`: ")
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0 and "--import" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"plait {plait.__version__}\n"


def test_as_a_module():
    run = subprocess.run([sys.executable, "-m", "plait", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"plait {plait.__version__}\n"


@contextmanager
def piped(monkeypatch):
    """The reading end of what standard output is."""
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        yield reader


@pytest.mark.parametrize("command", [["schema"], ["completion", "bash"], ["run", "--help"]])
def test_output_that_nobody_reads_is_no_traceback(command, capsys, monkeypatch):
    with piped(monkeypatch) as reader:
        reader.close()
        assert main(command) == 1
    assert capsys.readouterr().err == ""


def test_another_broken_pipe_is_an_error(monkeypatch):
    read, unread = os.pipe()
    os.close(read)
    monkeypatch.setattr("plait.runtime.cli.main._main", lambda _: os.write(unread, b"x"))
    with piped(monkeypatch), pytest.raises(BrokenPipeError):
        main([])
    os.close(unread)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("command", [["schema"], ["completion", "bash"], ["run", "--help"]])
def test_output_on_a_full_disk_is_one_line(command):
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([sys.executable, "-m", "plait", *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr) == (1, "plait: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["models"],
        ["contexts", "list", "--store"],
        ["trace", "view"],
        ["eval"],
        ["fix"],
        ["serve", "m", "--keys"],
    ],
    ids=" ".join,
)
def test_no_file_is_the_working_folder(command, capsys):
    """As where a variable is not set."""
    with pytest.raises(SystemExit, match="2"):
        main([*command, ""])
    assert "a file or folder has a name" in capsys.readouterr().err


def test_a_disk_that_is_full_elsewhere_is_an_error(monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("plait.runtime.cli.main._main", fail)
    with pytest.raises(OSError, match="No space left"):
        main([])


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("aiomqtt", ["worker", "countdown", "--broker", "mqtt://127.0.0.1:9/p"], "mqtt"),
        ("fastapi", ["serve", "countdown"], "server"),
        ("trl", ["train", "sft", "c.toml"], "rl"),
    ],
)
def test_a_package_that_is_missing_is_in_an_extra(package, command, extra, tmp_path):
    text = 'model = "countdown"\n[[data]]\nkind = "texts"\npaths = ["t.jsonl"]\n[trainer]\nmax_steps = 1\n'
    (tmp_path / "c.toml").write_text(text)
    (tmp_path / "t.jsonl").write_text('{"prompt": "seq 24 : 8 3 1 ;", "text": " 8 * 3"}\n')
    code = f"import sys; sys.modules[{package!r}] = None; from plait.runtime.cli.main import main; sys.exit(main())"
    run = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith("plait: ") and f"pip install 'plait[{extra}]'" in run.stderr


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [("schema >&-", 0, ""), ("run - <&-", 1, "plait: malformed job JSON: Expecting value: line 1 column 1 (char 0)\n")],
)
def test_streams_that_are_closed_lead_nowhere(line, status, error):
    run = subprocess.run(f"{sys.executable} -m plait {line}", shell=True, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr) == (status, error)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "cp1252"])
def test_what_an_encoding_does_not_have_is_printed_as_an_escape(encoding, tmp_path):
    (tmp_path / "added.py").write_text(
        "import plait, sys\n"
        "class Added:\n"
        "    def add_arguments(self, parser): pass\n"
        "    def run(self, options):\n"
        "        sys.stdout.write('pa \\u0416.html')\n"
        "        raise plait.InvalidInput('no \\u0416')\n"
        "plait.register_command('added', Added())\n"
    )
    command = [sys.executable, "-m", "plait", "--import", str(tmp_path / "added.py"), "added"]
    run = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (1, rb"pa \u0416.html", b"plait: no \\u0416\n")


def test_no_refusal_steers_the_terminal(capsys):
    assert main(["schema", "\x1b[2J"]) == 1
    assert "\\x1b[2J" in (err := capsys.readouterr().err) and "\x1b" not in err


def complete(line, tmp_path):
    """What a shell would offer for a line."""
    out = tmp_path / "completions"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    plait_command = Path(sys.executable).with_name("plait")
    subprocess.run([plait_command], env=environment, check=True, capture_output=True)
    return {word.strip() for word in out.read_text().split("\n")}


def test_shells_can_complete(tmp_path, capsys):
    assert {"run", "eval", "trace", "schema"} <= complete("plait ", tmp_path)
    assert {"--model", "--import", "--trace"} <= complete("plait run --", tmp_path)
    assert complete("plait trace ", tmp_path) >= {"show", "view", "export"}
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "plait" in capsys.readouterr().out


SCRIPT = """
import logging
from typing import Literal
import plait

@plait.register
class {name}(plait.Method):
    method: Literal["{name}"] = "{name}"

    async def run(self, ctx):
        logging.getLogger("plait.{name}").info("at work")
        return plait.Outcome(text="said", answer="said", finish=plait.Finish.EOS)
"""


def test_a_script_brings_its_method_along(recorded, capsys):
    tmp_path = recorded
    (tmp_path / "mine.py").write_text(SCRIPT.format(name="script_method"))
    (tmp_path / "job.json").write_text('{"method": {"method": "script_method"}}')
    command = ["run", str(tmp_path / "job.json"), "--model", f"replay:{recorded / 'recording'}"]
    assert main(command) == 1
    assert "unknown method 'script_method'" in capsys.readouterr().err
    for _ in range(2):  # a file that is named twice runs once
        assert main([*command, "--import", str(tmp_path / "mine.py"), "-v"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["answer"] == "said" and "at work" in err
    assert main(["schema", "script_method"]) == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nothing.py", None, "FileNotFoundError"),
        ("no.such.module", None, "No module named 'no'"),
        ("syntax.py", "def", "SyntaxError"),
        ("raises.py", "1 / 0", "ZeroDivisionError"),
        ("taken.py", SCRIPT.format(name="apr"), "the method name 'apr' is taken"),
        ("exits.py", "raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_what_cannot_be_imported_is_one_clear_message(name, text, message, tmp_path, capsys):
    if text is not None:
        (tmp_path / name).write_text(text)
    target = str(tmp_path / name) if name.endswith(".py") else name
    assert main(["schema", "--import", target]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plait: cannot import ") and message in err and err.count("\n") == 1
