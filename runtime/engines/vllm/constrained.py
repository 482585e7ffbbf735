"""Constraints in vLLM's own processes: where each request's text is in its constraint, and a mask on its logits.

The same `Matcher` as everywhere says which tokens may come, so that a text is the native engine's: vLLM's own
structured outputs begin anew with each request, mask the log-probabilities too and know one end-of-sequence token. The
engine follows each text with a matcher of its own, since vLLM's processes cannot say that it came to a dead end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from ...constraint import Constraint
from ...sampling import SamplingParams
from ..constraints.matcher import Compiler, Matcher

if TYPE_CHECKING:
    from torch import Tensor

KEY = "plait"
"""Of what a request brings along, in vLLM's `extra_args`."""
NOTHING = 0
"""The token that is taken where the library's limits are reached; `follow` knows."""


def arguments(params: SamplingParams, given: Sequence[int], ends: Sequence[int] = ()) -> dict[str, Any] | None:
    """For `extra_args`; `given`: tokens of the text that are in the request's prompt. Where one of `ends` is among
    them, nothing but log-probabilities is wanted, and what vLLM samples all the same goes on before it."""
    if params.constraint is None:
        return None
    before = [*params.constrained, *takewhile(lambda token: token not in ends, given)]
    return {KEY: {**asdict(params.constraint), "before": before, "stop": list(params.stop_token_ids)}}


def follow(matcher: Matcher, token: int, size: int) -> bool:
    """Go on behind a token that vLLM gave, of a vocabulary of `size`; False: the text had come to a dead end."""
    if token == NOTHING and not bool(matcher.allowed(size)[token]):
        return False
    return matcher.admits(token)


class Text:
    """What one request writes under its constraint."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._taken = 0

    def mask(self, logits: Tensor, written: Sequence[int]) -> None:
        """Rule out what may not come next, in place; `logits` (V,), `written`: all tokens so far."""
        for token in written[self._taken :]:
            self._matcher.advance(token)
        self._taken = len(written)
        allowed = self._matcher.allowed(len(logits))
        logits[~allowed.to(logits.device)] = float("-inf")
        if not logits.isfinite().any():
            logits[self._refused(len(logits))] = 0.0

    def _refused(self, size: int) -> int:
        """A token that the engine's matcher, which follows the same text, will not take."""
        if self._matcher.error is not None:
            return NOTHING
        return next((token for token in range(size) if not self._matcher.could(token)), NOTHING)


class Texts:
    """Makes `Text`s in one process of vLLM's."""

    def __init__(self, tokenizer: object) -> None:
        self._compiler = Compiler(tokenizer, "vllm")

    def begin(self, extra_args: dict[str, Any] | None) -> Text | None:
        """For a request with these; None: it is free. Never raises for what the engine has let through."""
        wanted = (extra_args or {}).get(KEY)
        if wanted is None:
            return None
        params = SamplingParams(
            constraint=Constraint(kind=wanted["kind"], source=wanted["source"]),
            constrained=tuple(wanted["before"]),
            stop_token_ids=tuple(wanted["stop"]),
        )
        matcher = self._compiler.matcher(params)
        assert matcher is not None
        return Text(matcher)
