"""Playing back an engine's completions, recorded by `recorder.Recorder`, without the engine.

A call is known by seed, place in the tree, the tokens of the context, what else was done to its view and the sampling
parameters; equal calls are played back in the order they were recorded, the last of them again and again. The
tokenizer's calls are in the file as well, so that a replay needs no model folder.

The file is JSON Lines: a header, then `call`, `encode`, `continuation`, `decode` and `chat` lines. Calls that failed
fail again, with the same error if it is one of plait's; calls that were interrupted write what they had written, and
wait to be interrupted again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import errors
from ..engine import Branch, Completion, Constraint, SamplingParams
from ..errors import InvalidInput, PlaitError
from .recording import Recording, read
from .token_branch import BranchEngine, TokenBranch, TokenGeneration
from .token_engine import TokenEngine


def text_key(*parts: object) -> str:
    """The name of a tokenizer call."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def chat_given(messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a call of `Tokenizer.chat` was given, for its name."""
    said = [dict(message) for message in messages]
    return [said, [dict(tool) for tool in tools]] if tools else said


class View:
    """What was done to a branch's view that its tokens do not tell, such as what was attached to it, as one name."""

    def __init__(self, key: str = "") -> None:
        self.key = key
        """Empty: nothing."""

    def attach(self, length: int, texts: Sequence[tuple[Sequence[int], str]], *how: float) -> None:
        """`texts`: tokens, and the key of what else is seen with them; `how`: as `Branch.attach`."""
        self._add(length, "attach", [[list(tokens), key] for tokens, key in texts], how)

    def merge(self, tokens: Sequence[int], texts: Sequence[tuple[Sequence[int], str]]) -> None:
        """`tokens`: those before; `texts`: as `attach`, of the branches. One that went on with this view, and did
        nothing else, leaves what its tokens tell; of several they do not tell where one ends, nor the position then."""
        length = len(tokens)
        goes_on = [key == self.key and list(text[:length]) == list(tokens) for text, key in texts]
        if len(texts) > 1 or not all(goes_on):
            self._add(length, "merge", [[list(text), key] for text, key in texts])

    def seek(self, length: int, position: int) -> None:
        self._add(length, "seek", position)

    def _add(self, *what: object) -> None:
        self.key = text_key(self.key, *what)


def call_key(seed: int, path: tuple[int, ...], tokens: Sequence[int], params: SamplingParams, view: View) -> str:
    """The name of a `generate` call."""
    given = asdict(params)
    if params.constraint is None:  # as before there were any
        del given["constraint"], given["constrained"]
    if not params.certainty:
        del given["certainty"]
    return text_key(seed, path, list(tokens), given, *([view.key] if view.key else ()))


class ReplayBranch(TokenBranch):
    """A branch of a `ReplayEngine`."""

    def __init__(self, engine: BranchEngine, **options: Any) -> None:
        super().__init__(engine, **options)
        parent = options.get("parent")
        self.view: View = View(parent.view.key if isinstance(parent, ReplayBranch) else "")

    def merge(self, branches: Sequence[Branch]) -> None:
        tokens = self.tokens
        super().merge(branches)
        self.view.merge(tokens, [(branch.tokens, branch.view.key) for branch in _ours(branches)])

    def attach(
        self, branches: Sequence[Branch], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        super().attach(branches, temperature=temperature, scale=scale, bias=bias)
        texts = [(branch.tokens, branch.view.key) for branch in _ours(branches)]
        self.view.attach(self.length, texts, temperature, scale, bias)

    def attach_contexts(
        self, contexts: Sequence[Sequence[int]], *, temperature: float = 1.0, scale: float = 1.0, bias: float = 0.0
    ) -> None:
        super().attach_contexts(contexts, temperature=temperature, scale=scale, bias=bias)
        self.view.attach(self.length, [(tokens, "") for tokens in contexts], temperature, scale, bias)

    def seek(self, position: int) -> None:
        super().seek(position)
        self.view.seek(self.length, position)


def _ours(branches: Sequence[Branch]) -> list[ReplayBranch]:
    return [branch for branch in branches if isinstance(branch, ReplayBranch)]


class ReplayEngine(TokenEngine):
    """Answers from a recording. A call or text that is not in it raises `InvalidInput`."""

    branch_type = ReplayBranch

    def __init__(self, file: str | Path) -> None:
        """Raises `InvalidInput` when the file is no recording, or a damaged one."""
        self.file = Path(file)
        recording = read(self.file)
        self._calls = recording.calls
        super().__init__(
            recording.header["engine"],
            _ReplayedTokenizer(self.file, recording),
            context_limit=recording.header["context_limit"],
            # What was recorded was checked then: a model may have more tokens than its tokenizer.
            vocab_size=sys.maxsize,
            capabilities=replace(recording.capabilities, live_views=False),
            sampling_defaults=recording.sampling_defaults,
        )

    def check_params(self, params: SamplingParams) -> None:
        """What was recorded was checked then."""

    def check_constraint(self, constraint: Constraint) -> None:
        """What was recorded was checked then."""

    async def complete(self, generation: TokenGeneration) -> Completion:
        branch = generation.branch
        assert isinstance(branch, ReplayBranch)
        calls = self._calls.get(call_key(branch.seed, branch.path, branch.tokens, generation.params, branch.view))
        if not calls:
            raise InvalidInput(
                f"{self.file} has no recorded answer for branch {branch.path} with seed {branch.seed} after "
                f"{branch.length} tokens: the job, its seed, its parameters or what is attached differ from what was "
                "recorded"
            )
        call = calls.popleft() if len(calls) > 1 else calls[0]
        generation.costs = call.costs
        await asyncio.sleep(0)
        if call.error is not None:
            raise _recorded_error(call.error)
        tokens = call.interrupted or [] if call.completion is None else call.completion.token_ids
        most = generation.params.max_tokens
        if most is not None and len(tokens) > most:
            raise InvalidInput(f"{self.file} has an answer of {len(tokens)} tokens where {most} were asked for")
        generation.append(tokens)
        if call.completion is None:
            interrupted: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
            return await interrupted
        return replace(call.completion)  # it may be played again


def _recorded_error(told: str) -> PlaitError:
    """Of the class that it was, as methods catch by it; what is not plait's own is a `PlaitError` that names it."""
    name, _, said = told.partition(": ")
    kind = getattr(errors, name, None)
    return kind(said) if isinstance(kind, type) and issubclass(kind, PlaitError) else PlaitError(told)


class _ReplayedTokenizer:
    def __init__(self, file: Path, recording: Recording) -> None:
        header = recording.header
        self._file = file
        self._texts = recording.texts
        self.bos_id: int | None = header["bos_id"]
        self.prefix_ids: tuple[int, ...] = tuple(header["prefix_ids"])
        self.byte_ids: frozenset[int] = frozenset(header["byte_ids"])
        self.eos_ids: tuple[int, ...] = tuple(header["eos_ids"])
        self.vocab_size: int = header["vocab_size"]
        self.tool_marks = recording.tool_marks

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._find("encode", text)
        return list(ids)

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        ids: list[int] = self._find("continuation", [list(before), text])
        return list(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._find("decode", list(token_ids))
        return text

    def chat(self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        ids: list[int] = self._find("chat", chat_given(messages, tools))
        return list(ids)

    def _find(self, kind: str, given: object) -> Any:
        key = text_key(kind, given)
        if key not in self._texts:
            raise InvalidInput(f"{self._file} never saw the tokenizer {kind} {str(given)[:80]!r}")
        return self._texts[key]


def load(rest: str, options: dict[str, Any]) -> ReplayEngine:
    """`replay:FILE`. Raises `InvalidInput` for options: what was recorded is all there is."""
    if options:
        raise InvalidInput(f"a recording has no options, and {', '.join(options)} was given")
    return ReplayEngine(rest)
