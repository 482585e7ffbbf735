"""Grading mathematics: what is judged of a text, and math-verify in a process that can be stopped.

math-verify hands what a model wrote to a computer algebra system: a tower of exponents keeps that busy for ever, and
its own time limit works in a main thread only. So it runs in a child process with limited memory, is given a limited
number of characters and of seconds, and is replaced when it overruns them.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import threading
from typing import Any

from ....runtime.errors import PlaitError
from ....runtime.methods.answers import boxes
from ...benchmark import Verdict

MAX_CHARS = 1000
"""Longer answers are wrong; of a text without a box the end is searched."""
START_SECONDS = 60.0
"""Importing sympy on a busy machine."""

_BETWEEN = re.compile(r"\}(?:\s|\\[,;! ]|[$,;]|and|or|\\text\{ ?(?:and|or) ?\})*\\boxed\{")
_SOFT = re.compile(r"\\[,;!:]|\\(?:left|right)\b|\\text(?:rm|bf)?(?=\{)|\\mathrm(?=\{)|[\s${}]|\\ ")


class GradingFailed(PlaitError):
    """The grading process cannot be started."""


def find_answer(text: str) -> str | None:
    """The content of the last `\\boxed{...}`, or of the last several with nothing but commas, `and` or `or` between
    them. None: there is no box."""
    found = boxes(text)
    if not found:
        return None
    last = [found[-1]]
    for begin, end in reversed(found[:-1]):
        if not _BETWEEN.fullmatch(text[end : min(last[0][0], end + 60)]):
            break
        last.insert(0, (begin, end))
    return ", ".join(text[begin:end].strip() for begin, end in last) or None


def canonical(answer: str) -> str:
    """Without spaces, grouping and fonts, fractions in one form: what two ways to write one thing often share."""
    text = _SOFT.sub("", answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
    return text.replace("\\%", "%").strip(".").lower()


class MathGrader:
    """A child process that judges answers, one at a time; safe to call from several threads."""

    def __init__(self, seconds: float = 5.0) -> None:
        """`seconds`: limit of one judgement."""
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def grade(self, gold: str, answer: str | None, text: str) -> Verdict:
        """Judge the answer found in a text; None: the text is searched for a box, then its end for a number or formula.

        `gold` is LaTeX. Any strings give a verdict. Raises `GradingFailed` when math-verify is not there.
        """
        if answer is None:
            answer = find_answer(text[-100 * MAX_CHARS :])
        given = answer
        if answer is not None:
            if len(answer) > MAX_CHARS:
                return _wrong(answer, f"longer than {MAX_CHARS:,} characters")
            if canonical(answer) == canonical(gold):
                return Verdict(correct=True, extracted=canonical(answer), reason="correct")
            request = f"\\boxed{{{answer}}}"
        elif "\\boxed{" in text:
            return _wrong(None, "the braces of the box do not close")
        else:
            request = text[-MAX_CHARS:]
            if not request.strip():
                return _wrong(None, "no answer")
        with self._lock:
            reply = self._ask({"gold": f"\\boxed{{{gold}}}", "text": request})
        if reply is None:
            return _wrong(given, f"not judged within {self.seconds:g} s")
        if "error" in reply:
            return _wrong(given, f"cannot be judged: {reply['error']}")
        if reply["parsed"] is None:
            return _wrong(given, "no answer" if given is None else "cannot be read as mathematics")
        if reply["correct"]:
            return Verdict(correct=True, extracted=canonical(gold), reason="correct")
        return _wrong(given if given is not None else reply["parsed"], f"not equal to {gold[:60]}")

    def close(self) -> None:
        """End the process; idempotent."""
        with self._lock:
            self._stop()

    def _ask(self, request: dict[str, str]) -> dict[str, Any] | None:
        """The reply; None if there is none in time, or the process died of the request."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except OSError:
            self._stop()
            return None
        reply = self._read(self.seconds)
        if reply is None:
            self._stop()
        return reply

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        if self._read(START_SECONDS) is None:
            process = self._process
            process.kill()
            _, errors = process.communicate()
            self._process = None
            raise GradingFailed(
                "math-verify does not start; is it installed? pip install 'plait[evals]'. "
                + (errors.strip().splitlines() or ["no message"])[-1]
            )

    def _read(self, seconds: float) -> dict[str, Any] | None:
        process = self._process
        assert process is not None and process.stdout is not None
        # One request, one short line in reply: either nothing is there yet or all of it is on its way.
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _wrong(extracted: str | None, reason: str) -> Verdict:
    shown = None if extracted is None else extracted[:MAX_CHARS]
    return Verdict(correct=False, extracted=shown, reason=reason)
