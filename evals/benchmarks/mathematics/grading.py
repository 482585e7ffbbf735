"""Grading mathematics: what is judged of a text, and whether it equals the right answer.

What is only another way to write the same (`runtime.equality.tex`), numbers, words and numerals are decided here and
exactly; all else is math-verify's, in a process that can be stopped.
"""

from __future__ import annotations

import re
from fractions import Fraction

from ....runtime.equality.mathematics import legible, settle
from ....runtime.equality.numbers import MAX_CHARS, Reading, read
from ....runtime.equality.process import Allowance, MathProcess
from ....runtime.methods.answers import BOX, bare_box, boxes
from ...benchmark import Verdict

_BETWEEN = re.compile(r"\}(?:\s|\\[,;! ]|[$,;]|and|or|\\text\{ ?(?:and|or) ?\})*" + BOX)
_BOX = re.compile(BOX)


def find_answer(text: str) -> str | None:
    """The content of the last `\\boxed{...}`, or of the last several with nothing but commas, `and` or `or` between
    them. None: there is no box, or the last one is empty."""
    found = boxes(text)
    if (bare := bare_box(text, found[-1][1] if found else 0)) is not None:
        return bare
    if not found or not text[slice(*found[-1])].strip():
        return None
    last = [found[-1]]
    for begin, end in reversed(found[:-1]):
        if not _BETWEEN.fullmatch(text[end : min(last[0][0], end + 60)]):
            break
        last.insert(0, (begin, end))
    # The same one twice is one.
    contents = dict.fromkeys(text[begin:end].strip() for begin, end in last)
    return ", ".join(filter(None, contents))


class MathGrader:
    """Judges answers, one at a time; safe to call from several threads."""

    def __init__(self, seconds: float = 5.0) -> None:
        """`seconds`: limit of one judgement, in those that math-verify computes, not those that it is waited for."""
        self.seconds = seconds
        self._process = MathProcess()

    def allowance(self) -> Allowance:
        """The time of one judgement, for all that is asked for it."""
        return Allowance(self._process, self.seconds)

    def grade(self, gold: str, answer: str | None, text: str, allowance: Allowance | None = None) -> Verdict:
        """Judge the answer found in a text; None: the text is searched for a box, then its end for a number or formula.

        `gold` is LaTeX. Any strings give a verdict. The last box counts, also if it is empty: that is no answer, and
        the reason says so. Raises `MathUnavailable` when math-verify is not there and needed.
        """
        allowance = allowance or self.allowance()
        if answer is None:
            end = text[-100 * MAX_CHARS :]
            answer = find_answer(end)
            if answer is None and boxes(end):
                return _wrong(None, "the last box is empty")
        if answer is not None:
            return self._judge(gold, answer, allowance)
        if _BOX.search(text):
            return _wrong(None, "the braces of the box do not close")
        return self._search(gold, text[-MAX_CHARS:], allowance)

    def value(self, text: str, allowance: Allowance) -> Fraction | None:
        """About the value of a term without symbols, such as `\\frac{\\pi}{2}`; None: it is no real number, or it takes
        too long. Raises `MathUnavailable`."""
        written = legible(read(text), named=True) if len(text) <= MAX_CHARS else None
        reply = None if written is None else allowance.ask({"value": written})
        value = None if reply is None else reply.get("value")
        return None if value is None else Fraction(value)

    def close(self) -> None:
        """End the process; idempotent."""
        self._process.close()

    def _judge(self, gold: str, answer: str, allowance: Allowance) -> Verdict:
        if len(answer) > MAX_CHARS:
            return _wrong(answer, f"longer than {MAX_CHARS:,} characters")
        right = read(gold)
        # Where the right answer is a list, 100,200 is one too.
        readings = dict.fromkeys((read(answer), read(answer, commas=False)))
        for given in readings:
            if settled := settle(right, given):
                return _correct(right)
            if settled is not None:
                return _wrong(_shown(given), _unequal(gold))
        extracted = None
        for given in readings:
            written, asked = legible(given, named=True), legible(right, named=True)
            if written is None or asked is None:
                continue
            if written == asked:
                return _correct(right)
            reply = allowance.ask({"gold": asked, "answer": written})
            if reply is None:
                return _wrong(_shown(given), f"not judged within {self.seconds:g} s")
            if "error" in reply:
                return _wrong(_shown(given), f"cannot be judged: {reply['error']}")
            if reply["equal"]:
                return _correct(right)
            extracted = extracted or reply["key"]
        given = next(iter(readings))
        if extracted is None:
            return _wrong(_shown(given), "cannot be read as mathematics")
        return _wrong(extracted, _unequal(gold))

    def _search(self, gold: str, text: str, allowance: Allowance) -> Verdict:
        right = read(gold)
        asked = legible(right, named=True)
        if not text.strip() or asked is None:
            return _wrong(None, "no answer")
        reply = allowance.ask({"gold": asked, "text": text})
        if reply is None:
            return _wrong(None, f"not judged within {self.seconds:g} s")
        if "error" in reply:
            return _wrong(None, f"cannot be judged: {reply['error']}")
        if reply["equal"]:
            return _correct(right)
        return _wrong(reply["key"], "no answer" if reply["key"] is None else _unequal(gold))


def _correct(gold: Reading) -> Verdict:
    return Verdict(correct=True, extracted=_shown(gold), reason="correct")


def _wrong(extracted: str | None, reason: str) -> Verdict:
    shown = None if extracted is None else extracted[:MAX_CHARS]
    return Verdict(correct=False, extracted=shown, reason=reason)


def _shown(reading: Reading) -> str:
    """The value of a number, else the answer in TeX."""
    return reading.form if reading.value is None else str(reading.value)


def _unequal(gold: str) -> str:
    return f"not equal to {gold[:60]}"
