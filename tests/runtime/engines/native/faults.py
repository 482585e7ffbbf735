"""Faults, each put into one engine once: what it raises, or what it computes, at the n-th call of what it hits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from plait.runtime.engines.native import results
from plait.runtime.engines.native.drafting import Drafter
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.sampling import NO_TOKEN


class Injected(Exception):
    """What a broken part raises."""


class Panic(BaseException):
    """As a compiled library does that has lost itself: it is no `Exception`."""


class Fault:
    """Waits until its turn; `has_struck` tells whether that came."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.patch = patch
        self.left = at
        self.has_struck = False

    def is_due(self) -> bool:
        self.left -= 1
        self.has_struck = self.has_struck or self.left == 0
        return self.left == 0

    def raises(
        self, owner: Any, *names: str, error: Callable[[str], BaseException] = Injected,
        when: Callable[..., bool] = lambda *_, **__: True,
    ) -> None:  # fmt: skip
        """Let the n-th call of any of these, of those for which `when` holds, raise."""
        for name in names:
            real = getattr(owner, name)

            def broken(*given: Any, _real: Any = real, _name: str = name, **named: Any) -> Any:
                if when(*given, **named) and self.is_due():
                    raise error(f"{_name} is broken")
                return _real(*given, **named)

            self.patch.setattr(owner, name, broken)

    def spoils(self, engine: NativeEngine, value: float) -> None:
        """Let the n-th pass give one generation logits that are no numbers."""
        forward, decode = engine.model.forward, engine.model.decode

        def poor(*given: Any, **named: Any) -> Any:
            logits, hidden = forward(*given, **named)
            if len(logits) and self.is_due():
                logits = logits.clone()
                logits[len(logits) // 2, 0] = value
            return logits, hidden

        def poor_burst(*given: Any, **named: Any) -> Any:
            decoded = decode(*given, **named)
            if self.is_due():
                decoded.tokens[-1, decoded.tokens.shape[1] // 2] = NO_TOKEN
            return decoded

        self.patch.setattr(engine.model, "forward", poor)
        self.patch.setattr(engine.model, "decode", poor_burst)


def _is_prefill(*given: Any, **_: Any) -> bool:
    return bool(given[3].is_prefill.any())


FAULTS: dict[str, Callable[[Fault, NativeEngine], None]] = {
    "NaN": lambda fault, engine: fault.spoils(engine, math.nan),
    "infinity": lambda fault, engine: fault.spoils(engine, math.inf),
    "kernel": lambda fault, engine: fault.raises(engine.model, "forward", "decode"),
    "kernel's panic": lambda fault, engine: fault.raises(engine.model, "forward", "decode", error=Panic),
    "out of memory in prefill": lambda fault, engine: fault.raises(
        engine.model, "forward", error=torch.OutOfMemoryError, when=_is_prefill
    ),
    "out of memory in bookkeeping": lambda fault, engine: fault.raises(engine.store, "reserve", error=MemoryError),
    "keys and values on their way out": lambda fault, engine: fault.raises(engine.store.swap, "save"),
    "keys and values on their way back": lambda fault, engine: fault.raises(engine.store.swap, "load"),
    "planning": lambda fault, engine: fault.raises(engine.scheduler._planner, "fill"),
    "sampling": lambda fault, engine: fault.raises(results, "sample", "greedy"),
    "drafting": lambda fault, engine: fault.raises(Drafter, "guess"),
    "tokenizer's decoding": lambda fault, engine: fault.raises(engine.tokenizer, "decode"),
    "tokenizer's encoding": lambda fault, engine: fault.raises(engine.tokenizer, "encode"),
}


@contextmanager
def fault(engine: NativeEngine, name: str, at: int) -> Iterator[Fault]:
    with pytest.MonkeyPatch.context() as patch:
        one = Fault(patch, at)
        FAULTS[name](one, engine)
        yield one
