"""Embeddings of steps, for diversity: the policy's own hidden states, a sentence-transformers model, or a function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from ..runtime.engine import Engine
from ..runtime.errors import InvalidInput, InvalidJob, UnsupportedByEngine
from .functions import excerpt, function, name_of
from .node import Node

HIDDEN = "hidden"
_SENTENCE = "sentence-transformers:"


def parse_embedding(value: object) -> str:
    """The name; a function that is given itself gets one. Raises `InvalidJob`."""
    if not (isinstance(value, str) or callable(value)):
        raise InvalidJob(f"an embedding is a name or a function, not {type(value).__name__}")
    return value if isinstance(value, str) else name_of(value)


def check_embedding(name: str, engine: Engine) -> None:
    """Raise what is wrong with it, before any work."""
    if name == HIDDEN:
        if not engine.capabilities.hidden_states:
            raise UnsupportedByEngine(
                f"engine {engine.name} gives no hidden states to embed steps with: use the native engine, "
                "embedding='sentence-transformers:MODEL', a function, or coverage_weight=0"
            )
    elif name.startswith(_SENTENCE):
        if find_spec("sentence_transformers") is None:
            raise InvalidInput(f"embedding {name!r} needs the package sentence-transformers: pip install it")
    else:
        function(name)


async def embed(name: str, nodes: Sequence[Node], executor: Executor) -> None:
    """Fill in `Node.embedding` from the texts of the steps; hidden states are there since the step was written.

    Sentence models run in `executor`. Raises `InvalidInput` where a function gives no vectors.
    """
    if name == HIDDEN:
        return
    texts = [node.text for node in nodes]
    if name.startswith(_SENTENCE):
        vectors = await asyncio.get_running_loop().run_in_executor(
            executor, _encode, name.removeprefix(_SENTENCE), texts
        )
    else:
        vectors = function(name)(texts)
        if inspect.isawaitable(vectors):
            vectors = await vectors
    for node, vector in zip(nodes, _checked(name, vectors, len(nodes)), strict=True):
        node.embedding = vector


def _checked(name: str, found: Any, count: int) -> list[list[float]]:
    """The vectors. Raises `InvalidInput`, naming the embedding, for what is not `count` of one length."""
    gave = f"the embedding {name!r} gave"
    try:
        vectors = [[float(x) for x in vector] for vector in found]
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{gave} what is no list of vectors: {excerpt(found)}") from None
    if len(vectors) != count:
        raise InvalidInput(f"{gave} {len(vectors)} vectors for {count} steps")
    if len(lengths := {len(vector) for vector in vectors}) > 1:
        raise InvalidInput(f"{gave} vectors of different lengths: {sorted(lengths)}")
    return vectors


def _encode(model: str, texts: Sequence[str]) -> Any:
    return _load(model)(texts)


@lru_cache(maxsize=2)
def _load(model: str) -> Callable[[Sequence[str]], Any]:
    from sentence_transformers import SentenceTransformer

    encode: Callable[[Sequence[str]], Any] = SentenceTransformer(model).encode
    return encode
