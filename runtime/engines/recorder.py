"""Recording an engine's completions into a file that `replay.ReplayEngine` plays back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import errors
from ..disk import writing
from ..engine import (
    Block,
    BlockUsage,
    Branch,
    Capabilities,
    Completion,
    Constraint,
    Costs,
    Engine,
    Generation,
    SamplingDefaults,
    SamplingParams,
    Tokenizer,
)
from ..errors import InvalidInput, UnsupportedByEngine
from .recording import FORMAT
from .replay import View, call_key, chat_given, text_key
from .text_stream import TextStream, is_behind


class Recorder:
    """An engine that passes everything on to another one and writes its answers to a file. Live views are refused: what
    they show depends on the clock, and could not be played back."""

    def __init__(self, engine: Engine, file: str | Path) -> None:
        """Starts the file anew. Raises `InvalidInput` if it cannot be written; so do jobs, and `close`, later on."""
        self._engine = engine
        self._path = Path(file)
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        self.tokenizer: Tokenizer = _RecordedTokenizer(engine.tokenizer, self.write)
        self.write(
            "header",
            format=FORMAT,
            engine=engine.name,
            context_limit=engine.context_limit,
            capabilities=asdict(self.capabilities),
            sampling_defaults=asdict(engine.sampling_defaults),
            bos_id=engine.tokenizer.bos_id,
            prefix_ids=engine.tokenizer.prefix_ids,
            byte_ids=sorted(engine.tokenizer.byte_ids),
            eos_ids=engine.tokenizer.eos_ids,
            vocab_size=engine.tokenizer.vocab_size,
            tool_marks=engine.tokenizer.tool_marks,
        )

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._engine.capabilities, live_views=False)

    @property
    def context_limit(self) -> int:
        return self._engine.context_limit

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        return self._engine.sampling_defaults

    def write(self, kind: str, **values: Any) -> None:
        with writing(self._path):
            self._file.write(json.dumps({"type": kind, **values}, separators=(",", ":")) + "\n")

    def open(
        self,
        tokens: Sequence[int] = (),
        *,
        path: tuple[int, ...] = (),
        seed: int = 0,
        context_limit: int | None = None,
        job: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> Branch:
        branch = self._engine.open(
            tokens, path=path, seed=seed, context_limit=context_limit, job=job, priority=priority, deadline=deadline
        )
        return RecordedBranch(self, branch, seed)

    def check_constraint(self, constraint: Constraint) -> None:
        self._engine.check_constraint(constraint)

    def block_usage(self, job: str | None = None) -> BlockUsage:
        return self._engine.block_usage(job)

    async def start(self) -> None:
        await self._engine.start()

    async def close(self) -> None:
        try:
            await self._engine.close()
        finally:
            with writing(self._path):
                self._file.close()


class RecordedBranch:
    """A branch of a `Recorder`."""

    def __init__(self, recorder: Recorder, branch: Branch, seed: int, view: str = "") -> None:
        self._recorder = recorder
        self._branch = branch
        self._seed = seed
        self._view = View(view)

    @property
    def path(self) -> tuple[int, ...]:
        return self._branch.path

    @property
    def tokens(self) -> list[int]:
        return self._branch.tokens

    @property
    def length(self) -> int:
        return self._branch.length

    @property
    def position(self) -> int:
        return self._branch.position

    def extend(self, tokens: Sequence[int]) -> None:
        self._branch.extend(tokens)

    def generate(self, params: SamplingParams | None = None) -> Generation:
        params = params or SamplingParams()
        key = call_key(self._seed, self.path, self.tokens, params, self._view)
        return _RecordedGeneration(self._branch, params, self._recorder, key)

    def fork(self, n: int) -> list[Branch]:
        view = self._view.key
        return [RecordedBranch(self._recorder, branch, self._seed, view) for branch in self._branch.fork(n)]

    def merge(self, branches: Sequence[Branch]) -> None:
        ours, tokens = _ours(branches), self.tokens
        self._branch.merge([branch._branch for branch in ours])
        self._view.merge(tokens, [(branch.tokens, branch._view.key) for branch in ours])

    def seek(self, position: int) -> None:
        self._branch.seek(position)
        self._view.seek(self.length, position)

    def block(self) -> Block:
        raise _has_no_live_views()

    def seal(self) -> Block:
        raise _has_no_live_views()

    def arrange(self, blocks: Sequence[Block]) -> None:
        raise _has_no_live_views()

    def lockstep(self, gang: str | None) -> None:
        raise _has_no_live_views()

    def rewind(self, length: int) -> None:
        self._branch.rewind(length)

    def watch(self, branch: Branch, shift: int = 0) -> None:
        raise _has_no_live_views()

    def attach(
        self, branches: Sequence[Branch], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        ours = _ours(branches)
        inner = [branch._branch for branch in ours]
        self._branch.attach(inner, temperature=temperature, scale=scale, bias=bias)
        texts = [(branch.tokens, branch._view.key) for branch in ours]
        self._view.attach(self.length, texts, temperature, scale, bias)

    def attach_contexts(
        self, contexts: Sequence[Sequence[int]], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        self._branch.attach_contexts(contexts, temperature=temperature, scale=scale, bias=bias)
        self._view.attach(self.length, [(tokens, "") for tokens in contexts], temperature, scale, bias)

    def close(self) -> None:
        self._branch.close()


def _has_no_live_views() -> UnsupportedByEngine:
    return UnsupportedByEngine("live views cannot be played back: leave out the recorder")


def _ours(branches: Sequence[Branch]) -> list[RecordedBranch]:
    ours = [branch for branch in branches if isinstance(branch, RecordedBranch)]
    if len(ours) != len(branches):
        raise InvalidInput("branches of another engine")
    return ours


class _RecordedGeneration:
    def __init__(self, branch: Branch, params: SamplingParams, recorder: Recorder, key: str) -> None:
        self._branch = branch
        self._start = branch.length
        self._behind = is_behind(recorder.tokenizer, branch)
        self._generation = branch.generate(params)
        self._recorder = recorder
        self._key = key
        self._is_recorded = False

    def __await__(self) -> Generator[Any, None, Completion]:
        return self._result().__await__()

    async def _result(self) -> Completion:
        try:
            completion = await self._generation
        except Exception as error:
            self._record(error=f"{_error_name(error)}: {error}", costs=self._costs())
            raise
        self._record(completion=asdict(completion))
        return completion

    def _record(self, **values: Any) -> None:
        if self._is_recorded:
            return
        self._is_recorded = True
        self._recorder.write("call", key=self._key, **values)
        # Have what a reader of text events will decode in the file, whether or not someone reads them now.
        stream = TextStream(self._recorder.tokenizer, behind=self._behind)
        for token in self._branch.tokens[self._start :]:
            stream.push(token)

    def __aiter__(self) -> AsyncIterator[int]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[int]:
        async for token in self._generation:
            yield token
        await self._result()

    @property
    def costs(self) -> Costs:
        return self._generation.costs

    async def aclose(self) -> None:
        await self._generation.aclose()
        if not self._is_recorded:
            self._record(interrupted=self._branch.tokens[self._start :], costs=self._costs())

    def _costs(self) -> dict[str, Any]:
        # Engines of others may have none.
        return asdict(getattr(self._generation, "costs", Costs()))


def _error_name(error: Exception) -> str:
    """Of the class that a replay raises: the nearest of plait's own, by which methods catch an engine's subclasses."""
    ours = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return next(ours, type(error).__name__)


class _RecordedTokenizer:
    def __init__(self, tokenizer: Tokenizer, write: Callable[..., None]) -> None:
        self._tokenizer = tokenizer
        self._write = write
        self._known: set[str] = set()
        self.bos_id = tokenizer.bos_id
        self.prefix_ids = tokenizer.prefix_ids
        self.byte_ids = tokenizer.byte_ids
        self.eos_ids = tokenizer.eos_ids
        self.vocab_size = tokenizer.vocab_size
        self.tool_marks = tokenizer.tool_marks

    def encode(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text)
        self._note("encode", text, ids)
        return ids

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        ids = self._tokenizer.encode_continuation(before, text)
        self._note("continuation", [list(before), text], ids)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(token_ids)
        self._note("decode", list(token_ids), text)
        return text

    def chat(self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        ids = self._tokenizer.chat(messages, tools) if tools else self._tokenizer.chat(messages)
        self._note("chat", chat_given(messages, tools), ids)
        return ids

    def _note(self, kind: str, given: object, value: object) -> None:
        key = text_key(kind, given)
        if key not in self._known:
            self._known.add(key)
            self._write(kind, key=key, value=value)
