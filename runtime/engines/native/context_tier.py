"""`ContextTier`: moves encoded contexts between the KV pool and their files.

The pool is the first tier: `KVStore` keeps encoded contexts cached until others need the memory. A context that is not
there is looked for on disk before it is encoded: the engine's thread reads one between two forward passes. A context
that was encoded is written by a thread of its own, which copies it layer by layer and holds nothing back meanwhile: one
that leaves the pool before it was written is just not written.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...engine import Tokenizer
from .context_files import ContextFiles
from .model import Model
from .model_files import ModelFiles
from .options import NativeOptions
from .pool import KVPool
from .segment import Segment
from .store import KVStore

logger = logging.getLogger(__name__)

TEXT_TOKENS = 24
"""Of a context that a listing shows."""


class ContextEngine(Protocol):
    """What a `ContextTier` needs of the engine whose contexts it moves."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> NativeOptions: ...
    @property
    def model(self) -> Model: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def pool(self) -> KVPool: ...
    @property
    def store(self) -> KVStore: ...
    @property
    def lock(self) -> threading.RLock: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...


class ContextTier:
    """Belongs to one engine. `engine.lock` guards the queues."""

    def __init__(self, engine: ContextEngine, files: ContextFiles, weights: ModelFiles) -> None:
        """`weights`: what the engine's model was loaded from."""
        self.files = files
        self._engine = engine
        self._weights = weights
        self._fingerprint: str | None = None
        self._is_off = False
        """Are the weights on disk no longer those of the engine? Nothing can be filed under them then."""
        self._hashing = threading.Lock()
        self._loads: deque[tuple[Segment, Callable[[int], None]]] = deque()
        self._writes: deque[Segment] = deque()
        self._wakeup = threading.Condition(engine.lock)
        self._is_closed = False
        self._is_busy = False
        self._written = asyncio.Event()
        self._writer = threading.Thread(target=self._write_all, name="plait-contexts", daemon=True)

    @property
    def fingerprint(self) -> str | None:
        """What the files depend on but the text; reads all weights when it is asked for first. None, with a warning the
        first time, if they are no longer those that the engine loaded."""
        with self._hashing:
            if self._fingerprint is None and not self._is_off:
                self._fingerprint = self._compute_fingerprint()
                self._is_off = self._fingerprint is None
                if self._is_off:
                    logger.warning(
                        "the files of the model %s have changed since it was loaded: no contexts are read from disk or "
                        "written to it until it is loaded again",
                        self._engine.name,
                    )
            return self._fingerprint

    def _compute_fingerprint(self) -> str | None:
        engine = self._engine
        # The layers: which frequencies a RoPE type uses may depend on the context limit.
        model = engine.model
        settings: tuple[object, ...] = model.dtype, model.arithmetic, engine.pool.block_size, model.config.layers
        if engine.pool.dtype != model.dtype:
            settings += (engine.pool.dtype,)
        if engine.options.weights is not None:
            settings += (engine.options.weights,)
        weights = self._weights.digest()
        return (
            None if weights is None else hashlib.blake2b(repr(settings).encode() + weights, digest_size=16).hexdigest()
        )

    # -- from disk; `request` on the event loop, `load_one` on the engine's thread -----------------------------------

    def request(self, segment: Segment, note_reused: Callable[[int], None]) -> None:
        """Look for a context on disk before its first token is computed. `note_reused` gets the number of tokens that
        were found, under the engine's lock."""
        segment.is_loading = True
        self._loads.append((segment, note_reused))

    @property
    def has_loads(self) -> bool:
        return bool(self._loads)

    def load_one(self) -> None:
        """Bring the next requested context into the pool, or leave it to be encoded."""
        engine = self._engine
        with engine.lock:
            segment, note_reused = self._loads.popleft()
            name, tokens, version = segment.name, list(segment.tokens), segment.version
        found = None if name is None else self._read(name, tokens)
        with engine.lock:
            segment.is_loading = False
            is_wanted = found is not None and segment.refs and segment.version == version
            if not is_wanted or not engine.store.reserve(segment, len(tokens)):
                return
            blocks = torch.from_numpy(segment.blocks.astype("int64")).to(engine.model.device)
        assert found is not None
        keys, values = found
        pool = engine.pool
        # Should the last view let go meanwhile: nobody but this thread writes to the pool, so its blocks are not reused
        # before the copy is done.
        for layer in range(len(pool.k)):
            pool.k[layer][blocks] = keys[layer].to(engine.model.device)
            pool.v[layer][blocks] = values[layer].to(engine.model.device)
        with engine.lock:
            if segment.refs and segment.version == version:
                engine.store.advance(segment, len(tokens))
                engine.store.finished.remove(segment)  # it is on disk already
                note_reused(len(tokens))

    def _read(self, name: bytes, tokens: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        fingerprint = self.fingerprint
        return None if fingerprint is None else self.files.read(fingerprint, name, tokens)

    # -- to disk -----------------------------------------------------------------------------------------------------

    def save(self, segments: Sequence[Segment]) -> None:
        """Have encoded contexts written; under the engine's lock."""
        if segments and not self._writer.is_alive():
            self._writer.start()
        self._writes.extend(segments)
        self._wakeup.notify_all()

    async def drain(self) -> None:
        """Wait until everything is written."""
        while self._writes or self._is_busy:
            self._written.clear()
            await self._written.wait()

    async def close(self) -> None:
        """Write what waits, and end the thread."""
        with self._wakeup:
            self._is_closed = True
            self._wakeup.notify_all()
        await self.drain()
        if self._writer.is_alive():
            self._writer.join()

    def _write_all(self) -> None:
        while True:
            with self._wakeup:
                self._is_busy = False
                self._engine.loop.call_soon_threadsafe(self._written.set)
                while not self._writes:
                    if self._is_closed:
                        return
                    self._wakeup.wait()
                segment = self._writes.popleft()
                self._is_busy = True
            try:
                self._write(segment)
            except Exception as error:  # the thread goes on, for who waits until everything is written
                logger.warning("a context could not be written: %r", error)

    def _write(self, segment: Segment) -> None:
        engine, name, tokens = self._engine, segment.name, segment.tokens
        if name is None or (fingerprint := self.fingerprint) is None or self.files.holds(fingerprint, name):
            return
        copied = self._copy(segment, name)
        if copied is not None:
            text = engine.tokenizer.decode(tokens[:TEXT_TOKENS])
            self.files.write(fingerprint, name, tokens, *copied, model=engine.name, text=text)

    def _copy(self, segment: Segment, name: bytes) -> tuple[Tensor, Tensor] | None:
        """Its keys and values; None if it left the pool."""
        engine, pool = self._engine, self._engine.pool
        keys, values = [], []
        for layer in range(len(pool.k)):
            with engine.lock:
                if segment.name != name or segment.num_swapped:
                    return None
                blocks = torch.from_numpy(segment.blocks.astype("int64")).to(engine.model.device)
                keys.append(pool.k[layer][blocks].cpu())
                values.append(pool.v[layer][blocks].cpu())
        tail = len(segment.tokens) % pool.block_size
        if tail:  # what the last block held before is nobody's business
            for k, v in zip(keys, values, strict=True):
                pool.clear(k[-1], v[-1], tail)
        return torch.stack(keys), torch.stack(values)
