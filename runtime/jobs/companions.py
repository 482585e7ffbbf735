"""Engines of other models that jobs use beside the runtime's own, such as reward models."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..engine import Engine
from ..engines.registry import load_engine

logger = logging.getLogger(__name__)


class Companions:
    """Loads each model when a job first asks for it; all are closed with the runtime."""

    def __init__(self) -> None:
        self._engines: dict[object, Engine] = {}
        self._lock = asyncio.Lock()

    async def get(self, model: str, **options: Any) -> Engine:
        """The started engine of a model, named and loaded as for `Runtime`; loading blocks the event loop. Raises
        `UnknownModel` and what else loading raises."""
        key = model, tuple(sorted(options.items()))
        async with self._lock:
            if key not in self._engines:
                engine = load_engine(model, options)
                await engine.start()
                logger.info("loaded %s beside the runtime's own model", model)
                self._engines[key] = engine
            return self._engines[key]

    async def close(self) -> None:
        """Close them all; idempotent."""
        while self._engines:
            await self._engines.popitem()[1].close()
