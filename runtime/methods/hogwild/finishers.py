"""Answers in Hogwild! workers' text, and the texts that ask for one (arXiv 2504.06261, appendix on evaluation)."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from ...equality.numbers import MAX_CHARS, read
from ...python_text import undisturbed
from ..answers import boxes, check_rule, extract
from .text import SEPARATOR

Accepts = Literal["mathematics", "number", "any"]
_HURRY = f"{SEPARATOR}Wait, given the limited time, I have to"
_TRIED = "Considering all my previous attempts,"
CONCLUSION = f"{_HURRY} give an answer right now. {_TRIED} I have to conclude that the final answer is \\boxed{{"
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|textit|emph|mbox|operatorname)\s*\{([^{}]*)\}")
_SIGNS = re.compile(r"[\W_]+")
_EMPTY = re.compile(r"\\(?:[lcvd]?dots[bcmio]?|square|Box|left|right|displaystyle|q?quad)(?![A-Za-z])")
"""Commands that say nothing by themselves."""
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PROSE = re.compile(r"[^\W\d_]{2,}\s+[^\W\d_]{2,}")
_PLACEHOLDERS = frozenset(("answer", "answers", "ans", "result", "number", "value", "final", "here"))
_AROUND = frozenset(("a", "an", "the", "your", "my", "insert", "put", "write"))
"""Words that stand beside placeholders."""
_FENCE = re.compile(r"^(?:[^`\n]*[:*])?[ \t]*```[ \t]*([\w+#.-]*)[ \t]*\r?\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
"""A block of code; it may open behind the prefix of a step (`**Alice [1]:** `) or a colon."""
_CHOICE = re.compile(
    r"\\boxed\s?\{\s?\$?\(?(?:\\(?:text|math)[a-z]{2}\{|\\text\{)?\s?\(?(?P<boxed>[A-J])(?:[.:)]\s|\)?\}?\)?\$?[.:]?\s?\})"
    r"|\b(?:[Aa]nswer|ANSWER)(?P<says>(?:\s{1,3}(?:is|IS))?\s?\*{0,2}:?\*{0,2})\s{0,3}\*{0,2}"
    r"(?P<paren>[($]{0,2})(?P<named>[A-J])(?![\w'])(?=(?P<on>\*{0,2}\s{1,3}[a-z])?)"
)
_MAX_CODE = 50_000
"""Characters; longer blocks are not code that anybody wants compiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finisher:
    """A kind of answer and the text that asks for one."""

    find: Callable[[str, Accepts], str | None]
    """The rightmost answer in a text that parses."""
    conclusion: str
    tokens: int
    """New tokens behind `conclusion` at most."""
    ends: str
    """Only behind this can an answer be complete."""


def _numbers(text: str) -> str | None:
    """The rightmost box that is a float, up to its first closing brace."""
    for piece in reversed(text.split("\\boxed{")[1:]):
        content, brace, _ = piece.partition("}")
        try:
            float(content)
        except ValueError:
            continue
        if brace:
            return content.strip()
    return None


def _boxed(text: str, accepts: Accepts) -> str | None:
    if accepts == "number":
        return _numbers(text)
    for begin, end in reversed(boxes(text)):
        content = text[begin:end].strip()
        if content and (accepts == "any" or is_mathematics(content)):
            return content
    return None


def is_mathematics(content: str) -> bool:
    """Can this be an answer, and not words that stand for one (`answer here`) or nothing (`...`)?"""
    if len(content) > MAX_CHARS:
        return False
    if read(content).number is not None:
        return True
    said = _SIGNS.sub(" ", _EMPTY.sub(" ", _TEXT.sub(r" \1 ", content))).lower().split()
    if not said or (_PLACEHOLDERS.intersection(said) and _PLACEHOLDERS.union(_AROUND).issuperset(said)):
        return False
    return not _PROSE.search(_COMMAND.sub(" ", _TEXT.sub("1", content)))


def _code(text: str, accepts: Accepts) -> str | None:
    for language, code in reversed(_FENCE.findall(text)):
        if code.strip() and (language.lower() not in ("", "py", "python", "python3") or _compiles(code)):
            return str(code)
    return None


def _compiles(code: str) -> bool:
    if len(code) > _MAX_CODE:
        return False
    try:
        with undisturbed():
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _choice(text: str, accepts: Accepts) -> str | None:
    found = [match["boxed"] or match["named"] for match in _CHOICE.finditer(text) if not _is_word(match)]
    return found[-1] if found else None


def _is_word(match: re.Match[str]) -> bool:
    """Is the letter a word of a sentence (`the answer I found`), and not a choice?"""
    is_free = match["named"] is not None and not match["paren"] and match["on"] is not None
    return is_free and (match["named"] == "I" or not match["says"].strip(" *"))


FINISHERS: Mapping[str, Finisher] = {
    "boxed": Finisher(find=_boxed, conclusion=CONCLUSION, tokens=64, ends="}"),
    "code": Finisher(
        find=_code,
        conclusion=f"{_HURRY} write the final code right now. {_TRIED} I have to conclude that the final solution code "
        "is:\n```python\n",
        tokens=1024,
        ends="```",
    ),
    "choice": Finisher(
        find=_choice,
        conclusion=f"{_HURRY} choose right now. {_TRIED} I have to conclude that the letter of the right choice is "
        "\\boxed{",
        tokens=16,
        ends="}",
    ),
}


def _check(rule: str) -> str:
    return rule if rule in FINISHERS else check_rule(rule)


TeamAnswer = Annotated[str, AfterValidator(_check)]
"""A rule of `answers`, `code` or `choice`."""


def find(rule: str, text: str, accepts: Accepts) -> str | None:
    """The answer by the rule, or None where the text has none."""
    return FINISHERS[rule].find(text, accepts) if rule in FINISHERS else extract(rule, text)
