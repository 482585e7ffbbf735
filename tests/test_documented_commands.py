"""Every `plait ...` line of the pages and of the commands' own help is one that the commands take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import plait
from plait.runtime.cli.command import COMMANDS
from plait.runtime.cli.main import parse

ROOT = Path(plait.__file__).parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("rl/*.md"), *ROOT.glob("models/*/README.md")]
PAGES.remove(ROOT / "CHANGELOG.md")  # What was.
PAGES.remove(ROOT / "docs" / "methods.md")  # Its commands run, with what they import: see test_methods_page.py.

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?(.*?)\n.*?^\s*\1$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
ASSIGNMENT = re.compile(r"\w+=.*")


def commands(text):
    """The arguments of each `plait` in a piece of shell."""
    text = COMMENT.sub("", HERE_DOCUMENT.sub(r"\2", text)).replace("\\\n", " ")
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;()<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words, redirected = [], False
    for token in (*lexer, "\n"):
        if not token or token[0] not in "|&;()<>\n":
            if not redirected:
                words.append(token)
            redirected = False
        elif not (redirected := token[0] in "<>"):
            while words and ASSIGNMENT.fullmatch(words[0]):
                del words[0]
            if "plait" in words[:1] or ("-m", "plait") in zip(words, words[1:], strict=False):
                yield words[words.index("plait") + 1 :]
            words = []


def documented():
    """(where, arguments)"""
    for page in PAGES:
        for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for arguments in commands(block) if language in ("", "sh") and "plait " in block else ():
                yield page.relative_to(ROOT), arguments
    for name in COMMANDS.names():
        shown = re.findall(r"^    (plait .*)", COMMANDS.find(name).__doc__ or "", re.MULTILINE)
        for arguments in commands("\n".join(shown)):
            yield name, arguments


LINES = [pytest.param(arguments, id=f"{where}: {shlex.join(arguments)}") for where, arguments in documented()]


@pytest.mark.parametrize("arguments", LINES)
def test_a_documented_line_is_taken(arguments):
    assert parse(arguments).command is COMMANDS.find(arguments[0])


def test_there_are_lines():
    assert len(LINES) > 50


def test_commands_are_found_in_shell():
    text = """
    # plait none
    A=1 B='2 3' plait one --x 'a b' "c#d" e#f   # plait none
    plait two \\
        --long && plait three > out 2>&1 | plait four; (plait five)
    echo '{"plait":
      "none"}' | plait six -
    cat > job.json <<'EOF' && plait seven
    plait none
    EOF
    torchrun --n 2 -m plait eight
    python -m plait.none
    """
    found = ["one --x|a b|c#d|e#f", "two --long", "three 2", "four", "five", "six -", "seven", "eight"]
    assert list(commands(text)) == [[part for word in line.split(" ", 1) for part in word.split("|")] for line in found]
