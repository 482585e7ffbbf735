"""`TokenFeed`: a generation's tokens on their way to whoever iterates over them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


class TokenFeed:
    """Tokens in order, each of which every reader gets, whenever it begins. For the event loop's thread."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._is_over = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tokens)

    def put(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens
        self._changed.set()

    def end(self) -> None:
        """Nothing follows; idempotent."""
        self._is_over = True
        self._changed.set()

    async def at(self, index: int) -> int | None:
        """The token, as soon as it is there; None behind the last one."""
        while index >= len(self._tokens) and not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        return self._tokens[index] if index < len(self._tokens) else None
