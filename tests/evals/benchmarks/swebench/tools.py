"""Two tiny repositories with a bug each, their instances, and a model that fixes them or does not."""

from __future__ import annotations

import json
import shutil
import sys
from difflib import unified_diff
from importlib.metadata import distribution
from pathlib import Path

from plait.evals.benchmarks.swebench.benchmark import SweBench
from plait.tests.agents.sources import git, repository
from plait.tests.agents.tools import GOOD, ISSUE, SANDBOX, SLUG, TEST, WRONG, Model, edit, test

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

# -- texttools: tests of pytest ------------------------------------------------------------------------------------

SLUG_TESTS = """\
import pytest

from texttools import slugify


@pytest.mark.parametrize("text", ["A b", "a-b", " A  B "])
def test_words(text):
    assert slugify(text) == "a-b"


def test_other_machine():
    assert __import__("os").path.exists("/nowhere/of/the/author")
"""
SLUG_ADDED = """

def test_empty():
    with pytest.raises(ValueError):
        slugify("")
"""

# -- numbertools: a runner of its own, as sympy has one --------------------------------------------------------------

CLAMP = '''\
def clamp(x, low, high):
    """The nearest number from low to high."""
    return max(low, min(low, x))


def mean(numbers):
    return sum(numbers) / len(numbers)
'''
GOOD_CLAMP = '''\
def clamp(x, low, high):
    """The nearest number from low to high."""
    return max(low, min(high, x))
'''
WRONG_CLAMP = '''\
def clamp(x, low, high):
    """The nearest number from low to high."""
    return x
'''
CLAMP_TESTS = """\
from numbertools import clamp, mean


def test_low():
    assert clamp(-1, 0, 5) == 0


def test_mean():
    assert mean([1, 3]) == 2
"""
CLAMP_ADDED = """

def test_high():
    assert clamp(7, 0, 5) == 5 and clamp(3, 0, 5) == 3
"""
RUNNER = """\
import importlib.util
import sys
import traceback

failed = 0
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("tests", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:
        print(path, "Failed to import [FAIL]")
        failed += 1
        continue
    for name in [name for name in vars(module) if name.startswith("test_")]:
        try:
            getattr(module, name)()
            print(name, "ok")
        except Exception:
            traceback.print_exc()
            failed += 1
            print(name, "F")
print("done")
sys.exit(failed > 0)
"""
CLAMP_ISSUE = (
    "clamp() gives the lower bound for every number\n\nclamp(3, 0, 5) is 0. It should be 3, clamp(7, 0, 5) be 5."
)
CLAMP_TEST = """\
import sys
from numbertools import clamp

found = clamp(3, 0, 5), clamp(7, 0, 5), clamp(-2, 0, 5)
print(found)
sys.exit(0 if found == (3, 5, 0) else 2)
"""


def diff(path: str, old: str, new: str) -> str:
    lines = unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}")
    return f"diff --git a/{path} b/{path}\n" + "".join(lines)


SLUG_PATH, CLAMP_PATH = "texttools/slug.py", "numbertools/__init__.py"
SLUG_BODY = SLUG[SLUG.index("def slugify") :]
CLAMP_BODY = CLAMP[: CLAMP.index("\n\ndef mean")]


def clamp_patch(body: str) -> str:
    return diff(CLAMP_PATH, CLAMP, CLAMP.replace("    return max(low, min(low, x))\n", body))


PATCHES = {
    "texttools": {
        "gold": diff(SLUG_PATH, SLUG, SLUG.replace(SLUG_BODY, GOOD)),
        "wrong": diff(SLUG_PATH, SLUG, SLUG.replace(SLUG_BODY, WRONG)),
    },
    "numbertools": {
        "gold": clamp_patch("    return max(low, min(high, x))\n"),
        "wrong": clamp_patch("    return x\n"),
    },
}
FILES = {
    "texttools": {
        "texttools/__init__.py": "from .slug import slugify, words\n",
        SLUG_PATH: SLUG,
        "tests/test_slug.py": SLUG_TESTS,
    },
    "numbertools": {CLAMP_PATH: CLAMP, "run.py": RUNNER, "checks/check_clamp.py": CLAMP_TESTS},
}


def mirrors(folder: Path) -> dict[str, dict[str, object]]:
    """Both repositories as mirrors in a folder; repository -> its instance."""
    texttools = repository(folder / "acme__texttools", FILES["texttools"])
    (folder / "acme+numbertools").mkdir(parents=True)
    source = repository(folder / "source", FILES["numbertools"])
    git(folder, "clone", "-q", "--mirror", "source", "acme+numbertools/repo")
    numbers = git(source, "rev-parse", "HEAD").strip()
    shutil.rmtree(source)
    return {
        "texttools": {
            "instance_id": "acme__texttools-1",
            "repo": "acme/texttools",
            "version": "1.0",
            "base_commit": git(texttools, "rev-parse", "HEAD").strip(),
            "problem_statement": ISSUE,
            "patch": PATCHES["texttools"]["gold"],
            "test_patch": diff("tests/test_slug.py", SLUG_TESTS, SLUG_TESTS + SLUG_ADDED),
            "FAIL_TO_PASS": json.dumps(["tests/test_slug.py::test_empty"]),
            # Names are cut at the first blank, in SWE-bench too.
            "PASS_TO_PASS": json.dumps(["tests/test_slug.py::test_words[A", "tests/test_slug.py::test_words[a-b]"]),
        },
        "numbertools": {
            "instance_id": "acme__numbertools-2",
            "repo": "acme/numbertools",
            "version": "1.0",
            "base_commit": numbers,
            "problem_statement": CLAMP_ISSUE,
            "patch": PATCHES["numbertools"]["gold"],
            "test_patch": diff("checks/check_clamp.py", CLAMP_TESTS, CLAMP_TESTS + CLAMP_ADDED),
            "FAIL_TO_PASS": ["test_high"],
            "PASS_TO_PASS": ["test_low", "test_mean"],
        },
    }


def write_recipes(path: Path) -> Path:
    """One environment for both, in which pytest is a copy of this one: nothing is downloaded."""
    found = [distribution(name) for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments")]
    files = [(one, file.parts[0]) for one in found for file in one.files or ()]
    tops = sorted({str(one.locate_file(top)) for one, top in files if top != ".."})
    copy = " ".join(["cp", "-r", *tops, f"lib/python{VERSION}/site-packages/"])
    common = f'python = "{VERSION}"\nbuild = {json.dumps([copy])}\n'
    path.write_text(
        f'[repos."acme/texttools"."1.0"]\n{common}'
        'test = "python -m pytest -rA -p no:cacheprovider"\nlog_parser = "parse_log_pytest"\n'
        f'[repos."acme/numbertools"."1.0"]\n{common}test = "python run.py"\nlog_parser = "parse_log_sympy"\n'
    )
    return path


def benchmark(folder: Path, rows, **fields) -> SweBench:
    """`folder`: of mirrors, recipes and environments, as the fixture makes it."""
    data = folder / f"rows-{len(list(folder.glob('rows-*')))}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"sandbox": SANDBOX, "grader": "local", "seconds": 60, **fields}
    return SweBench(
        data=data, repos=folder / "mirrors", recipes=folder / "recipes.toml", cache=folder / "cache", **given
    )


NOTHING = {"texttools": edit(SLUG_BODY), "numbertools": edit(CLAMP_BODY, CLAMP_PATH, "clamp")}
RIGHT = {"texttools": edit(GOOD), "numbertools": edit(GOOD_CLAMP, CLAMP_PATH, "clamp")}
FALSE = {"texttools": edit(WRONG), "numbertools": edit(WRONG_CLAMP, CLAMP_PATH, "clamp")}
DONE = "<done></done>"


def model(edits, decided=(DONE,)):
    """A script for both instances. `edits`: repository -> the edits of its trajectories, in turn."""
    models = {}
    for name, (path, script) in {"texttools": (SLUG_PATH, TEST), "numbertools": (CLAMP_PATH, CLAMP_TEST)}.items():
        models[name] = Model(
            [
                ("^The file ", ["RELEVANCE: Relevant\nSUMMARY: it is it"]),
                ("^Somebody is to fix", [f'```json\n["{path}"]\n```']),
                ("^Write a Python script", [test(script)]),
                ("^Your script ran", [DONE]),
                ("Plan the fix", edits.get(name, [""])),
                ("^Your edit is", decided),
                ("Try again: one edit", [NOTHING[name]]),
                ("^Several candidate", [test(script)]),
                ("^The script gave", ["<chosen_candidate_fix_id>0</chosen_candidate_fix_id>"]),
            ]
        )
    return lambda context: models["numbertools" if "clamp(" in context else "texttools"](context)
