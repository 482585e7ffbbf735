"""The docs site: its menu, its picture, its API pages, and the shell lines of the tutorial. `make docs` builds it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import yaml

import plait
from plait.tests.pages import named_files

ROOT = Path(plait.__file__).parent
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
ELSEWHERE = dict(re.findall(r'^    "(\S+\.md)": "(\S+\.md)",$', (DOCS / "site_hooks.py").read_text(), re.MULTILINE))
"""Page of the site -> the file outside of docs/ that it is."""
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")
DRIVER = """
import shlex, sys
from plait.runtime.cli.main import main
for line in sys.stdin:
    program, *arguments = shlex.split(line, comments=True)
    if program != "plait" or main(arguments):
        sys.exit(line)
"""


def pages(nav):
    """The files that a nav names."""
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages(value)


def test_the_nav_names_every_page_once_and_no_other():
    named = list(pages(CONFIG["nav"]))
    assert len(named) == len(set(named))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert ELSEWHERE and not there & set(ELSEWHERE)
    assert set(named) == there | set(ELSEWHERE)
    assert all((ROOT / source).is_file() for source in ELSEWHERE.values())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_public_names_are_in_the_reference():
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    named = re.findall(r"^::: plait\.(\S+)$", text, re.MULTILINE)
    assert len(named) == len(set(named))
    # Modules have pages of their own; the page on errors is that of the module.
    errors = {name for name in plait.__all__ if name in vars(plait.errors)}
    assert set(plait.__all__) - errors - {"__version__", "evals", "search"} <= set(named)
    assert {f"evals.{name}" for name in plait.evals.__all__} <= set(named)
    exported = {
        name for name, value in vars(plait.search).items() if getattr(value, "__module__", None) and name[0] != "_"
    }
    assert exported - {"TreeSearch"} <= {name.removeprefix("search.") for name in named}


def test_the_picture_is_that_of_its_source_and_of_the_tree():
    source, drawn = (DOCS / "architecture.dot").read_text(), (DOCS / "architecture.svg").read_text()
    lines = {line for label in re.findall(r'label="([^"]+)"', source) for line in label.split(r"\n")}
    assert lines == {unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)}
    for line in lines:
        if re.fullmatch(r"\w+/", line):
            assert any((ROOT / room / line).is_dir() for room in (".", "runtime", "runtime/engines")), line


def test_what_is_shown_as_json_is_json():
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            json.loads(block)


def test_nothing_is_fetched_from_other_hosts():
    assert CONFIG["theme"]["font"] is False and CONFIG["strict"] is True
    assert not any(
        str(value).startswith("http") for key in ("extra_css", "extra_javascript") for value in CONFIG.get(key, [])
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files of the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, text in named_files(TUTORIAL).items():
        (folder / name).write_text(text)
    return folder


def run(place, text):
    """Run the shell lines of a part of the tutorial, all in one process, since each would load torch."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input="".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)),
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr


def test_the_shell_lines_of_the_tutorial(place):
    run(place, TUTORIAL.split("## 6.")[0])
    for name in ("trace.jsonl.html", "first/report.html", "own/report.html"):
        assert (place / name).is_file(), name
    assert "agree" in (place / "own" / "report.md").read_text()


def test_the_training_of_the_tutorial(place):
    pytest.importorskip("trl")
    if not (place / "first").is_dir():
        pytest.skip("needs the evaluation of the test before")
    run(place, TUTORIAL.split("## 6.")[1])
    assert (place / "tuned" / "model" / "config.json").is_file()
