"""`Call`: one `generate` of a traced branch, within budget and deadline, paid for, announced and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from ..engine import Branch, Completion, Costs, FinishReason, Generation, SamplingParams
from ..engines.sampled_text import find_stop
from ..engines.text_stream import TextStream, decode_behind, is_behind, unshown
from ..errors import NonFiniteLogits, told
from ..events import Stopped, Text
from ..result import Finish, Generated
from ..trace.record import BranchRecord, Piece
from ..trace.writer import SegmentWriter, note_sights
from .scope import Scope


class Call:
    """See `TracedBranch.generate`."""

    def __init__(
        self,
        scope: Scope,
        branch: Branch,
        record: BranchRecord,
        segments: SegmentWriter,
        *,
        context_limit: int,
        gang: str | None,
    ) -> None:
        """`record`, `segments`: where the branch and its text are recorded. `gang`: see `Branch.lockstep`."""
        self.scope = scope
        self.branch = branch
        self.record = record
        self.segments = segments
        self.context_limit = context_limit
        self.gang = gang
        self._generation: Generation | None = None
        self._streamed: str | None = None
        """Text that was announced so far; None: nobody reads."""
        self._announced = 0
        """Its tokens."""
        self._length: int | None = None
        """Of the branch when the generation began."""
        self._behind = is_behind(scope.tokenizer, branch)
        """Did text stand there then?"""
        self._left: list[int] = []
        """What was sampled when the branch was closed."""

    def keep(self) -> None:
        """The branch is about to be closed: what was sampled is spent and recorded all the same."""
        if self._length is not None:
            self._left = self.branch.tokens[self._length :]

    async def run(self, params: SamplingParams) -> Generated:
        scope, state = self.scope, self.scope.state
        limit, cause = self._limit(params)
        is_late = state.is_late
        is_over = is_late or (limit == 0 and params.max_tokens != 0)
        if self.gang is not None:
            self.branch.lockstep(None if is_over else self.gang)  # nobody waits for who cannot go on
        if is_over:
            return self._stopped(Generated(text="", token_ids=[], finish=Finish.DEADLINE if is_late else cause))
        params = params if params.max_tokens == limit else replace(params, max_tokens=limit)
        looks_on = self.segments.is_live and scope.capabilities.live_views
        watched = self.branch.block() if looks_on else None
        reserved = scope.reserve(limit)
        self._length, position = self.branch.length, self.branch.position
        step, began = scope.now, state.seconds
        ended = Finish.FAILED
        completion: Completion | None = None
        try:
            completion, ended = await self._decode(params, cause)
        except asyncio.CancelledError:
            ended = Finish.CANCELLED
            raise
        except Exception as error:
            scope.count("non_finite_logits", isinstance(error, NonFiniteLogits))
            self.record.error = told(error)
            raise
        finally:
            # Interrupted or failed: what was sampled is in the branch all the same.
            result = self._generated(completion, ended) if completion else self._partial(self._length, ended)
            # Engines of others may have no costs but those of a completion.
            costs: Costs = getattr(self._generation, "costs", Costs())
            self._count(completion or costs)
            used = len(result.token_ids)
            scope.settle(reserved, used)
            state.usage.generated_tokens += used
            self._write_sampled(result, position, step, began)
            if watched is not None:
                if (segment := self.segments.open_segment) is not None:
                    note_sights(segment, watched)
                watched.close()
            state.note_late()
            self._announce_rest(result)
            self._stopped(result)
        return result

    def _limit(self, params: SamplingParams) -> tuple[int, Finish]:
        """How many tokens may be sampled, and what it is that sets the limit."""
        limit, cause = self.context_limit - self.branch.position, Finish.CONTEXT
        if params.max_tokens is not None and params.max_tokens <= limit:
            limit, cause = params.max_tokens, Finish.LENGTH
        ledger, critical = self.scope.ledger.left, self.scope.critical_left
        if ledger is not None and ledger < limit:
            limit, cause = ledger, Finish.TOTAL_TOKENS
        if critical is not None and critical < limit:
            limit, cause = critical, Finish.CRITICAL_TOKENS
        return limit, cause

    async def _decode(self, params: SamplingParams, cause: Finish) -> tuple[Completion | None, Finish]:
        """Run the engine; (None, DEADLINE) when the deadline came first."""
        state = self.scope.state
        try:
            # Whoever runs a gang holds the slots of all its members.
            slot = nullcontext() if self.gang is not None else state.slot()
            async with asyncio.timeout_at(state.deadline), slot:
                self._generation = self.branch.generate(params)
                if state.hub.has_readers:
                    await self._stream(self._generation, params)
                completion = await self._generation
        except TimeoutError:
            if not state.is_late:
                raise
            return None, Finish.DEADLINE
        finally:
            if self._generation is not None:
                await self._generation.aclose()
        at_limit = completion.finish_reason in (FinishReason.LENGTH, FinishReason.CONTEXT)
        return completion, cause if at_limit else Finish(completion.finish_reason.value)

    async def _stream(self, generation: Generation, params: SamplingParams) -> None:
        """Announce text as it comes."""
        tokenizer = self.scope.tokenizer
        silent = {*params.stop_token_ids, *(() if params.ignore_eos else tokenizer.eos_ids)}
        stream, self._streamed = TextStream(tokenizer, behind=self._behind), ""
        longest = max(map(len, params.stop), default=0) if params.include_stop else 0
        async for token in generation:
            text, tokens = ("", 0) if token in silent else stream.push(token)
            if longest and (match := find_stop((tail := self._streamed[-longest:]) + text, params.stop)):
                # The token may go on behind it.
                text = text[: max(0, match.at + len(match.stop) - len(tail))]
            if tokens:
                self._streamed += text
                self._announced += tokens
                self.scope.emit(Text, branch=self.record.id, text=text, tokens=tokens)

    def _announce_rest(self, result: Generated) -> None:
        """The text that was held back because more could have changed it."""
        if self._streamed is not None and (rest := unshown(result.text, self._streamed)):
            tokens = max(len(result.token_ids) - self._announced, 0)
            self.scope.emit(Text, branch=self.record.id, text=rest, tokens=tokens)

    def _count(self, costs: Costs) -> None:
        usage = self.scope.state.usage
        usage.prefilled_tokens += costs.prefilled_tokens
        usage.reused_tokens += costs.reused_tokens
        usage.preemptions += costs.preemptions
        usage.drafted_tokens += costs.drafted_tokens
        usage.accepted_tokens += costs.accepted_tokens
        usage.rolled_back_tokens += costs.rolled_back

    @staticmethod
    def _generated(completion: Completion, finish: Finish) -> Generated:
        return Generated(
            text=completion.text,
            token_ids=completion.token_ids,
            finish=finish,
            stop=completion.stop,
            logprobs=completion.logprobs,
            top_logprobs=completion.top_logprobs,
            hidden_state=completion.hidden_state,
            certainty=completion.certainty,
        )

    def _partial(self, length: int, finish: Finish) -> Generated:
        """What an interrupted generation left in the branch."""
        is_closed = self.record.id not in self.scope.state.branches
        tokens = self._left if is_closed else self.branch.tokens[length:]
        return Generated(text=self._spell(tokens), token_ids=tokens, finish=finish)

    def _stopped(self, result: Generated) -> Generated:
        self.record.finish = result.finish.value
        self.scope.state.sample_memory()
        self.scope.emit(Stopped, branch=self.record.id, reason=result.finish.value, tokens=len(result.token_ids))
        self.scope.state.emit_budget()
        return result

    def _write_sampled(self, result: Generated, position: int, step: int, began: float) -> None:
        if not result.token_ids:
            return
        piece = Piece(
            kind="sampled",
            token_ids=result.token_ids,
            text=self._spell(result.token_ids),
            logprobs=result.logprobs,
            finish=result.finish.value,
            step=step,
            began=began,
            ended=self.scope.state.seconds,
        )
        self.segments.write(piece, position)

    def _spell(self, tokens: Sequence[int]) -> str:
        """Their text; none where the tokenizer fails: the books are kept all the same."""
        try:
            return decode_behind(self.scope.tokenizer, tokens, behind=self._behind)
        except Exception as error:
            self.record.error = self.record.error or told(error)
            return ""
