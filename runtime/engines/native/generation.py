"""`NativeGeneration`: one running `generate` call, between the engine's thread and the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ...engine import Completion, Costs, FinishReason, SamplingParams, Tokenizer
from ...errors import BranchClosed, InvalidInput, NonFiniteLogits
from ..constraints.matcher import Matcher, dead_end
from ..sampled_text import Match, SampledText
from ..text_stream import decode_behind, is_behind
from ..token_feed import TokenFeed
from .drafting import Drafter
from .sampling import is_scored, is_simple
from .view import View


class DecodingBranch(Protocol):
    """What a generation, and those who schedule it, need of the branch that it continues."""

    generation: NativeGeneration | None
    gang: tuple[str, str] | None
    num_sampled: int
    logits: Tensor | None

    @property
    def path(self) -> tuple[int, ...]: ...
    @property
    def job(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def view(self) -> View: ...
    @property
    def context_limit(self) -> int: ...
    @property
    def reused_tokens(self) -> int: ...
    @property
    def sampling_seed(self) -> int: ...


@dataclass(slots=True)
class Delivery:
    """What a step hands from the engine's thread to the event loop, for one generation."""

    generation: NativeGeneration
    tokens: list[int]
    completion: Completion | None = None
    error: BaseException | None = None

    @property
    def is_last(self) -> bool:
        """Has the generation ended with this?"""
        return self.completion is not None or self.error is not None


class NativeGeneration:
    """See `runtime.engine.Generation`. What is sampled is touched under the engine's lock, the future on the loop."""

    def __init__(
        self,
        branch: DecodingBranch,
        params: SamplingParams,
        *,
        tokenizer: Tokenizer,
        loop: asyncio.AbstractEventLoop,
        lock: AbstractContextManager[object],
        abort: Callable[[NativeGeneration], None],
        matcher: Matcher | None = None,
    ) -> None:
        """`abort`, called under the engine's `lock`, takes a generation out of the schedule. `matcher`: of the
        parameters' constraint; only the engine's thread uses it from now on."""
        self.branch = branch
        self.params = params
        self.matcher = matcher
        self.sampled: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[dict[int, float]] = []
        self.hidden: list[Tensor] = []
        """If asked for: one (C,) per token of `sampled`, or only that of the branch's last token."""
        self.certainties: list[float] = []
        self.num_prefilled = 0
        self.num_reused = branch.reused_tokens
        self._num_lost = 0
        """Tokens that are counted in one of these, and are to be had once more."""
        self.num_preemptions = 0
        """Times it had to wait for KV blocks that others needed more."""
        self.drafter: Drafter | None = None
        """Made when first somebody asks."""
        self.num_drafted = 0
        self.num_accepted = 0
        """Of the tokens that were drafted, those that were sampled."""
        self.sequence = 0
        """Order of arrival, set by the scheduler."""
        self.is_done = False
        self.start_length = branch.view.length
        room = branch.context_limit - branch.view.position
        self.limit = room if params.max_tokens is None else min(room, params.max_tokens)
        """New tokens at most."""
        self.limit_reason = FinishReason.LENGTH if self.limit == params.max_tokens else FinishReason.CONTEXT
        self._behind = is_behind(tokenizer, branch.view)
        """Does other text stand in front?"""
        self.text: SampledText | None = None
        """If there are stop strings to look for in it."""
        if params.stop:
            self.text = SampledText(tokenizer, params.stop, include_stop=params.include_stop, behind=self._behind)
        self.stop_ids = frozenset(params.stop_token_ids)
        self.eos_ids = frozenset(() if params.ignore_eos else tokenizer.eos_ids)
        self._is_plain = is_simple(params) and not (params.logprobs or params.hidden_state or params.forced)
        """Is a token of the logits as they are all that is asked for, but for how likely it is?"""
        self.is_greedy = self._is_plain and not is_scored(params) and params.temperature == 0
        """Nothing but the likeliest?"""
        self.seen = set(branch.view.tokens) if params.repetition_penalty != 1.0 else None
        self.is_streamed = False
        """Somebody iterates; else tokens wait for the completion, and the event loop is not woken for each."""
        self._num_delivered = 0
        self._tokenizer = tokenizer
        self._lock = lock
        self._abort = abort
        self._future: asyncio.Future[Completion] = loop.create_future()
        self._shown = TokenFeed()

    def fits_burst(self, *, scores: bool) -> bool:
        """Can the model sample several tokens before anybody looks? `scores`: does it tell how likely they are?"""
        return self._is_plain and (scores or not is_scored(self.params))

    @property
    def costs(self) -> Costs:
        return Costs(
            prefilled_tokens=self.num_prefilled,
            reused_tokens=self.num_reused,
            preemptions=self.num_preemptions,
            drafted_tokens=self.num_drafted,
            accepted_tokens=self.num_accepted,
        )

    @property
    def wants_logits(self) -> bool:
        """Is the row of the branch's last token to be computed, even if its keys and values are there?"""
        return self.limit > 0 or self.params.hidden_state

    @property
    def next_forced(self) -> int | None:
        """The token the next step has to take; None: sample."""
        forced, at = self.params.forced, len(self.sampled)
        return forced[at] if at < len(forced) else None

    # -- engine side -------------------------------------------------------------------------------------------

    def note_prefilled(self, count: int) -> None:
        """So many tokens that it was given were computed."""
        self.num_prefilled += count - self._repay(count)

    def note_found(self, count: int) -> None:
        """So many pending tokens were found in the store."""
        if not self.sampled:
            self.num_reused += count - self._repay(count)

    def note_lost(self, count: int) -> None:
        """So many tokens are pending once more."""
        if not self.sampled:
            self._num_lost += count

    def _repay(self, count: int) -> int:
        """How many of them have been counted before."""
        again = min(count, self._num_lost)
        self._num_lost -= again
        return again

    def push(
        self, token: int, logprob: float | None, top: dict[int, float] | None, certainty: float | None
    ) -> Delivery | None:
        """Take one sampled token, decide whether the generation ends, and say what may be shown of it, if anything.
        What the tokenizer raises ends this generation alone."""
        try:
            return self._push(token, logprob, top, certainty)
        except BaseException as error:
            return self.fail(error)

    def _push(
        self, token: int, logprob: float | None, top: dict[int, float] | None, certainty: float | None
    ) -> Delivery | None:
        self.sampled.append(token)
        if certainty is not None:
            self.certainties.append(certainty)
        if self.seen is not None:
            self.seen.add(token)
        if logprob is not None:
            self.logprobs.append(logprob)
            self.top_logprobs.append(top or {})
        if token in self.stop_ids:
            return self.finish(FinishReason.STOP, token)
        if token in self.eos_ids:
            return self.finish(FinishReason.EOS, token)
        if self.matcher is not None:
            self.matcher.advance(token)
        if self.text is None:
            certain = len(self.sampled)
        else:
            if match := self.text.push(token):
                return self._finish_at_stop(self.text, match)
            certain = self.text.num_certain(self._num_delivered) if self.is_streamed else 0
        if len(self.sampled) >= self.limit:
            return self.finish(self.limit_reason)
        return self._deliver(certain)

    def finish(
        self,
        reason: FinishReason,
        stop: str | int | None = None,
        *,
        rolled_back: int = 0,
        text: str | None = None,
    ) -> Delivery:
        """End the generation; `sampled` is what stays. `text`: None: that of `sampled`, without a stop token."""
        if text is None:
            try:
                spelled = self.sampled[:-1] if isinstance(stop, int) else self.sampled
                text = decode_behind(self._tokenizer, spelled, behind=self._behind)
            except BaseException as error:
                return self.fail(error)
        completion = Completion(
            token_ids=list(self.sampled),
            text=text,
            finish_reason=reason,
            stop=stop,
            logprobs=None if self.params.logprobs is None else self.logprobs,
            top_logprobs=self.top_logprobs if self.params.logprobs else None,
            hidden_state=torch.stack(self.hidden).mean(0).tolist() if self.hidden else None,
            certainty=sum(self.certainties) / len(self.certainties) if self.certainties else None,
            **asdict(replace(self.costs, rolled_back=rolled_back)),
        )
        return Delivery(self, self.sampled[self._num_delivered :], completion)

    def fail(self, error: BaseException) -> Delivery:
        """End the generation with an error; what was sampled stays."""
        if not isinstance(error, Exception):  # a panic of a compiled library, which would pass for an order to end
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Delivery(self, self.sampled[self._num_delivered :], error=error)

    def fail_without_numbers(self) -> Delivery:
        """The model gave NaN or infinite logits."""
        branch = self.branch
        return self.fail(
            NonFiniteLogits(
                f"branch {branch.path}, position {branch.view.position}: the model gave NaN or infinite numbers; its "
                f"weights are damaged, or overflow in this dtype (try dtype=torch.float32)"
            )
        )

    def fail_without_choice(self) -> Delivery:
        """No token goes on with the text, by its constraint."""
        assert self.matcher is not None
        return self.fail(InvalidInput(dead_end(self.branch.path, self.matcher)))

    def _deliver(self, certain: int) -> Delivery | None:
        if not self.is_streamed or certain <= self._num_delivered:
            return None
        fresh = self.sampled[self._num_delivered : certain]
        self._num_delivered = certain
        return Delivery(self, fresh)

    def _finish_at_stop(self, text: SampledText, match: Match) -> Delivery:
        keep, spelled = text.num_kept(match, self.sampled), text.cut(match, self.sampled)
        rolled_back = len(self.sampled) - keep
        del self.sampled[keep:], self.logprobs[keep:], self.top_logprobs[keep:], self.hidden[keep:]
        del self.certainties[keep:]
        return self.finish(FinishReason.STOP, match.stop, rolled_back=rolled_back, text=spelled)

    # -- event loop side ---------------------------------------------------------------------------------------

    def receive(self, delivery: Delivery) -> None:
        """Runs on the loop."""
        self._shown.put(delivery.tokens)
        if not delivery.is_last:
            return
        self._shown.end()
        if self._future.done():
            return
        if delivery.error is not None:
            self._future.set_exception(delivery.error)
            self._future.exception()  # iteration may be the only consumer
        elif delivery.completion is not None:
            self._future.set_result(delivery.completion)

    def __await__(self) -> Generator[Any, None, Completion]:
        return self._result().__await__()

    async def _result(self) -> Completion:
        try:
            return await asyncio.shield(self._future)
        except asyncio.CancelledError:
            self.stop()
            raise

    async def __aiter__(self) -> AsyncIterator[int]:
        self.is_streamed = True
        given = 0
        try:
            while (token := await self._shown.at(given)) is not None:
                given += 1
                yield token
        except BaseException:
            self.stop()
            raise
        if self._future.done():
            self._future.result()

    async def aclose(self) -> None:
        self.stop()

    def stop(self) -> None:
        """End it now, on the loop's thread; the branch keeps what was sampled. Who awaits it gets `BranchClosed`."""
        if self._future.done():
            return  # Nothing is left to end, and a step may hold the lock for long.
        with self._lock:
            self._abort(self)
        self._future.set_exception(BranchClosed("the generation was stopped"))
        self._future.exception()
        self._shown.end()
