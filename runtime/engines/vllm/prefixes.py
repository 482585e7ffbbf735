"""`Prefixes`: who computes which beginning of a text, so that what shares it waits instead of computing it too."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence


class Prefixes:
    """Blocks of tokens that a prefix cache holds, or soon will.

    A block is known by all tokens up to its end. `turn` gives a request its turn once nobody else computes blocks that
    it needs: of branches that fork from a text that is not computed yet, one goes first, the others find its blocks.
    """

    def __init__(self, block_size: int, capacity: int) -> None:
        """`capacity`: blocks that the cache holds."""
        self._block_size = block_size
        self._capacity = capacity
        self._known: OrderedDict[int, None] = OrderedDict()
        """What was computed, the last used at the end: at most what the cache holds."""
        self._pending: dict[int, asyncio.Event] = {}

    async def turn(self, tokens: Sequence[int]) -> Callable[[bool], None]:
        """Wait, then say by what is returned, once, that the text is computed (True) or will not be (False)."""
        blocks = self._blocks(tokens)
        while (other := self._computing(blocks)) is not None:
            await other.wait()
        done = asyncio.Event()
        own = [block for block in blocks if block not in self._known]
        self._pending |= dict.fromkeys(own, done)

        def finish(is_computed: bool) -> None:
            for block in own:
                if self._pending.get(block) is done:
                    del self._pending[block]
            if is_computed:
                self._note(blocks)
            done.set()

        return finish

    def _computing(self, blocks: Sequence[int]) -> asyncio.Event | None:
        """Who computes the first of these blocks that is not known."""
        return next((self._pending.get(block) for block in blocks if block not in self._known), None)

    def remember(self, tokens: Sequence[int]) -> None:
        """What was computed by the way: generated texts."""
        self._note(self._blocks(tokens))

    def _note(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._known[block] = None
            self._known.move_to_end(block)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def _blocks(self, tokens: Sequence[int]) -> list[int]:
        """One number for each whole block: of the tokens up to its end."""
        size, before, blocks = self._block_size, 0, []
        for end in range(size, len(tokens) + 1, size):
            before = hash((before, *tokens[end - size : end]))
            blocks.append(before)
        return blocks
