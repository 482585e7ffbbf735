"""One form for formulas that TeX sets the same (Knuth, The TeXbook, chapters 7 and 16 to 18).

Only what is typographic is taken out: spaces of mathematics, `\\left` and `\\right`, sizes, colours, bold and italics,
braces around the whole or around one symbol, and which spelling of a fraction, a recurring decimal, a thousands
separator or a symbol is used. Nothing is computed.
"""

from __future__ import annotations

import re
from itertools import chain

from .characters import in_ascii
from .commands import ALPHABETS, ARGUMENTS, DIVIDED, DROPPED, NEGATED, NOTHING, SAME, SIDES, SPACES, TEXTS, WIDE
from .digits import join_thousands, overline_recurring

MAX_DEPTH = 100
"""Braces inside braces; deeper formulas stay as they are."""

_TOKEN = re.compile(r"\\(?:[a-zA-Z]+|.)|\s+|\d+|\.{3}|.", re.DOTALL)
_COMMAND_END = re.compile(r"\\[a-zA-Z]+\Z")
_WORD = re.compile(r"[A-Za-z]{2,}")
_DIGITS = frozenset("0123456789.")

_INEQUALITIES = frozenset(["<", ">", r"\leq", r"\geq", r"\neq"])
_LINKS = {"or": r"\lor", "and": r"\land"}
_LISTED = re.compile(r"\s*(?:([,;])|,?\s*\b(and|or)\b)\s*")
_UNIT = r"(?:[cdkmnµMG]?(?:[mgsLlJNWV]|Hz|Pa|eV)|mol|rad|min|cal|h|K|ft|in|lb)(?:\^?-?[1-9])?"
_UNITS = re.compile(rf"{_UNIT}(?:(?:[/* ~]|\\[,;: !]|\\(?:cdot|times) ?)+{_UNIT})*\Z")
"""Symbols of units, which stand as text behind what they measure."""
_BRACES = str.maketrans("", "", "{}")

_TRAILING = re.compile(r"[.,; \\]+\Z")
_PRIMES = re.compile(r"\\prime(?![A-Za-z])")
_KERN = re.compile(r"\\(?:m?kern|[hm]skip)\s*-?[\d.]+\s*(?:pt|mu|em|ex|cm|mm|in|pc|sp)(?![A-Za-z])")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")


class _Unbalanced(Exception):
    """The braces do not close, or are too deep."""


def typeset(text: str, *, commas: bool = True) -> str:
    """The form that all formulas share that look the same; of what is no formula, the text with single spaces.

    A space stays between digits: `1 2` is not `12`. Thousands are joined where they are set apart by `{,}`, `,\\!`, a
    space of any kind, or, outside brackets and if `commas`, by a comma alone. The result is its own form.
    """
    source = _KERN.sub(" ", in_ascii(text))
    try:
        return overline_recurring(_Reader(join_thousands(source, commas)).whole())
    except _Unbalanced:
        return " ".join(text.split())


class _Reader:
    def __init__(self, source: str, depth: int = 0) -> None:
        self._tokens = _TOKEN.findall(source)
        self._at = 0
        self._depth = depth

    def whole(self) -> str:
        text, before = _join(self._pieces(None)), ""
        while text != before:
            before, text = text, _unwrapped(_TRAILING.sub("", text))
        return text

    def _next(self) -> str:
        token: str = self._tokens[self._at] if self._at < len(self._tokens) else ""
        self._at += 1
        return token

    def _skip_spaces(self) -> str:
        """The next token that is no space; it stays."""
        while self._at < len(self._tokens):
            token: str = self._tokens[self._at]
            if not token.isspace() and token not in SPACES:
                return token
            self._at += 1
        return ""

    def _pieces(self, closing: str | None) -> list[str]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Unbalanced
        pieces: list[str] = []
        has_space = False
        while True:
            token = self._next()
            token = SAME.get(token, token)
            if token == closing or (not token and closing is None):
                self._depth -= 1
                return _linked(_divided(pieces))
            if not token or token == "}":
                raise _Unbalanced
            if token.isspace() or token in SPACES:
                has_space = True
                continue
            piece = self._piece(token, pieces)
            if not piece:
                has_space = has_space or token in WIDE
                continue
            if has_space and pieces and pieces[-1][-1] in _DIGITS and piece[0] in _DIGITS:
                pieces.append(" ")
            has_space = False
            pieces.append(piece)

    def _piece(self, token: str, before: list[str]) -> str:
        """What one token and its arguments become; empty: nothing."""
        if token in NOTHING:
            if token in SIDES and self._skip_spaces() == ".":
                self._at += 1
            return ""
        if token in DROPPED:
            self._skip_star()
            self._skip_option()
            for _ in range(DROPPED[token]):
                self._argument()
            return ""
        if token == r"\not" and (following := self._skip_spaces()) in NEGATED:
            self._at += 1
            return NEGATED[following]
        if token in TEXTS:
            return self._text(before)
        if token in ARGUMENTS:
            return self._command(token)
        if token in ALPHABETS:
            argument = self._argument()
            return f"{token}{{{argument}}}" if _LETTER.search(argument) else argument
        if token in ("\\begin", "\\end", "\\operatorname"):
            return self._named(token)
        if token == r"\\":
            self._skip_option()
            return token
        if token in ("^", "_"):
            return self._script(token)
        if token == r"^\circ":
            return r"^{\circ}"
        if token == "{":
            pieces = self._pieces("}")
            keeps = (
                len(pieces) != 1
                or pieces[0] in ("^", "_")
                or (before and before[-1] not in DIVIDED and _COMMAND_END.search(before[-1]))
            )
            return f"{{{_unwrapped(_join(pieces))}}}" if keeps and pieces else _join(pieces)
        return token

    def _named(self, token: str) -> str:
        """Tables in brackets are matrices."""
        self._skip_star()
        name = self._raw()
        if name == "array" and token == r"\begin":
            self._skip_option()
            self._raw()
        return f"{token}{{{'matrix' if name == 'array' else name}}}"

    def _skip_star(self) -> None:
        if self._skip_spaces() == "*":
            self._at += 1

    def _skip_option(self) -> None:
        if self._skip_spaces() == "[":
            while self._next() not in ("]", ""):
                pass

    def _command(self, token: str) -> str:
        option = ""
        if token == r"\sqrt" and self._skip_spaces() == "[":
            self._at += 1
            option = f"[{_join(self._pieces(']'))}]"
            option = "" if option == "[2]" else option
        arguments = [self._argument() for _ in range(ARGUMENTS[token])]
        return token + option + "".join(f"{{{argument}}}" for argument in arguments)

    def _argument(self) -> str:
        """A group, or one symbol: of `12`, the 1."""
        token = self._skip_spaces()
        if not token or token == "}" or self._depth >= MAX_DEPTH:
            raise _Unbalanced
        self._at += 1
        if token == "{":
            return _unwrapped(_join(self._pieces("}")))
        if token.isdigit() and len(token) > 1:
            self._at -= 1
            self._tokens[self._at] = token[1:]
            return token[0]
        self._depth += 1
        piece = self._piece(SAME.get(token, token), [])
        self._depth -= 1
        return piece

    def _script(self, mark: str) -> str:
        # TeX raises the 1 of x^10 alone, who writes that means both: it stays for others to read.
        following = self._skip_spaces()
        if following in ("{", "...") or following.startswith("\\"):
            argument = self._argument()
            # What TeX makes of an apostrophe.
            if argument and _PRIMES.sub("", f"{mark}{argument}") == "^":
                return _PRIMES.sub("'", argument)
            return f"{mark}{{{argument}}}"
        if following.isalpha() or (following.isdigit() and len(following) == 1):
            after = self._tokens[self._at + 1 : self._at + 3]
            if not (after[:1] == ["."] and after[1:] and after[1].isdigit()):
                return f"{mark}{{{self._argument()}}}"
        return mark

    def _raw(self) -> str:
        """The group that follows, as it is."""
        if self._skip_spaces() != "{":
            return self._next()
        self._at += 1
        begin, depth = self._at, 1
        while depth:
            token = self._next()
            if not token:
                raise _Unbalanced
            depth += (token == "{") - (token == "}")
        return "".join(self._tokens[begin : self._at - 1])

    def _text(self, before: list[str]) -> str:
        content = " ".join(self._raw().split())
        unit = content.strip("~. ").translate(_BRACES)
        if before and before[-1][-1] not in "+-*/(=," and _UNITS.match(unit):
            return f"\\text{{{unit}}}"
        if "\\" not in content and "$" not in content:
            parts = _LISTED.split(content)
            if len(parts) > 1 and not any(map(_WORD.search, parts[::3])):
                found = [_TOKEN.findall(part) if place % 3 == 0 else [part] for place, part in enumerate(parts) if part]
                self._tokens[self._at : self._at] = chain.from_iterable(found)
                return ""
            if _WORD.search(content):
                return f"\\text{{{content}}}"
        if self._depth >= MAX_DEPTH:
            raise _Unbalanced
        return _Reader(content, self._depth + 1).whole()


def _divided(pieces: list[str]) -> list[str]:
    """`a \\over b` and `a \\choose b` as commands."""
    if sum(piece in DIVIDED for piece in pieces) != 1:
        return pieces
    at = next(place for place, piece in enumerate(pieces) if piece in DIVIDED)
    top, bottom = (_unwrapped(_join(part)) for part in (pieces[:at], pieces[at + 1 :]))
    return [f"{DIVIDED[pieces[at]]}{{{top}}}{{{bottom}}}"]


def _linked(pieces: list[str]) -> list[str]:
    """The words between inequalities are logic, those between other things commas."""
    if _LINKS.keys().isdisjoint(pieces):
        return pieces
    sides: list[list[str]] = [[]]
    for piece in pieces:
        if piece in _LINKS:
            sides.append([])
        else:
            sides[-1].append(piece)
    is_logic = not any(_INEQUALITIES.isdisjoint(side) for side in sides)
    linked: list[str] = []
    for piece in pieces:
        if piece in _LINKS and linked[-1:] == [","]:
            linked.pop()
        linked.append((_LINKS[piece] if is_logic else ",") if piece in _LINKS else piece)
    return linked


def _join(pieces: list[str]) -> str:
    parts: list[str] = []
    for piece in pieces:
        # A comma between digits shows that it does not mark thousands.
        if parts and (
            (piece[:1].isalpha() and _COMMAND_END.search(parts[-1]))
            or (parts[-1] == "," and len(parts) > 1 and parts[-2][-1] in _DIGITS and piece[:1] in _DIGITS)
        ):
            parts.append(" ")
        parts.append(piece)
    return "".join(parts)


def _unwrapped(text: str) -> str:
    """Without braces around the whole."""
    while text.startswith("{") and text.endswith("}"):
        depth = 0
        for match in re.finditer(r"\\.|[{}]", text):
            depth += (match[0] == "{") - (match[0] == "}")
            if depth == 0 and match.end() < len(text):
                return text
        if depth or text.endswith(r"\}"):
            return text
        text = text[1:-1]
    return text
