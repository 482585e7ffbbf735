"""The mathematics process: reads one JSON request per line, answers with one line; run by `process.MathProcess`.

It has no way to know how long a comparison takes, so a timer of what it computes ends it when one takes too long;
memory is limited, too. Comparisons are math-verify's, made exact: decimals are fractions, and what it compares by the
first 15 decimals, which takes 1/2004! for 1/2006!, is decided by sympy's algebra.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
import time
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any

from ..errors import told

MEMORY = 2 << 30
"""Bytes of address space."""
MAX_KEY = 1000
"""Characters."""
LINK = re.compile(r"\\(lor|land)(?![A-Za-z])")
SIGN = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")


class Algebra:
    """What needs sympy; imported in the process alone."""

    def __init__(self) -> None:
        import math_verify
        import sympy
        from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig
        from math_verify import grader, parser

        self.sympy = sympy
        self.verify = math_verify.verify
        self.parse = math_verify.parse
        rules = NormalizationConfig(basic_latex=True, boxed="last")
        self.formula = [math_verify.LatexExtractionConfig(normalization_config=rules, boxed_match_priority=0)]
        # Where math-verify has no setting: R is not r, and numbers are compared exactly.
        parser.latex2sympy = partial(parser.latex2sympy, conversion_config=ConversionConfig(lowercase_symbols=False))
        grader.sympy_numeric_eq = self.is_same_number
        self._is_same_term = grader.sympy_symbolic_eq
        self._symbols_agree = grader.sympy_compare_symbols
        grader.sympy_compare_symbols = self.is_same_symbol
        self._solutions_agree = grader.sympy_solve_and_compare
        grader.sympy_solve_and_compare = self.has_same_solutions

    @lru_cache(maxsize=1000)  # noqa: B019 - there is one, as long as the process.
    def read(self, text: str) -> Any:
        """The formula of a text; None: there is none. Raises whatever parsers raise."""
        if link := LINK.search(text):
            return self.linked(link[1], [self.read(side) for side in LINK.split(text)[::2]])
        if len(SIGN.findall(text)) == 1:
            return self.either(*(self.read(SIGN.sub(sign, text)) for sign in "+-"))
        found = self.parse(rf"\boxed{{{text}}}", self.formula, "no_fallback", parsing_timeout=None, raise_on_error=True)
        return self.exact(found[-1]) if found else None

    def linked(self, link: str, sides: list[Any]) -> Any:
        """`x<1 \\lor x>2`: the set of such x where there is one unknown."""
        sympy = self.sympy
        if not all(isinstance(side, sympy.logic.boolalg.Boolean) for side in sides):
            return None
        formula = (sympy.Or if link == "lor" else sympy.And)(*sides)
        try:
            return formula.as_set()
        except (NotImplementedError, ValueError, TypeError):  # Of several unknowns, or not to be solved.
            return formula

    def either(self, one: Any, other: Any) -> Any:
        """Both values of `1\\pm x`; those of a list are its own."""
        sympy = self.sympy
        if one is None or other is None:
            return None
        if isinstance(one, sympy.FiniteSet) and isinstance(other, sympy.FiniteSet):
            return one + other
        if isinstance(one, sympy.Eq) and isinstance(other, sympy.Eq) and one.lhs == other.lhs:
            return sympy.Eq(one.lhs, sympy.FiniteSet(one.rhs, other.rhs), evaluate=False)
        return sympy.FiniteSet(one, other)

    def find(self, text: str) -> Any:
        """The last number or formula of a text without a box."""
        found = self.parse(text, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)
        return self.exact(found[-1]) if found else None

    def exact(self, formula: Any) -> Any:
        """With fractions for decimals, one kind of symbols, the imaginary unit for `i`, and `<` for `>`."""
        sympy = self.sympy
        changes: dict[Any, Any] = {number: sympy.Rational(str(number)) for number in formula.atoms(sympy.Float)}
        for symbol in formula.free_symbols:
            same = sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name, real=True)
            if same != symbol:
                changes[symbol] = same
        formula = formula.xreplace(changes) if changes else formula
        descending = formula.atoms(sympy.StrictGreaterThan, sympy.GreaterThan)
        return formula.xreplace({relation: relation.reversed for relation in descending}) if descending else formula

    def is_equal(self, gold: Any, answer: Any) -> bool:
        """Is the answer math-verify's equal of the gold? Inequalities are the sets they describe."""
        return bool(
            self.verify([gold], [answer], allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
        )

    def is_same_number(self, a: Any, b: Any, *_: int) -> bool:
        """In place of math-verify's comparison of decimals."""
        if isinstance(a, self.sympy.MatrixBase) and isinstance(b, self.sympy.MatrixBase):
            return a.shape == b.shape and all(map(self.is_same_number, a.flat(), b.flat()))
        try:
            difference = self.sympy.expand((a - b).doit())
        except (TypeError, AttributeError):
            return False
        if difference.is_Rational or difference.free_symbols:
            return bool(difference == 0)
        # sympy proves it by the minimal polynomial; None: it does not know.
        return difference.equals(0) is True

    def is_same_symbol(self, a: Any, b: Any) -> bool:
        """Where one is a symbol the other may be a term: `2x/2`. And E is not e."""
        sympy = self.sympy
        if isinstance(a, sympy.Symbol) and isinstance(b, sympy.Symbol):
            return bool(a.name == b.name or (len(a.name) > 1 and self._symbols_agree(a, b)))
        is_word = max(len(one.name) for one in (a, b) if isinstance(one, sympy.Symbol)) > 1
        if is_word and self._symbols_agree(a, b):
            return True
        return self.is_same_number(a, b) or bool(self._is_same_term(a, b))

    def has_same_solutions(self, gold: Any, answer: Any, *limits: int) -> bool:
        """Without taking two equations that have no solutions for one."""
        solve = self.sympy.solve
        if not solve(gold, gold.free_symbols) or not solve(answer, answer.free_symbols):
            return False
        return bool(self._solutions_agree(gold, answer, *limits))

    # -- canonical forms ---------------------------------------------------------------------------------------

    def value(self, formula: Any) -> Any:
        """The right side of `x = ...` and `f(x) = ...`, the last one of several; else the formula."""
        equations = getattr(formula, "_unsorted_args", None) or [formula]
        if not all(isinstance(equation, self.sympy.Eq) for equation in equations):
            return formula
        name = equations[0].lhs
        is_named = name.is_Symbol or isinstance(name, self.sympy.core.function.AppliedUndef)
        return equations[-1].rhs if is_named else formula

    def kind(self, formula: Any) -> str:
        sympy = self.sympy
        kinds = {
            "matrix": sympy.MatrixBase,
            "list": sympy.FiniteSet,
            "interval": sympy.Interval,
            "set": sympy.Set,
            "tuple": sympy.Tuple,
            "number": sympy.Expr,
        }
        return next((name for name, cls in kinds.items() if isinstance(formula, cls)), "relation")

    def key(self, formula: Any) -> str:
        """LaTeX of a form in which most equal formulas look equal; fractions as `p/q`. A digest of what is long."""
        sympy = self.sympy
        formula = self.simple(formula)
        text = str(formula) if isinstance(formula, sympy.Rational) else str(sympy.latex(formula))
        return text if len(text) <= MAX_KEY else f"{text[:40]} ... {sha256(text.encode()).hexdigest()}"

    def simple(self, formula: Any) -> Any:
        kind = self.kind(formula)
        if kind == "matrix":
            return self.sympy.ImmutableMatrix(formula.applyfunc(self.simple))
        if kind in ("list", "tuple"):
            cls = self.sympy.FiniteSet if kind == "list" else self.sympy.Tuple
            return cls(*map(self.simple, formula.args))
        if kind != "number":  # Done, a relation would be no more than true or false.
            return formula if kind == "relation" else formula.doit()
        formula = self.sympy.expand(formula.doit())
        return self.sympy.radsimp(formula) if not formula.free_symbols else formula

    def near(self, formula: Any) -> list[float] | None:
        """About the value of a number or term, its symbols standing for 1/3, 2/3, ...: what tells most from another."""
        if self.kind(formula) != "number":
            return None
        symbols = sorted(formula.free_symbols, key=str)
        places = {symbol: self.sympy.Rational(place, 3) for place, symbol in enumerate(symbols, start=1)}
        value = complex(formula.doit().subs(places).evalf(15))
        return [value.real, value.imag] if abs(value) < 1e300 else None

    def real(self, formula: Any) -> float | None:
        """About the value of a term without symbols."""
        value = None if formula is None or formula.free_symbols else self.near(formula)
        return None if value is None or value[1] else value[0]


def answer(algebra: Algebra, request: dict[str, Any]) -> dict[str, object]:
    """`read`: kind, key and value of one formula; `value`: about that of a term; `same`: are two the same? Else: is the
    answer, or what a text says, that of the gold?"""
    if "read" in request:
        formula = algebra.read(request["read"])
        if formula is None:
            return {"key": None}
        formula = algebra.value(formula)
        found: dict[str, object] = {"kind": algebra.kind(formula), "key": algebra.key(formula)}
        try:
            return {**found, "near": algebra.near(formula)}
        except (TypeError, ValueError, ArithmeticError):  # No number: infinity, a function without a name.
            return {**found, "near": None}
    if "value" in request:
        return {"value": algebra.real(algebra.value(algebra.read(request["value"])))}
    if "same" in request:
        a, b = (algebra.value(algebra.read(text)) for text in (request["same"], request["other"]))
        return {"equal": algebra.is_equal(a, b) and algebra.is_equal(b, a)}
    gold = algebra.read(request["gold"])
    given = algebra.find(request["text"]) if "text" in request else algebra.read(request["answer"])
    if gold is None or given is None:
        return {"equal": False, "key": None}
    if algebra.is_equal(gold, given):
        return {"equal": True, "key": ""}
    return {"equal": False, "key": algebra.key(algebra.value(given))}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(0)  # 2004! has more; time is limited anyway.
    # The channel is the true standard output; whatever a library prints goes to standard error.
    channel, sys.stdout = sys.stdout, sys.stderr
    algebra = Algebra()
    print(json.dumps({"ready": True}), file=channel, flush=True)
    # Nobody reads on: a full pipe would stop the process.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # It ends the process, whatever that is at.
    for line in sys.stdin:
        request = json.loads(line)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, request["limit"])
        try:
            reply = answer(algebra, request)
        except (Exception, RecursionError, MemoryError) as error:
            reply = {"error": told(error)[:200]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply["seconds"] = time.process_time() - start
        print(json.dumps(reply), file=channel, flush=True)


if __name__ == "__main__":
    main()
