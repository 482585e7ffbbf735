"""What docs/agents.md says works: its commands as they stand, its table. Its Python is run with that of all pages."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import plait
from plait import CodeMonkeys, ScriptedEngine
from plait.agents.fix import SMALL
from plait.runtime.cli.main import main
from plait.runtime.engines.registry import register_scheme
from plait.tests.agents.tools import GOOD, ISSUE, SANDBOX, TEST, Model, edit, test, texttools

PAGE = (Path(plait.__file__).parent / "docs" / "agents.md").read_text()
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
COMMANDS = [line.partition(" # ")[0].strip() for block in BLOCKS for line in block.strip().splitlines()]


def model(rest, options):
    rules = [
        ("^The file ", ["RELEVANCE: Relevant\nSUMMARY: slugs"]),
        ("^Somebody is to fix", ['```json\n["texttools/slug.py"]\n```']),
        ("^Write a Python script", [test(TEST)]),
        ("Plan the fix", [edit(GOOD)]),
        ("^(Your|Several|The script)", ["<done></done>"]),
        ("", ["I do not know."]),
    ]
    return ScriptedEngine(Model(rules), context_limit=100_000)


register_scheme("test_agents_page", model)


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command[-40:] for command in COMMANDS])
def test_commands(number, tmp_path, monkeypatch, capsys):
    own = texttools(tmp_path / "own" / "texttools")
    (own / "issue.md").write_text(ISSUE)
    (own / "predictions").mkdir()
    row = {"instance_id": "org__project-123", "model_patch": ""}
    (own / "predictions" / "other.jsonl").write_text(json.dumps(row))
    monkeypatch.chdir(own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The last but one of the folder's commands makes what the last one goes on with.
    for command in COMMANDS[max(0, number - 1) : number + 1] if "--apply" in COMMANDS[number] else [COMMANDS[number]]:
        for part in re.split(r" && | > .*", command):
            if not part:
                continue
            words = shlex.split(part.replace("MODEL", "test_agents_page:").replace("PATH", "."))
            assert words.pop(0) == "plait"
            if words[0] == "eval":
                words = [word.replace("n=16", "n=1") for word in words] + ["--set", f"sandbox={SANDBOX['sandbox']}"]
            elif words[0] == "fix":
                words = [*with_sandbox(words), "--field", "n=2", *([] if "--small" in words else FORM)]
            assert main(words) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    if words[0] == "fix":
        assert '+        raise ValueError("there is no word in the text")' in out
        assert ("raise ValueError" in (own / "texttools/slug.py").read_text()) == ("--apply" in words)
    else:
        assert out


FORM = ["--field", "edits=functions"]


def with_sandbox(words):
    """With the one that is here."""
    if any("bubblewrap" in word for word in words):
        return [word.replace("bubblewrap", SANDBOX["sandbox"]) for word in words]
    return [*words, "--sandbox", SANDBOX["sandbox"]]


def test_there_are_commands():
    assert len(COMMANDS) >= 9


def test_the_table():
    """Its outer columns are the preset and the defaults."""
    rows = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            for name, small, default in zip(
                re.findall(r"`(\w+)`", cells[0]), columns(cells[1]), columns(cells[3]), strict=True
            ):
                rows[name] = (small, default)
    assert rows.keys() == SMALL.keys()
    for name, shown in rows.items():
        for value, text in zip((SMALL[name], CodeMonkeys.model_fields[name].default), shown, strict=True):
            assert text == (
                {True: "yes", False: "no"}[value] if isinstance(value, bool) else "all" if value is None else str(value)
            ), name


def columns(cell):
    """The values that a cell begins with."""
    values = re.match(r"`\w+`|\d+(?:,\d{3})*(?:, \d+)?|\w+", cell)[0].strip("`")
    return values.split(", ") if ", " in values else [values.replace(",", "")]
