"""`OpenAIEngine`: any server that speaks the OpenAI API (vLLM, SGLang, llama.cpp, hosted models).

Views are lists of tokens (`TokenEngine`): a fork is a new request over the same prefix, which servers with a prefix
cache do not compute again; merged branches are read one behind another.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from random import uniform
from typing import Any

from ...engine import BlockUsage, Capabilities, Completion, Constraint, FinishReason, SamplingParams, Tokenizer
from ...errors import InvalidInput, ServerFailed, UnsupportedByEngine
from ..constraints.matcher import check_text
from ..native.gguf_tokenizer import load_tokenizer
from ..registry import find_model
from ..token_branch import TokenBranch, TokenGeneration
from ..token_decoding import Scores, decode, request_seed, text_room
from ..token_engine import TokenEngine
from .chunks import Chunk, Whole
from .dialect import Dialect
from .discovery import DEFAULT_CONTEXT, find_listed, probe
from .options import ServerOptions, read_options
from .server import ConnectionLost, Server, StreamBroken
from .text_tokenizer import TextTokenizer
from .usage import Account, ServerUsage

logger = logging.getLogger(__name__)

_PROBE = "1"
_ID = "token_id:"
_PATIENCE = 4
"""Tokens behind the last one asked for."""
_SECONDS = 2.0
"""For those, and what the server counted."""


@dataclass(slots=True)
class _Sample(Scores):
    """What one generation got so far."""

    finish: str | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """All tokens are there."""

    def add(self, count: int, logprobs: Sequence[float] = (), top: Sequence[dict[int, float]] = ()) -> None:
        """What is told of `count` more tokens. Numbers that are not one for each are those of others: of these tokens
        nothing is known, which is not the certainty that 0 would be."""
        self.logprobs += logprobs if len(logprobs) == count else [math.nan] * count
        self.top_logprobs += top if len(top) == count else [{} for _ in range(count)]


class OpenAIEngine(TokenEngine):
    """See `engine.Engine`. What the server can do is found out by `start`, with requests for one token."""

    def __init__(self, options: ServerOptions, tokenizer: Tokenizer | None = None) -> None:
        """Raises `InvalidInput` for a tokenizer with the chat API, where texts go over."""
        is_chat = options.api == "chat"
        if is_chat and tokenizer is not None:
            raise InvalidInput("the chat API takes texts: leave out tokenizer, or api=chat")
        self._text = None if tokenizer is not None else TextTokenizer(is_chat=is_chat)
        chosen = tokenizer if tokenizer is not None else self._text
        assert chosen is not None
        super().__init__(
            f"openai:{options.url}#{options.model or ''}".rstrip("#"),
            chosen,
            context_limit=options.context_limit or DEFAULT_CONTEXT,
            capabilities=Capabilities(),
        )
        self.options = options
        self.model = options.model or ""
        self.dialect = Dialect(is_chat=is_chat)
        self.usage = ServerUsage()
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        assert self._server is not None, "the engine was not started"
        return self._server

    @property
    def cost(self) -> float | None:
        """Of all requests so far, by `ServerOptions.price`; None without one."""
        return None if self.options.price is None else self.usage.cost(self.options.price)

    # -- the Engine contract -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises `UnknownModel`, `ServerFailed`, or `InvalidInput` for a server without the API."""
        await super().start()
        if self._server is not None:
            return
        self._server = Server(self.options)
        listed = await find_listed(self._server, self.options)
        self.model = listed.model
        if self.options.context_limit is None:
            self.context_limit = listed.limit or listed.default_limit
            if listed.limit is None:
                logger.warning(
                    "%s does not say how long its context is: taking %d; set context_limit",
                    self.name, self.context_limit,
                )  # fmt: skip
        if listed.is_llama_cpp and self.options.max_concurrency is None:
            self._server.limit(1)
        self.dialect = await probe(
            self._server, self.options, listed, has_tokenizer=self._text is None,
            prompt=lambda dialect: self._prompt(self.tokenizer.encode(_PROBE), dialect),
        )  # fmt: skip
        self.capabilities = Capabilities(logprobs=self.dialect.logprobs)
        logger.info("%s: %s, %s", self.name, self.model, self.dialect)

    async def close(self) -> None:
        await super().close()
        if self._server is not None:
            server, self._server = self._server, None
            await server.close()

    def block_usage(self, job: str | None = None) -> BlockUsage:
        return BlockUsage(total=0, free=0, cached=0, used=0)

    def check_params(self, params: SamplingParams) -> None:
        super().check_params(params)
        self.dialect.check(params)

    def check_constraint(self, constraint: Constraint) -> None:
        """What is in a grammar is the server's matter: they have forms of their own."""
        self.dialect.check_constraint(constraint)
        if constraint.kind != "grammar":
            check_text(constraint)

    async def complete(self, generation: TokenGeneration) -> Completion:
        sample = _Sample()
        async with aclosing(self._sample(generation, sample)) as tokens:
            done = await decode(generation, tokens, text_room(generation.branch))
            sample.done.set()
            if not isinstance(done.stop, str):
                await _last_words(tokens)
        sample.write(done, generation.params)
        if sample.finish == "length" and done.stop is None and done.finish_reason is FinishReason.EOS:
            # The server counts other tokens than this engine does.
            done.finish_reason = FinishReason.LENGTH
        done.prefilled_tokens = generation.costs.prefilled_tokens
        done.reused_tokens = generation.costs.reused_tokens
        return done

    # -- requests ----------------------------------------------------------------------------------------------

    async def _sample(self, generation: TokenGeneration, sample: _Sample) -> AsyncGenerator[int, None]:
        """Tokens as the server gives them; a stream that breaks is taken up again behind what it gave."""
        for token in generation.params.forced:
            yield token
        broken = 0
        while not sample.done.is_set():
            before = generation.branch.length
            try:
                async with aclosing(self._request(generation, sample)) as tokens:
                    async for token in tokens:
                        yield token
                return
            except StreamBroken as error:
                if sample.done.is_set():
                    break
                # Whoever goes on makes progress; only failures in a row count, and are waited for. But a server that
                # always ends its answers so would be asked without end; llama.cpp's does it for other requests.
                went_on = generation.branch.length > before
                may_go_on = isinstance(error, ConnectionLost) or self.dialect.flavour == "llama_cpp"
                broken = 1 if went_on and may_go_on else broken + 1
                stuck = self.dialect.is_chat and generation.new and not self.options.prefill
                # A server would begin anew with the constraint.
                stuck = stuck or (generation.params.constraint is not None and generation.new)
                if broken > self.options.max_retries or stuck:
                    hint = "" if generation.new else "; is the prompt longer than its context? Set context_limit"
                    raise ServerFailed(f"{self.options.url} broke off its answer: {error}{hint}") from None
                logger.warning("%s broke off its answer (%s); asking again", self.options.url, error)
                await asyncio.sleep(uniform(0.5, 1) * (0.1 if went_on else min(0.5 * 2**broken, 8)))

    async def _request(self, generation: TokenGeneration, sample: _Sample) -> AsyncGenerator[int, None]:
        branch, params = generation.branch, generation.params
        limit = text_room(branch)
        if params.max_tokens is not None:
            limit = min(limit, params.max_tokens - len(generation.new))
        body = self.dialect.body(params, max_tokens=limit, seed=request_seed(branch))
        body |= {"model": self.model, **self._prompt(branch.tokens, self.dialect)}
        finish, last, text, whole = None, None, "", Whole()
        with Account(self.usage, branch.length) as account:
            async with aclosing(self.server.stream(self.dialect.path, body)) as chunks:
                async for sent in chunks:
                    chunk = sent if self.dialect.gives_ids else whole.take(sent)
                    account.is_answered = True
                    finish = chunk.finish or finish
                    if chunk.usage is not None:
                        account.said = chunk.usage
                        account.is_final = finish is not None
                        cached = chunk.usage.cached_tokens
                        generation.costs.prefilled_tokens = max(0, (chunk.usage.prompt_tokens or 0) - cached)
                        generation.costs.reused_tokens = cached
                    for token in self._tokens(chunk, branch, sample):
                        last = token
                        account.written += 1
                        yield token
                    text += chunk.text
                    if chunk.stop in params.stop and chunk.stop not in text[-2 * len(chunk.stop) - 64 :]:
                        # Some servers cut it off though they were asked not to.
                        tokens = self.tokenizer.encode_continuation(branch.tokens, chunk.stop)
                        sample.add(len(tokens))
                        for token in tokens:
                            yield token
        if finish is None:
            raise StreamBroken("the stream ended without a finish reason")
        if finish == "content_filter" and not sample.done.is_set():
            raise ServerFailed(f"{self.options.url} withholds the rest of its answer (finish_reason content_filter)")
        sample.finish = finish
        eos_ids = self.tokenizer.eos_ids
        if finish == "stop" and eos_ids and last not in eos_ids:
            sample.add(1)
            yield eos_ids[0]

    def _prompt(self, tokens: list[int], dialect: Dialect) -> dict[str, Any]:
        if not dialect.is_chat:
            return {"prompt": tokens if dialect.takes_ids else self.tokenizer.decode(self._without_prefix(tokens))}
        assert self._text is not None
        messages = self._text.messages(tokens)
        if messages and messages[-1]["role"] == "assistant":
            if not messages[-1]["content"]:
                messages.pop()
            elif self.options.prefill:
                return {"messages": messages, "add_generation_prompt": False, "continue_final_message": True}
            else:
                raise UnsupportedByEngine(
                    "the chat API does not go on with a text that the model has begun: use api=completions, or "
                    "prefill=true where the server can (vLLM)"
                )
        return {"messages": messages}

    def _without_prefix(self, tokens: list[int]) -> list[int]:
        """A server puts BOS in front of texts itself."""
        prefix = list(self.tokenizer.prefix_ids)
        return tokens[len(prefix) :] if prefix and tokens[: len(prefix)] == prefix else tokens

    def _tokens(self, chunk: Chunk, branch: TokenBranch, sample: _Sample) -> list[int]:
        is_told = True  # Are the chunk's numbers those of the tokens?
        if self.dialect.gives_ids:
            tokens = chunk.ids or []
        elif self._text is not None and self.dialect.sends_tokens:
            tokens = [self._text.token(chunk.text)] if chunk.text else []
        elif self._text is not None and chunk.pieces and "".join(chunk.pieces) == chunk.text:
            tokens = [self._text.token(piece) for piece in chunk.pieces]
        else:
            tokens = self.tokenizer.encode_continuation(branch.tokens, chunk.text) if chunk.text else []
            is_told = self.dialect.sends_tokens
        tops = [{self._id(name): value for name, value in top.items()} for top in chunk.top_logprobs or ()]
        sample.add(len(tokens), *((chunk.logprobs or (), tops) if is_told else ()))
        return tokens

    def _id(self, name: str) -> int:
        if name.startswith(_ID) and name[len(_ID) :].isdecimal():
            return int(name[len(_ID) :])
        return self._text.token(name) if self._text is not None else -1


async def _last_words(tokens: AsyncGenerator[int, None]) -> None:
    """Let a server that is at its end say what it counted; one that goes on all the same, or waits, is cut off."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            for _ in range(_PATIENCE):
                if await anext(tokens, None) is None:
                    return


def load(rest: str, options: dict[str, Any]) -> OpenAIEngine:
    """`openai:URL#MODEL`. Raises `InvalidInput`."""
    if find_spec("openai") is None:
        raise InvalidInput("openai: needs the openai package: pip install 'plait[openai]'")
    chosen = read_options(rest, options)
    tokenizer = None if chosen.tokenizer is None else load_tokenizer(find_model(chosen.tokenizer).path)
    return OpenAIEngine(chosen, tokenizer)
