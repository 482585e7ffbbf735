"""`ScriptedEngine`: an engine whose completions come from a function or a list; what tests and examples run on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from ..engine import Capabilities, Completion, Constraint, SamplingDefaults, SamplingParams, Tokenizer
from ..errors import InvalidInput
from ..plain import check_plain
from .constraints.matcher import accepts, check_text
from .text_stream import decode_behind
from .token_branch import TokenGeneration
from .token_decoding import decode
from .token_engine import TokenEngine

Script = Callable[[str], str] | Sequence[str]
"""Context text -> what the model writes up to its EOS; or completions in the order in which calls are made."""

_SPECIAL = ("<s>", "</s>")


class CharTokenizer:
    """One token per character; BOS is 0 and EOS 1."""

    bos_id: int | None = 0
    prefix_ids: tuple[int, ...] = (0,)
    eos_ids: tuple[int, ...] = (1,)
    byte_ids: frozenset[int] = frozenset()
    vocab_size = 0x110000 + len(_SPECIAL)
    tool_marks: tuple[str, str] | None = ("<tool_call>", "</tool_call>")

    def encode(self, text: str) -> list[int]:
        return [*self.prefix_ids, *self.encode_continuation((), text)]

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        return [ord(char) + len(_SPECIAL) for char in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(_SPECIAL[t] if t < len(_SPECIAL) else chr(t - len(_SPECIAL)) for t in token_ids)

    def chat(self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        text = "".join(f"<tool>{tool['function']['name']}\n" for tool in tools)
        text += "".join(f"<{message['role']}>{message['content']}\n" for message in messages)
        return self.encode(text + "<assistant>")


class WordTokenizer(CharTokenizer):
    """One token per word or white-space character, numbered as they are first seen: tokens of several characters, for
    everything that must not depend on where tokens end."""

    def __init__(self) -> None:
        self._words = list(_SPECIAL)
        self._ids = {word: i for i, word in enumerate(self._words)}

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        ids = []
        for word in re.findall(r"\S+|\s", text):
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
            ids.append(self._ids[word])
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self._words[token] for token in token_ids)


class ScriptedEngine(TokenEngine):
    """See `engine.Engine`. A script that raises makes the generation fail with that error, one that writes half a
    surrogate pair, which no trace holds, with `InvalidInput`.

    Sampling parameters that shape probabilities are ignored; limits and stop conditions are real. A constraint is
    checked: a script that does not keep to it makes the generation fail with `InvalidInput`.
    """

    def __init__(
        self,
        script: Script,
        *,
        tokenizer: Tokenizer | None = None,
        context_limit: int = 4096,
        capabilities: Capabilities | None = None,
        sampling_defaults: SamplingDefaults | None = None,
        seconds_per_token: float = 0.0,
        ends: bool = True,
        name: str = "scripted",
    ) -> None:
        """`ends=False`: the model never writes EOS but repeats its text."""
        super().__init__(
            name,
            tokenizer or CharTokenizer(),
            context_limit=context_limit,
            capabilities=capabilities,
            sampling_defaults=sampling_defaults,
        )
        self._script = script
        self._seconds = seconds_per_token
        self._ends = ends
        self.prompts: list[str] = []
        """Context text of every call so far."""
        self.running = 0
        """Generations under way."""
        self.peak_running = 0

    async def complete(self, generation: TokenGeneration) -> Completion:
        self.running += 1
        self.peak_running = max(self.peak_running, self.running)
        try:
            async with aclosing(self._sample(generation.branch.tokens, generation.params)) as tokens:
                return await decode(generation, tokens)
        finally:
            self.running -= 1

    def check_constraint(self, constraint: Constraint) -> None:
        check_text(constraint)

    async def _sample(self, context: list[int], params: SamplingParams) -> AsyncGenerator[int, None]:
        forced = params.forced
        for token in forced:
            await asyncio.sleep(self._seconds)
            yield token
        context, prefix = [*context, *forced], list(self.tokenizer.prefix_ids)
        text = self.tokenizer.decode(context[len(prefix) :] if context[: len(prefix)] == prefix else context)
        self.prompts.append(text)
        new = self._write(text)
        try:
            check_plain(new)
        except ValueError as error:
            raise InvalidInput(f"the script's text of call {len(self.prompts)}: {error}") from None
        if params.constraint is not None:
            written = [*params.constrained, *forced]
            whole = decode_behind(self.tokenizer, written, behind=len(context) > len(prefix) + len(written)) + new
            if not accepts(params.constraint, whole):
                raise InvalidInput(f"the script writes {whole[:80]!r}, which is not what the constraint asks for")
        written = self.tokenizer.encode_continuation(context, new)
        while True:
            for token in written:
                await asyncio.sleep(self._seconds)
                yield token
            if self._ends or not written:
                break
        await asyncio.sleep(self._seconds)
        yield self.tokenizer.eos_ids[0]

    def _write(self, context: str) -> str:
        if callable(self._script):
            return self._script(context)
        call = len(self.prompts) - 1
        if call >= len(self._script):
            raise InvalidInput(f"the script holds {len(self._script)} completions and this is call {call + 1}")
        return self._script[call]
