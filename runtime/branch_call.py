"""`Call`: one `generate` of a traced branch, within budget and deadline, paid for, announced and recorded."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from .engine import Completion, FinishReason, SamplingParams
from .events import Stopped, Text
from .result import Finish, Generated
from .segment_writer import SegmentWriter, note_sights
from .text_stream import TextStream
from .trace import Piece

if TYPE_CHECKING:
    from .branch import TracedBranch


class Call:
    """See `TracedBranch.generate`. `segments`: where the branch's text is recorded."""

    def __init__(self, branch: TracedBranch, segments: SegmentWriter) -> None:
        self.branch = branch
        self.context = branch.context
        self.segments = segments

    async def run(self, params: SamplingParams) -> Generated:
        context, state = self.context, self.context.state
        limit, cause = self._limit(params)
        if state.is_late:
            return self._stopped(Generated(text="", token_ids=[], finish=Finish.DEADLINE))
        if limit == 0 and params.max_tokens != 0:
            return self._stopped(Generated(text="", token_ids=[], finish=cause))
        watched = self.branch.engine_branch.block() if self.branch.looks_on else None
        reserved = context.ledger.reserve(limit)
        length, position = self.branch.length, self.branch.position
        step, began = context.now, state.seconds
        ended = Finish.FAILED
        completion: Completion | None = None
        try:
            completion, ended = await self._decode(replace(params, max_tokens=limit), cause)
        except asyncio.CancelledError:
            ended = Finish.CANCELLED
            raise
        except Exception as error:
            self.branch.record.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            # Interrupted or failed: what was sampled is in the branch all the same.
            result = self._generated(completion, ended) if completion else self._partial(length, ended)
            used = len(result.token_ids)
            context.ledger.settle(reserved, used)
            state.usage.generated_tokens += used
            context.advance(used)
            self._write_sampled(result, position, step, began)
            if watched is not None:
                if (segment := self.segments.open_segment) is not None:
                    note_sights(segment, watched)
                watched.close()
            state.note_late()
            self._stopped(result)
        return result

    def _limit(self, params: SamplingParams) -> tuple[int, Finish]:
        """How many tokens may be sampled, and what it is that sets the limit."""
        limit, cause = self.branch.context_limit - self.branch.position, Finish.CONTEXT
        if params.max_tokens is not None and params.max_tokens <= limit:
            limit, cause = params.max_tokens, Finish.LENGTH
        ledger, critical = self.context.ledger.left, self.context.critical_left
        if ledger is not None and ledger < limit:
            limit, cause = ledger, Finish.TOTAL_TOKENS
        if critical is not None and critical < limit:
            limit, cause = critical, Finish.CRITICAL_TOKENS
        return limit, cause

    async def _decode(self, params: SamplingParams, cause: Finish) -> tuple[Completion | None, Finish]:
        """Run the engine; (None, DEADLINE) when the deadline came first."""
        state = self.context.state
        generation = None
        try:
            # Whoever runs a gang holds the slots of all its members.
            slot = nullcontext() if self.branch.is_in_gang else state.slot()
            async with asyncio.timeout_at(state.deadline), slot:
                generation = self.branch.engine_branch.generate(params)
                if state.hub.has_readers:
                    stream = TextStream(self.context.tokenizer)
                    async for token in generation:
                        if token in self.context.tokenizer.eos_ids:
                            continue
                        text, tokens = stream.push(token)
                        if tokens:
                            self.context.emit(Text, branch=self.branch.id, text=text, tokens=tokens)
                completion = await generation
        except TimeoutError:
            if not state.is_late:
                raise
            return None, Finish.DEADLINE
        finally:
            if generation is not None:
                await generation.aclose()
        at_limit = completion.finish_reason in (FinishReason.LENGTH, FinishReason.CONTEXT)
        return completion, cause if at_limit else Finish(completion.finish_reason.value)

    def _generated(self, completion: Completion, finish: Finish) -> Generated:
        usage = self.context.state.usage
        usage.prefilled_tokens += completion.prefilled_tokens
        usage.reused_tokens += completion.reused_tokens
        usage.rolled_back_tokens += completion.rolled_back
        return Generated(
            text=completion.text,
            token_ids=completion.token_ids,
            finish=finish,
            stop=completion.stop,
            logprobs=completion.logprobs,
            hidden_state=completion.hidden_state,
        )

    def _partial(self, length: int, finish: Finish) -> Generated:
        """What an interrupted generation left in the branch."""
        tokens = [] if self.branch.is_closed else self.branch.tokens[length:]
        return Generated(text=self.context.tokenizer.decode(tokens), token_ids=tokens, finish=finish)

    def _stopped(self, result: Generated) -> Generated:
        self.branch.record.finish = result.finish.value
        self.context.state.sample_memory()
        self.context.emit(Stopped, branch=self.branch.id, reason=result.finish.value, tokens=len(result.token_ids))
        self.context.state.emit_budget()
        return result

    def _write_sampled(self, result: Generated, position: int, step: int, began: float) -> None:
        if not result.token_ids:
            return
        piece = Piece(
            kind="sampled",
            token_ids=result.token_ids,
            text=self.context.tokenizer.decode(result.token_ids),
            logprobs=result.logprobs,
            finish=result.finish.value,
            step=step,
            began=began,
            ended=self.context.state.seconds,
        )
        self.segments.write(piece, position)
