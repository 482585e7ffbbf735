"""`Sampled`: what `/v1/completions` and `/v1/chat/completions` run where no method is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field

from ..engine import Engine, SamplingParams, Tokenizer
from ..engines.constraints.vocabulary import Spelling
from ..engines.text_stream import IncrementalDecoder, decode_behind
from ..errors import InvalidInput, UnsupportedByEngine
from ..jobs.branch import TracedBranch
from ..jobs.context import Context
from ..methods.prompt import context_text, prefix_length
from ..methods.sequential import Sequential
from ..plain import json_text
from ..result import Finish, Generated, Outcome


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt, as it stands in front of a text."""

    text: str
    tokens: list[str]
    """As in `Sampled`, but for the first one, which has no log-probabilities; empty: they are not wanted."""


class Sampled(Sequential):
    """n texts from one prefilled prompt, each with its tokens' log-probabilities.

    `details["choices"]` has `text`, `finish` and, if `top` is given, `tokens` of each, by the samples' order; with
    tools also `calls`. Each token is JSON of its own: all there may be, as objects, are hundreds of thousands, which
    take a second to check and a fifth of one at every garbage collection.
    """

    @classmethod
    def title(cls) -> str:
        return "request"

    method: Literal["sequential"] = "sequential"
    """The method's name."""
    n: int = Field(default=1, ge=1, le=128)
    """Samples."""
    marks: tuple[str, str] | None = None
    """`Tokenizer.tool_marks` of the model, for who reads its text as it comes."""
    top: int | None = Field(default=None, ge=0, le=20)
    """Likeliest tokens whose log-probabilities are wanted; 0: of the sampled token alone; None: none at all."""
    max_tokens: int | None = Field(default=None, ge=0, strict=True)
    """0: none, for the prompt alone."""
    echo: bool = False
    """Put the prompt in front of each text and, if `top` is given, its tokens in front of the sampled ones."""

    @property
    def fan_out(self) -> int:
        return self.n

    def most_tokens(self, engine: Engine) -> int:
        scored = len(self.tokens(engine.tokenizer)) if self.echo and self.top is not None else 0
        return scored + self.n * min(self.limit, engine.context_limit)

    def check(self, engine: Engine) -> None:
        if self.echo and self.top is not None and not engine.capabilities.logprobs:
            raise UnsupportedByEngine(
                f"{engine.name} gives no log-probabilities of a prompt: leave out echo or logprobs"
            )
        super().check(engine)

    async def run(self, ctx: Context) -> Outcome:
        prompt = self.tokens(ctx.tokenizer)
        if self.top is not None:
            await asyncio.to_thread(_looked_at, ctx.tokenizer)  # the first time it looks at the whole vocabulary
        root = self.open(ctx, prompt)
        echo = await self._score(ctx, prompt) if self.echo else None
        if self.n == 1:
            samples: list[Generated | None] = [await self._sample(ctx, root)]
            branches = [root]
        else:
            await root.generate(SamplingParams(max_tokens=0))
            branches = root.fork(self.n)
            samples = await ctx.parallel(self._sample, branches)
        # Those that the budget leaves nothing for are not begun.
        empty = Generated(text="", token_ids=[], finish=Finish.TOTAL_TOKENS)
        drawn = [sample or empty for sample in samples]
        choices = [await self._choice(*pair, ctx, echo) for pair in zip(drawn, branches, strict=True)]
        details: dict[str, Any] = {"choices": choices}
        if echo is not None:
            details["scored"] = max(len(echo.tokens) - 1, 0)
        return Outcome(text=drawn[0].text, answer=None, finish=drawn[0].finish, details=details)

    async def _score(self, ctx: Context, prompt: list[int]) -> Echo:
        """The prompt as it is shown. Its tokens are taken one by one, as if they had been sampled, on a branch of their
        own: what is sampled behind the prompt is the same as without."""
        text = self.prompt if isinstance(self.prompt, str) else context_text(prompt, ctx.tokenizer)
        if self.top is None:
            return Echo(text, [])
        first = {**_spelled(prompt[0], ctx.tokenizer), "logprob": None, "top": None}
        if len(prompt) == 1:
            return Echo(text, [json_text({**first, "offset": 0})])
        forced = SamplingParams(
            forced=tuple(prompt[1:]), max_tokens=len(prompt) - 1, ignore_eos=True, logprobs=self.top
        )
        scored = await ctx.open(prompt[:1], label="prompt").generate(forced)
        if len(scored.token_ids) < len(prompt) - 1:
            raise InvalidInput(
                f"the budget does not cover the {len(prompt)} tokens of the prompt ({scored.finish.value})"
            )
        return Echo(text, await asyncio.to_thread(_echoed, first, scored, prompt, text, ctx.tokenizer))

    async def _sample(self, ctx: Context, branch: TracedBranch) -> Generated:
        top = self.top if ctx.capabilities.logprobs else None
        return await branch.generate(self.sampling(ctx, logprobs=top))

    async def _choice(self, sample: Generated, branch: TracedBranch, ctx: Context, echo: Echo | None) -> dict[str, Any]:
        if self.top is None:
            choice = _choice(sample, ctx.tokenizer, echo)
        else:  # There may be a hundred thousand tokens to tell of.
            choice = await asyncio.to_thread(_choice, sample, ctx.tokenizer, echo)
        if self.has_tools:
            said, calls = self.read_calls(sample.text, branch)
            choice |= {"text": said, "calls": [call.to_json() for call in calls]}
        return choice


def _choice(sample: Generated, tokenizer: Tokenizer, echo: Echo | None) -> dict[str, Any]:
    choice: dict[str, Any] = {"text": sample.text, "finish": sample.finish.value}
    if sample.logprobs is not None:
        # Behind a prompt, whoever reads counts the tokens: the one that ends the text is shown too.
        silent = () if echo else tokenizer.eos_ids
        tokens = list(_tokens(sample, tokenizer))
        placed = _placed(tokens, sample.token_ids, sample.text, tokenizer, after=len(echo.text) if echo else 0)
        shown = (token for id, token in zip(sample.token_ids, placed, strict=True) if id not in silent)
        choice["tokens"] = [json_text(token) for token in shown]
    if echo is not None:
        choice["text"] = echo.text + choice["text"]
        if echo.tokens:
            choice["tokens"] = [*echo.tokens, *choice.get("tokens", ())]
    return choice


def _echoed(first: dict[str, Any], scored: Generated, prompt: list[int], text: str, tokenizer: Tokenizer) -> list[str]:
    """The tokens of a prompt, of which those behind the first were scored."""
    hidden = prefix_length(prompt, tokenizer)
    placed = _placed([first, *_tokens(scored, tokenizer)], prompt, text, tokenizer, hidden=hidden)
    return [json_text(token) for token in placed]


def _tokens(sample: Generated, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """What is told of each token."""
    tops = sample.top_logprobs or [{} for _ in sample.token_ids]
    for token, logprob, top in zip(sample.token_ids, sample.logprobs or (), tops, strict=True):
        shown = [{**_spelled(id, tokenizer), "logprob": value} for id, value in top.items()]
        yield {**_spelled(token, tokenizer), "logprob": logprob, "top": shown}


def _placed(
    tokens: Sequence[dict[str, Any]],
    ids: Sequence[int],
    text: str,
    tokenizer: Tokenizer,
    *,
    after: int = 0,
    hidden: int = 0,
) -> list[dict[str, Any]]:
    """The tokens, each with where in the shown text its own begins; a character that several spell ends in the last of
    them. `after`: characters in front of `text`, which these tokens spell but for the first `hidden` ones."""
    decoder = IncrementalDecoder(tokenizer, behind=True)
    pieces = [*[""] * hidden, *(decoder.push(id) for id in ids[hidden:])]
    # Read as behind other text they may begin with a space that the text has not.
    extra = _blanks("".join(pieces)) - _blanks(text)
    begins = accumulate(map(len, pieces), initial=0)
    offsets = (after + min(max(begin - max(extra, 0), 0), len(text)) for begin in begins)
    return [{**token, "offset": offset} for token, offset in zip(tokens, offsets, strict=False)]


def _blanks(text: str) -> int:
    """How many there are in front."""
    return len(text) - len(text.lstrip())


def _spelled(id: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """A token's text, and its bytes: those of a part of a character are no text of their own."""
    known, halves = _looked_at(tokenizer)
    if id not in known:
        text = decode_behind(tokenizer, [id])
        known[id] = {"token": text, "bytes": list(halves.get(id) or text.encode("utf-8", "replace"))}
    return known[id]


_last: list[tuple[Tokenizer, dict[int, dict[str, Any]], dict[int, bytes]]] = []
"""The last tokenizer that was looked at, what `_spelled` gave of it, and its `_find_halves`."""


def _looked_at(tokenizer: Tokenizer) -> tuple[dict[int, dict[str, Any]], dict[int, bytes]]:
    for one, known, halves in _last:
        if one is tokenizer:
            return known, halves
    known, halves = {}, _find_halves(tokenizer)
    _last[:] = [(tokenizer, known, halves)]
    return known, halves


def _find_halves(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Tokens that do not hold whole characters, as far as the tokenizer says what its tokens spell."""
    if not isinstance(tokenizer, Spelling):
        return {}
    with suppress(UnsupportedByEngine):
        spelling = enumerate(tokenizer.token_bytes())
        return {id: spelled for id, (spelled, special) in spelling if not special and not _is_text(spelled)}
    return {}


def _is_text(spelled: bytes) -> bool:
    try:
        spelled.decode()
    except UnicodeDecodeError:
        return False
    return True
