"""What docs/methods.md builds works, to the letter: as an installed package of somebody else's, and as a script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import plait
from plait.tests.pages import named_files

PAGE = (Path(plait.__file__).parent / "docs" / "methods.md").read_text()
FILES = named_files(PAGE)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
SCRIPT = "script.py"


def write(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name])


@pytest.fixture(scope="module", params=["package", "script"])
def place(request, tmp_path_factory):
    """(a folder to work in, the environment, lines in front of the page's commands)"""
    folder = tmp_path_factory.mktemp(request.param)
    code = [name for name in FILES if name.startswith("debate/")]
    write(folder, ["job.json", "sums.toml", "use.py"])
    if request.param == "package":
        source, site = folder / "source", folder / "site"
        write(source, [*code, "pyproject.toml"])
        (source / "debate" / "__init__.py").touch()
        offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
        subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", site, source], check=True)
        path, before = site, ""
    else:
        write(folder, [*code, SCRIPT])
        path, before = folder, f'plait() {{ command plait "$@" --import {SCRIPT}; }}\n'
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    paths = os.pathsep.join([str(path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return folder, {**os.environ, "PYTHONPATH": paths, "PATH": programs}, before


def run(place, command):
    folder, environment, _ = place
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_page_has_one_of_each():
    kinds = ("method", "benchmark", "reward", "strategy", "equality", "dialect", "engine", "command")
    assert {"pyproject.toml", SCRIPT, *(f"debate/{kind}.py" for kind in kinds)} <= set(FILES)
    groups = {re.sub(r"y$", "ie", kind) + "s" for kind in kinds}
    assert set(re.findall(r'entry-points."plait\.(\w+)"', FILES["pyproject.toml"])) == groups
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == len(FILES) + 1  # a block without a name runs nowhere


def test_from_python(place):
    lines = run(place, [sys.executable, "use.py"]).stdout.split("\n")
    answer, total, critical = re.fullmatch(r"(.*) (\d+) (\d+)", lines[0]).groups()
    assert answer and int(critical) < int(total) <= 400


def test_from_the_shell(place):
    folder, _, before = place
    done = run(place, ["bash", "-ec", before + COMMANDS])
    assert "an engine without live views refuses before any work" in done.stdout
    assert "debate needs live views and KV merging; engine parrot lacks them" in done.stderr
    trace = plait.Trace.load(folder / "debate.jsonl")
    assert [branch.label for branch in trace.branches.values()] == ["judge", "for", "against"]
    one, other = (trace.segments_of(branch)[-1] for branch in ("0.0", "0.1"))
    # Each has read the other up to the token that both wrote in the same pass.
    for side, watched in ((one, other), (other, one)):
        seen = side.seen[watched.id]
        assert seen == sorted(seen) and seen[-1] == len(watched) == len(side)
    assert [join.children for join in trace.joins] == [("0.0", "0.1")]
    injected = [piece.text for segment in trace.segments for piece in segment.pieces if piece.kind == "injected"]
    assert sorted(injected) == [" 5", " 63", " answer"]
    assert f"\n{trace.end['answer']}\n" in done.stdout  # the command
    assert '"text": "told 72 | 7 . = 79",\n  "answer": "79"' in done.stdout  # the dialect
    assert (folder / "debate.jsonl.html").stat().st_size > 10_000
    labels = {"results": ["debate", "tree_search"], "more": ["debate", "sequential"], "parrots": ["sequential"]}
    for out, methods in labels.items():
        rows = [json.loads(line) for line in (folder / out / "results.jsonl").read_text().splitlines()]
        assert len(rows) == 3 * len(methods)
        assert {row["key"]["method"].split()[0] for row in rows} == set(methods)
        assert not any(result["error"] for row in rows for result in row["rows"])
