"""`Compiler` and `Matcher`: which tokens may come next under a constraint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...constraint import Constraint
from ...errors import InvalidInput
from ...printable import printable
from ...sampling import SamplingParams
from .lark import as_lark
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits
    from torch import Tensor

_KEPT = 32
"""Compiled constraints, by when they were last asked for."""
_SHOWN = 300
"""Characters of the library's messages in ours."""
_COERCE = "Enable 'coerce_one_of' option to approximate oneOf with anyOf"
"""What its messages say of an option that schemas do not set here."""


class Compiler:
    """Constraints for one model."""

    def __init__(self, tokenizer: object, engine: str) -> None:
        self._tokenizer = tokenizer
        self._engine = engine
        self._vocabulary: Vocabulary | None = None
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()

    @property
    def vocabulary(self) -> Vocabulary:
        """Made at the first call. Raises `UnsupportedByEngine` and `InvalidInput`, as `Vocabulary` does."""
        if self._vocabulary is None:
            self._vocabulary = Vocabulary.of(self._tokenizer, self._engine)
        return self._vocabulary

    def check(self, constraint: Constraint) -> None:
        """Raise `InvalidInput` for what is malformed, too large, not supported, or cannot be written at all."""
        self._find(constraint)

    def matcher(self, params: SamplingParams) -> Matcher | None:
        """For a generation with these parameters; None: it is free. Raises `InvalidInput`, as `check` does, and for
        given tokens (`constrained`, `forced`) that the constraint does not allow."""
        if params.constraint is None:
            return None
        matcher = Matcher(self._find(params.constraint).deep_copy(), self.vocabulary, params.stop_token_ids)
        _check("constrained", params.constrained, matcher.take(params.constrained))
        _check("forced", params.forced, matcher.could_write(params.forced))
        return matcher

    def _find(self, constraint: Constraint) -> LLMatcher:
        found = self._compiled.get(constraint)
        if found is None:
            found = self._compiled[constraint] = compiled(constraint, self.vocabulary)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(constraint)
        return found


def _check(name: str, tokens: Sequence[int], allowed: int) -> None:
    if allowed < len(tokens):
        raise InvalidInput(f"{name}: the constraint does not allow token {tokens[allowed]} in place {allowed}")


class Matcher:
    """Where one text is in its constraint. The state depends on the text's tokens alone."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, stop_ids: Sequence[int] = ()) -> None:
        """`stop_ids`: tokens that end the text as EOS does, and may come where it may, and nowhere else."""
        self._matcher = matcher
        self._size = vocabulary.size
        self._is_open = vocabulary.is_open
        self._stop_ids = list(stop_ids)
        self._ends = {*stop_ids, *vocabulary.eos_ids}
        self._is_lost = False
        self._raised: str | None = None

    @property
    def error(self) -> str | None:
        """What became too much for the library's limits; nothing is allowed from then on."""
        if self._raised is not None:
            return self._raised
        if not (self._is_lost or self._matcher.is_error()):
            return None
        return _first(self._matcher.get_error())

    @property
    def is_complete(self) -> bool:
        """May the text end here?"""
        return self._matcher.is_accepting()

    def allowed(self, size: int) -> Tensor:
        """(size,) bool: the tokens that may come next, of a model whose logits are so many; none after an error."""
        mask: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        try:
            self._allow(mask)
        except BaseException as error:  # of the library, or its panic: it is this text's matter alone
            self._raised = f"{type(error).__name__}: {error}"
            mask[:] = False
        import torch  # heavy, and engines without logits do without

        return torch.from_numpy(mask)

    def _allow(self, mask: NDArray[np.bool_]) -> None:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self.error is not None:
            return
        count = min(self._size, len(mask))
        mask[:count] = np.unpackbits(bits, count=count, bitorder="little")
        if self._is_open:
            mask[self._dead_ends(mask.nonzero()[0].tolist())] = False
        mask[self._stop_ids] = self.is_complete

    def _dead_ends(self, tokens: Sequence[int]) -> list[int]:
        """Those that no token goes on behind."""
        found, ahead = [], self._matcher.deep_copy()
        for token in tokens:
            # EOS is none of the constraint's, and ends the text.
            if ahead.try_consume_tokens([token]):
                if not any(ahead.compute_bitmask()) or ahead.is_error():
                    found.append(token)
                if not ahead.is_error():
                    ahead.rollback(1)  # a third of what another copy takes
            if ahead.is_error():
                ahead = self._matcher.deep_copy()
        return found

    def take(self, tokens: Sequence[int]) -> int:
        """Go on behind these tokens, as far as they are allowed; how many are."""
        return self._matcher.try_consume_tokens(list(tokens)) if tokens else 0

    def advance(self, token: int) -> None:
        """Go on behind a token that is allowed; it may take the library to its limits all the same."""
        self._is_lost = self._is_lost or not self.take([token])

    def admits(self, token: int) -> bool:
        """Go on behind a token that came from elsewhere, if it may come next."""
        return self.is_complete if token in self._ends else bool(self.take([token]))

    def could(self, token: int) -> bool:
        """May this token come next? Stays where it is."""
        return bool(self.could_write([token]))

    def could_write(self, tokens: Sequence[int]) -> int:
        """How many of these tokens may come, one behind another; stays where it is. What stands behind one that ends
        the text never comes, whatever it is."""
        end = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        count: int = self._matcher.validate_tokens(list(tokens[:end])) if end else 0
        if count < end or end == len(tokens):
            return count
        ahead = self._matcher.deep_copy()
        ahead.try_consume_tokens(list(tokens[:end]))
        return len(tokens) if ahead.is_accepting() else end


def dead_end(path: Sequence[int], matcher: Matcher) -> str:
    """What to say where no token goes on."""
    if (error := matcher.error) is not None:
        return f"branch {tuple(path)}: the constraint became too complex: {error}"
    return f"branch {tuple(path)}: the model has no token that the constraint allows here and nothing else forbids"


def check_text(constraint: Constraint) -> None:
    """Raise `InvalidInput`, as `Compiler.check` does for a model that can write any text."""
    compiled(constraint, Vocabulary.of_bytes())


def accepts(constraint: Constraint, text: str) -> bool:
    """Does the whole text fulfil the constraint? Raises `InvalidInput`, as `Compiler.check` does."""
    matcher = compiled(constraint, Vocabulary.of_bytes()).deep_copy()
    given = list(text.encode("utf-8", "surrogatepass"))
    return matcher.try_consume_tokens(given) == len(given) and bool(matcher.is_accepting())


def compiled(constraint: Constraint, vocabulary: Vocabulary) -> LLMatcher:
    """At the beginning of a text. Raises `InvalidInput`."""
    from llguidance import LLMatcher

    matcher = LLMatcher(vocabulary.tokens, as_lark(constraint), log_level=0, limits=_limits())
    if matcher.is_error():
        raise InvalidInput(f"{constraint.kind} constraint: {_first(matcher.get_error())}")
    if not any(matcher.compute_bitmask()) or matcher.is_error():
        raise InvalidInput(f"{constraint.kind} constraint: no text of this model's tokens fulfils it")
    return matcher


def _limits() -> LLParserLimits:
    """A few hundredths of a second a token, and 50 MB, at most."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_items_in_row=2_000,
        max_lexer_states=25_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def _first(message: str) -> str:
    """What a message of the library says, without its excerpts of the grammar."""
    line = message.strip().splitlines()[0] if message.strip() else "it cannot be followed"
    if line.startswith("at ") and ": " in line:
        line = line.partition(": ")[2]
    if detail := next((one for one in message.splitlines() if one.strip().startswith("error: ")), ""):
        line = f"{line.removesuffix(':')}: {detail.strip().removeprefix('error: ')}"
    return printable(line.replace(_COERCE, "Use anyOf")[:_SHOWN])
