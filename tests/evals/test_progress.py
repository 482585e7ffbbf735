from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from plait.evals.progress import progress


async def test_a_cancellation_as_the_block_ends_is_not_lost():
    shown = io.StringIO()

    async def run():
        async with progress(Console(file=shown), "one", 0, 1):
            asyncio.current_task().cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(run())
    assert "one: 0/1" in shown.getvalue()
