"""`math`: equality of mathematics, and what grading shares with it.

Numbers, words and numerals of a base are compared here and exactly; all else by math-verify, in its process.
"""

from __future__ import annotations

import cmath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .numbers import AMOUNT, ANGLE, MAX_CHARS, Reading, decimal, read
from .process import Allowance, MathProcess, shared

SECONDS = 2.0
"""Limit of one comparison in a vote, in seconds that the process computes."""
VOTE_SECONDS = 20.0
"""Limit of all comparisons of a vote, as above; what is not known to be equal by then, or once several have taken too
long (`Allowance.overruns`), counts as different."""

_BASE = re.compile(r"\(?(-?(?:\d[0-9A-Fa-f.]*|[A-F][0-9A-F]*(?=\)?_\{16\})))\)?_\{(?:\\text\{)?(\d+|[a-z]+)\}?\}\Z")
_BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_LETTERS = re.compile(r"\(?[A-Za-z][A-Za-z0-9]*\)?\Z")
_CHOSEN = re.compile(r"\(([A-H])\)(?!.*\([A-H]\))[^,;]")
_DEGREES = re.compile(r"([\d.]+|[a-z]|\\[a-z]+|\\frac\{\d+\}\{\d+\})\^\{\\circ\}")
_BUILT = re.compile(r"\\\{([a-z])(?:\\in\\(?:mathbb|mathbf)\{?R\}?)?(?:\\mid|\\vert|\||:)(?=.*\1)(.*)\\\}\Z")
"""Sets of what an inequality says."""
_MIXED = re.compile(r"(?<![\d.^_A-Za-z])(\d+)(?: (\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_EXACT = re.compile(
    r"(?<![\d.^])(?<!\d )(?:\d*\.\d*\\overline\{\d+\}(?!\d)|(?<![A-Za-z_])\d+(?:\.\d+)?E[+-]?\d{1,3}(?![\w.]))"
)
"""Decimals that math-verify does not know: recurring ones, and those with a power of ten."""
_DECIMAL = re.compile(r"(\^)?(\d*)\.(\d+)|(\d+)\.(?!\d)")
_UNCLEAR = re.compile(
    r"[\d.] [\d.]|\d\.(?![\d,;:)\]}|&+*/=<>!^%-]|\\(?:[\\}]|end|cdot|times|pm|[lgn]eq|c[au]p|l(?:or|and))|\Z)"
    r"|[\d.]\\overline|\\(?:dot|hat|widehat|tilde|widetilde)\{?\d|\.\d*\.|\d[eE][+-]?\d|!!|\\[cl]dots|\\pmod"
    r"|\\not(?![A-Za-z])|\\in [A-Za-z]"
    r"|[\u0300-\u036f]|'|\\prime|(?<!matrix\})\^\{(?:T|\\top)\}"
    r"|(?:[A-Za-z]|[fgh]\(\w\))\^\{[(\[]\w+[)\]]\}|[fgh]\^\{-1\}\("  # marks
    r"|:[^:,;]*:|\\frac\{(?:d|\\partial)[^{}]*\}\{(?:d|\\partial)[^{}]*\}"
    r"|\\math(?:cal|frak|scr|bb(?!\{[CNQRZ]\}))"
)
"""What math-verify takes for something else: `1 2` for 1 + 2, `x'` for x, `A^T` for A, `3:1:2` for 3/1/2."""
_SYMBOL = re.compile(r"(\\text\{[^{}]*\}|\\[A-Za-z]+)|I")
"""Math-verify takes the letter I, whatever its index, for the imaginary unit."""
_MARKED = re.compile(r"\\frac\{d(?P<of>[a-z])\}\{d(?P<by>[a-z])\}|(?P<primes>'+)|\^\{-1\}")
"""Names that math-verify would take apart."""
_PRODUCT = re.compile(r"(?<=\d)(?=\()|(?<=\))(?=[\d(])")
"""Math-verify takes `2(3)` for a mixed number."""
_POWER = re.compile(r"\^(?:\(([^()]*)\)|(-(?:\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z\d]))))")
"""`^(x)`, `^-3`."""
_SETS = re.compile(r"[A-Z](\\c[au]p) [A-Z](?:\1 [A-Z])*\Z")
"""Unions or intersections of sets with names, whose order says nothing."""
_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)")
_NAMES = re.compile(r"(?<![\\A-Za-z])(pi|infinity|theta|alpha|sin|cos|tan|log|ln)(?![A-Za-z])")


def settle(gold: Reading, answer: Reading) -> bool | None:
    """Are they equal, as far as that needs no algebra? None: it does.

    The gold says what is asked for: an answer may leave out its percent sign or the base it is written in, and may put
    a percent sign of its own, as the unit.
    """
    if gold.form == answer.form:
        return True
    if gold.words is not None or answer.words is not None:
        words = gold.words or _word(gold), answer.words or _word(answer)
        return words[0] == words[1] if None not in words else None
    asked, given = _numeral(gold.body), _numeral(answer.body)
    if asked is not None or given is not None:
        return asked == given or (asked is not None and asked[0] == answer.body)
    is_named = gold.name is not None and answer.name is not None
    if gold.number is None or answer.number is None:
        if choice := _choice(gold.form):
            chosen = _CHOSEN.match(answer.form)
            return True if choice == (chosen[1] if chosen else _choice(answer.form)) else None
        is_same = gold.body == answer.body and gold.is_percent == answer.is_percent and gold.scale == answer.scale
        return True if is_same and not is_named and gold.body else None
    if is_named and gold.name != answer.name:
        return False
    is_unit = gold.is_percent != answer.is_percent if gold.scale == answer.scale else answer.scale == 1
    return gold.value == answer.value or (is_unit and gold.number == answer.number)


def legible(reading: Reading, *, named: bool = False) -> str | None:
    """The answer as math-verify reads it rightly; None: it cannot. `named`: with the `x = ` it has."""
    text = _BUILT.sub(r"\2", reading.body)
    text = _EXACT.sub(lambda match: "\\frac{{{}}}{{{}}}".format(*decimal(match[0]).as_integer_ratio()), text)
    text = _MIXED.sub(r"(\1+\\frac{\2\4}{\3\5})", text)
    if _UNCLEAR.search(text) or AMOUNT.search(text) or reading.scale != 1 or len(text) > MAX_CHARS:
        return None
    if match := _SETS.match(text):
        text = f"{match[1]} ".join(sorted(text.split(f"{match[1]} ")))
    if ANGLE.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = _POWER.sub(r"^{\1\2}", text.replace("**", "^"))
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = _PRODUCT.sub(r"\\cdot ", text)
    text = _NAMES.sub(lambda match: "\\" + {"infinity": "infty"}.get(match[1], match[1]) + " ", text)
    text = _SYMBOL.sub(lambda match: match[1] or r"\mathrm{I}", text).replace(r"^{\top}", "^{T}")
    text = _DECIMAL.sub(_fraction, text).replace("%", r"\%")
    text += r"\%" if reading.is_percent else ""
    return f"{_MARKED.sub(_indexed, reading.name)}={text}" if named and reading.name else text


def classes(answers: Sequence[str], process: MathProcess | None = None) -> list[str]:
    """Labels: answers of the same label are equal. Starts the process (`shared`) only where there is algebra to do.

    Units and the name in `x = 5` are left out; percent are hundredths; lists are sets, `(1,2)` is not. Raises
    `MathUnavailable`.
    """
    readings = {answer: read(answer) for answer in answers if len(answer) <= MAX_CHARS}
    plain = {answer: _plain_key(reading) for answer, reading in readings.items()}
    # As in `settle`: letters are a product only where nobody says that they are a word.
    said = {reading.words for reading in readings.values() if reading.words is not None}
    for answer, reading in readings.items():
        if (word := _word(reading)) in said:
            plain[answer] = _Plain(f"words {word}", None)
    labels: dict[str, str] = {}
    distinct = list(dict.fromkeys(plain.values()))
    if len(distinct) > 1 and any(one.label.startswith("formula") for one in distinct):
        labels = _group(distinct, process or shared())
    found = []
    for answer in answers:
        label = plain[answer].label if answer in plain else f"text {answer}"
        found.append(labels.get(label, label))
    return found


@dataclass(frozen=True, slots=True)
class _Plain:
    """What an answer is without algebra."""

    label: str
    text: str | None
    """For math-verify; None: the label is all there is to know."""
    value: complex | None = None


@dataclass(slots=True)
class _Group:
    label: str
    kind: str
    key: str
    near: complex | None
    text: str


def _plain_key(reading: Reading) -> _Plain:
    if reading.value is not None:
        try:
            about: complex | None = complex(float(reading.value))
        except OverflowError:
            about = None
        return _Plain(f"number {reading.value}", None, about)
    if reading.words is not None:
        return _Plain(f"words {reading.words}", None)
    if (numeral := _numeral(reading.body)) is not None:
        return _Plain("numeral {}_{}".format(*numeral), None)
    if (choice := _choice(reading.form)) is not None:
        return _Plain(f"letter {choice}", choice)
    text = legible(reading)
    return _Plain(f"form {reading.form}" if text is None else f"formula {text}", text)


def _group(answers: Sequence[_Plain], process: MathProcess) -> dict[str, str]:
    """Label -> label of its group. A group is compared by its first member."""
    allowance = Allowance(process, VOTE_SECONDS)
    groups: list[_Group] = []
    found: dict[str, str] = {}
    for answer in answers:
        one = _read(answer, allowance)
        if one is None:
            continue
        for group in groups:
            if _is_same(group, one, allowance):
                found[answer.label] = group.label
                break
        else:
            groups.append(one)
    return found


def _read(answer: _Plain, allowance: Allowance) -> _Group | None:
    if answer.text is None:
        kind, _, key = answer.label.partition(" ")
        return _Group(answer.label, kind, key, answer.value, key)
    reply = allowance.ask({"read": answer.text}, SECONDS)
    if reply is None or reply.get("key") is None:
        return None
    near = None if reply["near"] is None else complex(*reply["near"])
    return _Group(answer.label, reply["kind"], reply["key"], near, answer.text)


def _is_same(a: _Group, b: _Group, allowance: Allowance) -> bool:
    if a.kind != b.kind:
        return False
    if a.key == b.key:
        return True
    if a.kind in ("words", "numeral", "form"):
        return False
    if a.near is not None and b.near is not None and not cmath.isclose(a.near, b.near, rel_tol=1e-9, abs_tol=1e-12):
        return False
    reply = allowance.ask({"same": a.text, "other": b.text}, SECONDS)
    return reply is not None and reply.get("equal") is True


def _numeral(body: str) -> tuple[str, str] | None:
    """Digits and base of `52_{8}`."""
    match = _BASE.match(body)
    if match is None:
        return None
    base = str(_BASES.index(match[2]) + 2) if match[2] in _BASES else match[2]
    return (match[1], base) if base.isdigit() else None


def _word(reading: Reading) -> str | None:
    return reading.form.strip("()").lower() if _LETTERS.match(reading.form) else None


def _choice(form: str) -> str | None:
    """`C` of `(C)`."""
    bare = form.removeprefix("(").removesuffix(")")
    return bare if len(bare) == 1 and bare.isalpha() and bare.isascii() else None


def _indexed(match: re.Match[str]) -> str:
    """A mark as an index: `y_{pp}` for `y''`."""
    if match["of"]:
        return f"{match['of']}_{{d{match['by']}}}"
    return f"_{{{'p' * len(match['primes']) if match['primes'] else 'inv'}}}"


def _fraction(match: re.Match[str]) -> str:
    raised, whole, digits, alone = match.groups()
    if alone is not None:
        return str(alone)
    fraction = rf"\frac{{{int(whole + digits)}}}{{{10 ** len(digits)}}}"
    return f"^{{{fraction}}}" if raised else fraction
