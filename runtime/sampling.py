"""How `Branch.generate` samples and when it stops (`SamplingParams`), and what a model asks for (`SamplingDefaults`).

Both are checked when they are made: whatever they hold afterwards can be decoded with.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from .constraint import Constraint
from .errors import InvalidInput

MIN_TEMPERATURE = 1e-6
"""The smallest temperature but for 0: any float32 logits divided by it are finite in double precision."""
MAX_PENALTY = 1e6
"""Of a repetition penalty; the smallest is its inverse."""
MAX_TOP_K = 2**31 - 1
"""Larger ones, as large as no vocabulary is, are this: engines count in machine integers."""
MAX_STOP_CHARS = 16_384
"""Of all stop strings together: each new token is compared with every beginning of them."""
MAX_BIAS = 3.4028234663852886e38
"""Of a logit bias, either way: the largest float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What a model's makers sample with: what a method takes where its own fields say nothing. Fields as in
    `SamplingParams`. Raises `InvalidInput`, naming the field."""

    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _check_shape(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How `Branch.generate` samples and when it stops.

    What shapes the distribution is applied in the order in which transformers' `generate` does it: `logit_bias`,
    repetition penalty, `forbidden_ids` and `constraint`, temperature, top-k, top-p, min-p. Each looks at what the one
    before left.

    Raises `InvalidInput`, naming the field. What depends on the vocabulary is checked by `generate`
    (`check_vocabulary`).
    """

    max_tokens: int | None = None
    """New tokens at most; None: as many as the context allows; 0: only prefill what is pending."""
    temperature: float = 0.0
    """0 is greedy (the lowest id among equal logits); else finite and at least `MIN_TEMPERATURE`, 1e-6."""
    top_k: int = 0
    """Only the k likeliest tokens, and those as likely as the k-th; 0: off."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability, above 0; 1: off."""
    min_p: float = 0.0
    """Only tokens at least this share of the likeliest one's probability; 0: off."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens in the branch's view if positive, else multiplies them (arXiv 1909.05858, section
    4.1); from 1e-6 to 1e6, 1: off."""
    stop: tuple[str, ...] = ()
    """Strings, none of them empty, that end generation; they may span tokens. Of those that one token completes
    the one that begins first counts, of several that begin there the one listed first. What was generated past it is
    rolled back."""
    include_stop: bool = False
    """True: the branch keeps the stop string (as the shortest run of tokens that holds it). False: the branch is rolled
    back to the longest run of tokens that ends before it."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end generation, as EOS does; the token itself stays in `Completion.token_ids` and in the branch."""
    ignore_eos: bool = False
    forced: tuple[int, ...] = ()
    """Tokens to take instead of sampling, in order, one per step as if they had been sampled: replays, and the
    log-probabilities of a given text. Sampling goes on behind them; limits and stop conditions hold for them too."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens; finite float32 numbers."""
    forbidden_ids: tuple[int, ...] = ()
    """Tokens that are never sampled."""
    constraint: Constraint | None = None
    """What the new text, `forced` tokens included, must look like: only tokens behind which it can go on are sampled,
    and EOS or a stop token only where it is complete. Limits and stop strings may end it before. Not with
    `ignore_eos`."""
    constrained: tuple[int, ...] = ()
    """What was written under the constraint before: it holds for these tokens and the new ones as one text."""
    logprobs: int | None = None
    """None: none; 0: of the sampled token; k: also of the k most likely. Natural log, after temperature is *not*
    applied, nor a constraint: they are the model's own log-probabilities."""
    hidden_state: bool = False
    """Fill `Completion.hidden_state`. Needs `hidden_states`; engines without leave it None."""
    certainty: bool = False
    """Fill `Completion.certainty`. Needs the capability of that name; engines without leave it None."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "logprobs"):
            if (value := getattr(self, name)) is not None:
                _check_int(name, value)
        _check_shape(self)
        for name in ("include_stop", "ignore_eos", "hidden_state", "certainty"):
            if not isinstance(value := getattr(self, name), bool):
                raise InvalidInput(f"{name} must be true or false, not {_shown(value)}")
        # Copies: what was checked must not change afterwards.
        object.__setattr__(self, "stop", _sequence("stop", self.stop))
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise InvalidInput(f"stop must hold strings that are not empty, not {_shown(text)}")
        check_stop(self.stop)
        for name in ("stop_token_ids", "forced", "forbidden_ids", "constrained"):
            ids = _sequence(name, getattr(self, name))
            object.__setattr__(self, name, ids)
            for token in ids:
                _check_int(name, token)
        if self.constraint is not None and not isinstance(self.constraint, Constraint):
            raise InvalidInput(f"constraint must be a Constraint, not a {type(self.constraint).__name__}")
        if self.constraint is not None and self.ignore_eos:
            raise InvalidInput("a text under a constraint ends when it is complete: leave out ignore_eos")
        if self.constrained and self.constraint is None:
            raise InvalidInput("constrained is for texts under a constraint, and there is none")
        if not isinstance(self.logit_bias, Mapping):
            raise InvalidInput(f"logit_bias must map token ids to numbers, not be a {type(self.logit_bias).__name__}")
        for token, bias in self.logit_bias.items():
            _check_int("logit_bias", token)
            _check_number("logit_bias", bias, -MAX_BIAS, MAX_BIAS)
        object.__setattr__(self, "logit_bias", {token: float(bias) for token, bias in self.logit_bias.items()})

    def check_vocabulary(self, size: int) -> None:
        """Raise `InvalidInput` for what a model of `size` tokens cannot do."""
        for name in ("stop_token_ids", "forced", "forbidden_ids", "constrained", "logit_bias"):
            ids = getattr(self, name)
            if ids and (token := max(ids)) >= size:
                raise InvalidInput(f"{name}: token id {_shown(token)} is outside the vocabulary of {size}")
        if self.logprobs is not None and self.logprobs > size:
            raise InvalidInput(f"logprobs: {_shown(self.logprobs)} are more than the vocabulary of {size} tokens")
        if len(self.forbidden_ids) >= size and len(set(self.forbidden_ids)) == size:
            raise InvalidInput(f"forbidden_ids: all {size} tokens of the vocabulary are forbidden")


def check_temperature(value: float) -> float:
    """The temperature itself; raises `InvalidInput`."""
    _check_number("temperature", value, 0.0, sys.float_info.max)
    if 0 < value < MIN_TEMPERATURE:
        raise InvalidInput(f"temperature must be 0 (greedy) or at least {MIN_TEMPERATURE:g}, not {value!r}")
    return value


def check_stop(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The stop strings themselves; raises `InvalidInput` if they are too long."""
    if (length := sum(map(len, texts))) > MAX_STOP_CHARS:
        raise InvalidInput(f"stop: {length} characters; all stop strings together may have {MAX_STOP_CHARS}")
    return texts


def _check_shape(p: SamplingParams | SamplingDefaults) -> None:
    check_temperature(p.temperature)
    _check_int("top_k", p.top_k)
    object.__setattr__(p, "top_k", min(p.top_k, MAX_TOP_K))
    _check_number("top_p", p.top_p, 0.0, 1.0)
    if p.top_p == 0:
        raise InvalidInput("top_p must be above 0: nothing would be left to sample from")
    _check_number("min_p", p.min_p, 0.0, 1.0)
    _check_number("repetition_penalty", p.repetition_penalty, 1 / MAX_PENALTY, MAX_PENALTY)
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        object.__setattr__(p, name, float(getattr(p, name)))  # engines hand them to code that takes no integers


def _check_int(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(f"{name} takes integers, not {_shown(value)}")
    if value < 0:
        raise InvalidInput(f"{name} must not be negative, as {_shown(value)} is")


def _check_number(name: str, value: object, least: float, most: float) -> None:
    """A finite number from `least` to `most`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InvalidInput(f"{name} takes numbers, not {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if not least <= number <= most:  # NaN is neither
        raise InvalidInput(f"{name} must be a number from {least:g} to {most:g}, not {number!r}")


def _sequence(name: str, value: object) -> tuple[object, ...]:
    if not isinstance(value, (tuple, list)):
        raise InvalidInput(f"{name} must be a tuple, not {type(value).__name__}")
    return tuple(value)


def _shown(value: object) -> str:
    """For a message: Python does not write out integers of thousands of digits."""
    if isinstance(value, int) and abs(value) > sys.maxsize:
        return "an integer of that size"
    return repr(value)[:40] if isinstance(value, (int, float, str, bytes)) else f"a {type(value).__name__}"
