"""What a server was made to do, by its own count where it gives one, as it would bill it."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ...price import Price
from .chunks import Usage


@dataclass(slots=True, kw_only=True)
class ServerUsage:
    """The sum over all requests that were answered, if only in part."""

    requests: int = 0
    """Those that were not answered too."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens: read before."""
    generated_tokens: int = 0

    def cost(self, price: Price) -> float:
        new = self.prompt_tokens - self.cached_tokens
        return price.of(input=new, cached=self.cached_tokens, output=self.generated_tokens)


class Account:
    """One request: what the server said of it goes into the sum when it is left, or what was seen if it said nothing
    before it was cut off."""

    def __init__(self, total: ServerUsage, prompt: int) -> None:
        """`prompt`: its tokens, as the engine counts them."""
        self.said: Usage | None = None
        """The last count: some servers send one in every chunk."""
        self.is_final = False
        """Is it that of the whole answer?"""
        self.written = 0
        """Tokens seen so far."""
        self.is_answered = False
        self._total = total
        self._prompt = prompt

    def __enter__(self) -> Self:
        self._total.requests += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.said is not None or self.is_answered:
            said = self.said or Usage()
            prompt = self._prompt if said.prompt_tokens is None else said.prompt_tokens
            # Some servers do not count what was cached among the prompt's tokens.
            self._total.prompt_tokens += max(prompt, said.cached_tokens)
            self._total.cached_tokens += said.cached_tokens
            if self.is_final and said.completion_tokens is not None:
                self._total.generated_tokens += said.completion_tokens
            else:
                self._total.generated_tokens += max(said.completion_tokens or 0, self.written)
