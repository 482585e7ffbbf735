"""`numbers`: exact values of numbers as answers write them; needs no library and no process.

Integers, decimals (`.5`, `1.5E3`, `1e20`, `1e-05`, `0.\\overline{3}`, `0.\\dot{3}`, `0.(3)`), `a/b`, `\\frac{a}{b}`,
mixed numbers (`11 5/6`), percent, thousands separators, currencies in front and units or words behind, which are left
out, and `x = ` or `Answer: ` before any of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from .tex import typeset

MAX_CHARS = 1000
"""Longer answers are text."""

_DECIMAL = (
    r"(?:\d+(?:\.\d+)?E[+-]?\d{1,3}|\d+(?:\.(?:\d*(?:\\overline\{\d+\})?))?"
    r"|\.\d+(?:\\overline\{\d+\})?|\.\\overline\{\d+\})"
)
_SIGN = r"[+-]?"
_FRACTION = re.compile(
    rf"(?:\\frac\{{(?P<top>{_SIGN}{_DECIMAL})\}}\{{(?P<bottom>{_SIGN}{_DECIMAL})\}}"
    rf"|(?P<over>{_DECIMAL})/(?P<under>{_DECIMAL}))\Z"
)
_MIXED = re.compile(r"(\d+)(?:(\\frac\{\d+\}\{\d+\})| (\d+/\d+))\Z")
_PLAIN = re.compile(rf"{_DECIMAL}\Z")
_SCIENTIFIC = re.compile(rf"{_SIGN}\d+(?:\.\d+)?e(?:\d{{1,3}}|[+-]\d{{2,3}})\Z")
"""With a small e where that can be no letter: `2e-3` may be 2e less 3."""
_LABEL = re.compile(r"\\text\{[^{}\\]*(?::|=|\bis|\bare)\}(?=.)|\\approx(?![A-Za-z])|=|(?:[Ff]inal)?[Aa]nswer:(?=.)")
"""What an answer may begin with: `\\text{The answer is}`, `=`, `Answer:`."""
_NAME = re.compile(
    r"([A-Za-z](?:_\{?\w+\}?)?(?:'+|\^\{-1\}(?=\())?(?:\([a-z]\))?|\\frac\{d[a-z]\}\{d[a-z]\}|\\[a-z]+)=(?!.*=)",
    re.DOTALL,
)
_CODES = "USD|EUR|GBP"
_CURRENCY = re.compile(rf"([+-]?)(?:\\\$|\\pounds|[£€]|(?:{_CODES}|\\text\{{(?:{_CODES})\}})(?=[+-]?[\d.]))")
_PERCENT = re.compile(r"(?:%|\\text\{(?:percent|per cent|%)\}|(?<=\d)percent)\Z")
_NOUNS = (
    "degree|deg|radian|rad|cent|dollar|euro|pound|inche|inch|in|foot|feet|ft|yard|yd|mile|mph|km/h|mm|cm|dm|km|meter|metre"
    "|kilometer|centimeter|kg|gram|ounce|oz|lb|hour|hr|minute|min|second|sec|day|week|month|year|unit|point|liter|litre"
    "|people|person|student|way|ml"
)
_NAMED_UNIT = r"\\text\{[^{}]*\}(?:\^\{-?\d\}|\^\{\\circ\})?"
_UNIT = re.compile(
    rf"(?:{_NAMED_UNIT}(?:(?:/|\\cdot)?{_NAMED_UNIT})*|\^\{{(?:\\circ|o)\}}[CF]?|(?<=\d)(?:\\\$|[£€¢]|{_CODES})"
    r"|\\operatorname\{[a-z]+\}|(?<=\d)(?:th|\^\{(?:\\text\{)?(?:th|st|nd|rd)\}{1,2})"
    rf"|(?<=[\d}}])(?:square|sq|cubic|cu)?(?:{_NOUNS})(?:s|es)?(?:\^\{{\d\}})?)\Z"
)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"(?:\\text\{{({'|'.join(_SCALES)})s?(?: [^{{}}]*)?\}}|(?<=\d)({'|'.join(_SCALES)}))\Z")
_OTHER = (
    r"and|or|over|plus|minus|negative|divided|choose|mod|modulo|base|binary|octal|hexadecimal|squared|cubed|factorial|root"
    r"|(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)s?"
    r"|[a-z]+teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|half|halves|quarters?|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|[a-z]+teenth|[a-z]+ieth)s?"
    r"|(?:hundredth|thousandth|[a-z]+illionth)s?|(?:arc|a)?(?:sin|cos|tan|cot|csc)h?|(?:co)?sine|tangent|log|exp|sqrt|cbrt"
    r"|frac|binom|lim|sup|inf|max|arg|gcd|lcm|det|dim|ker|abs|sgn|infinity|infty|pi"
    r"|(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|rho|sigma|tau|upsilon|phi|chi|psi|omega)"
)
"""Words behind a number that belong to its value."""
AMOUNT = re.compile(
    rf"\\text\{{[^{{}}]*(?:(?<![A-Za-z^\d])(?<!\^-)\d|(?<![A-Za-z])(?!and\b)(?i:{_OTHER})(?![A-Za-z])"
    rf"|(?<![A-Za-z{{])(?:{'|'.join(_SCALES)})s?(?![A-Za-z]))"
)
"""Text that is no unit: with such words, digits, or a scale that does not begin it."""
_MEASURED = re.compile(
    r"(.*[\d}]\$?)(?:[ \t~]|\\[ ,;:])+([A-Za-z]{3,}(?:[ \t]+(?:[A-Za-z]{3,}|of|in|an?))*)[.\s$]*\Z", re.DOTALL
)
"""What may be a number and words behind it: `18 eggs`."""
_VOWEL = re.compile(r"[aeiouy]")
ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_JOINT = re.compile(r"\\text|,? and ")
_WORDS = re.compile(r"(?:\\text\{[^{}\\]*\})+\Z")


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer taken apart."""

    form: str
    """As `typeset` gives it."""
    name: str | None
    """`x` of `x = 5`."""
    body: str
    """Without name, currency, unit and percent sign."""
    is_percent: bool
    number: Fraction | None
    """The body's value; a percent sign and a scale are not counted in."""
    words: str | None
    """Its letters and digits in small letters, where the whole is text."""
    scale: int = 1
    """1,000,000 of `5 million`."""

    @property
    def value(self) -> Fraction | None:
        """With the percent sign and the scale counted in."""
        return None if self.number is None else self.number * self.scale / (100 if self.is_percent else 1)


def read(answer: str, *, commas: bool = True) -> Reading:
    """Take an answer apart; see `tex.typeset` for `commas`."""
    return _taken_apart(typeset(_worded(answer), commas=commas))


def _taken_apart(form: str) -> Reading:
    words = "".join(filter(str.isalnum, _JOINT.sub(" ", form))).lower() if _WORDS.match(form) else None
    body, name, scale = form, None, 1
    if words is None and (match := _LABEL.match(body)):
        body = body[match.end() :]
    if match := _NAME.match(body):
        name, body = match[1], body[match.end() :]
    if words is None:
        body = _unbracketed(body)
        body = _CURRENCY.sub(r"\1", body, count=1) if _CURRENCY.match(body) else body
    bare = _PERCENT.sub("", body)
    is_percent = bare != body and bool(bare)
    if is_percent:
        body = bare
    elif words is None and not AMOUNT.search(body):
        if (match := _SCALE.search(body)) and match.start():
            body, scale = body[: match.start()], _SCALES[match[1] or match[2]]
        else:
            body = _bare(body) or body
    if _SCIENTIFIC.match(body):
        body = body.replace("e", "E")
    return Reading(
        form=form, name=name, body=body, is_percent=is_percent, number=_number(body), words=words, scale=scale
    )


def key(answer: str) -> str:
    """The value as `p/q` where the answer is a number, else its form."""
    if len(answer) > MAX_CHARS:
        return answer
    reading = read(answer)
    return reading.form if reading.value is None else str(reading.value)


def classes(answers: Sequence[str]) -> list[int]:
    """Equal are numbers of one value, and what TeX sets the same."""
    first: dict[str, int] = {}
    return [first.setdefault(key(answer), place) for place, answer in enumerate(answers)]


def _worded(answer: str) -> str:
    """With the plain words behind a number as text, before spaces are taken out that tell them from a product."""
    match = _MEASURED.match(answer) if len(answer) <= MAX_CHARS else None
    if match is None or not all(map(_is_word, match[2].split())) or _taken_apart(typeset(match[1])).number is None:
        return answer
    return f"{match[1]}\\text{{ {match[2]}}}"


def _is_word(word: str) -> bool:
    """`abc` and `xyz` are products, as letters in alphabetical order are."""
    word = word.lower()
    is_product = len(word) > 2 and list(word) == sorted(set(word))
    return bool(_VOWEL.search(word)) and not is_product and not re.fullmatch(_OTHER, word)


def _bare(body: str) -> str:
    """Without its unit. Degrees of a sine are none."""
    match = _UNIT.search(body)
    if match is None or (match[0].startswith("^") and ANGLE.search(body)):
        return body
    return body[: match.start()]


def _unbracketed(body: str) -> str:
    """Without brackets around the whole; `(1,2)` keeps them."""
    inner = body[1:-1]
    return inner if body.startswith("(") and body.endswith(")") and not set("(),") & set(inner) else body


def _number(body: str) -> Fraction | None:
    sign = 1
    if body[:1] in ("+", "-"):
        sign, body = -1 if body[0] == "-" else 1, body[1:]
    try:
        if _PLAIN.match(body):
            return sign * decimal(body)
        if match := _MIXED.match(body):
            part = _number(match[2] or match[3])
            return None if part is None else sign * (int(match[1]) + part)
        if match := _FRACTION.match(body):
            top, bottom = match["top"] or match["over"], match["bottom"] or match["under"]
            return sign * decimal(top) / decimal(bottom)
    except ZeroDivisionError:
        pass
    return None


def decimal(text: str) -> Fraction:
    """The value of digits with a sign, a point, a period or an exponent."""
    sign = -1 if text[0] == "-" else 1
    text, _, exponent = text.lstrip("+-").partition("E")
    whole, _, rest = text.partition(".")
    digits, _, period = rest.partition(r"\overline{")
    value = Fraction(int(whole + digits or "0"), 10 ** len(digits))
    if period:
        value += Fraction(int(period[:-1]), (10 ** (len(period) - 1) - 1) * 10 ** len(digits))
    return sign * value * Fraction(10) ** int(exponent or 0)
