"""Engines of other models that jobs use beside the runtime's own, such as reward models."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from typing import Any

from ..engine import Engine
from ..engines.loading import load_in_thread
from ..engines.registry import load_engine

logger = logging.getLogger(__name__)


class Companions:
    """Loads each model when a job first asks for it; all are closed with the runtime."""

    def __init__(self) -> None:
        self._engines: dict[object, Engine] = {}
        self._locks: defaultdict[object, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, model: str, **options: Any) -> Engine:
        """The started engine of a model, named and loaded as for `Runtime`, in a thread and once however many ask.
        Raises `UnknownModel` and what else loading raises."""
        key = model, json.dumps(options, sort_keys=True, default=repr)
        async with self._locks[key]:
            if key not in self._engines:
                engine = await load_in_thread(lambda: load_engine(model, options))
                try:
                    await engine.start()
                except BaseException:
                    await engine.close()
                    raise
                logger.info("loaded %s beside the runtime's own model", model)
                self._engines[key] = engine
            return self._engines[key]

    async def close(self) -> None:
        """Close them all; idempotent."""
        self._locks.clear()  # A lock belongs to the first event loop in which somebody waited for it.
        while self._engines:
            await self._engines.popitem()[1].close()
