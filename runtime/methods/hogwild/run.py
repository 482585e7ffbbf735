"""One run of `Hogwild`: rounds of decoding until somebody may have finished a step, and what happens between them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from ...engine import SamplingParams
from ...errors import EngineClosed
from ...jobs.branch import TracedBranch
from ...jobs.context import Context
from ...result import Finish, Generated, Outcome
from .conclusion import Conclusions, Snapshot
from .fields import HogwildFields
from .finishers import find
from .group import Group, Worker
from .text import OWN, PIVOT, SEPARATOR, SPLIT, Pieces, ends_step, has_open_fence, is_looping, opener, prefix
from .watch import Watch


class Run:
    def __init__(self, method: HogwildFields, ctx: Context, found: Pieces) -> None:
        self.ctx = ctx
        self.pieces = found
        count = len(method.workers)
        self.method = method = method.model_copy(update={"workers": method.workers[: ctx.state.budget.width]})
        self.policy = method.published
        self.has_steps = method.has_steps
        ctx.count("workers_over_width", count - len(method.workers))
        self.group = Group(ctx, method.layout, others=self.policy.others, with_headers=method.headers)
        self.limit = min(method.context_limit or ctx.context_limit, ctx.context_limit)
        self.encode = encode = partial(ctx.tokenizer.encode_continuation, ())
        self.separator = encode(SEPARATOR)
        self.pivot = encode(PIVOT + SEPARATOR)
        self.conclusions = Conclusions(method, ctx, self.limit)
        self.num_headings = len(encode(self.policy.others)) + len(encode(OWN)) + len(encode(SPLIT))
        self.forbidden = self.policy.forbidden(ctx.tokenizer, found, method.layout)
        blanks = not found.blank or (found.is_split and self.policy.joins_newlines)
        self.watch = Watch(method, ctx.tokenizer, method.workers, blanks=blanks)
        self.passes = 0
        self.spent = 0
        """Tokens that workers sampled or were given."""
        self.began = ctx.now
        self.left = 0
        self.context = 0
        """The least context limit with which everything would have gone the same way."""
        self.since_check = 0
        self.waiting: list[Worker] = []
        """Those that join later."""
        self.gang = ".".join(map(str, ctx.path)) + ":hogwild"

    # -- the whole run -----------------------------------------------------------------------------------------

    async def outcome(self) -> Outcome:
        ctx, method, group = self.ctx, self.method, self.group
        try:
            await group.start(method.open(ctx, method.prompt_tokens(ctx.tokenizer), label="prompt"))
            for index, name in enumerate(method.workers):
                # All are opened now, so that sampling does not depend on when somebody joins.
                worker = Worker(name=name, branch=ctx.open(label=name, context_limit=self.limit))
                worker.forced = list(method.resume.get(name, ()))
                is_apart = index > 0 and len(method.workers) > 2
                start = opener(name, is_first=index == 0, has_steps=self.has_steps, is_apart=is_apart)
                worker.begin(
                    ctx.tokenizer.encode_continuation((), start if method.openers is None else method.openers[index])
                )
                self.waiting.append(worker)
            async with ctx.state.slots(len(method.workers)):
                with ctx.phase("workers"):
                    finish = await self._rounds()
            return await self._finish(finish)
        finally:
            group.close()

    async def _rounds(self) -> Finish:
        """Decode until the group ends; why it did."""
        group, method = self.group, self.method
        while True:
            self._join_and_leave()
            if not group.workers:
                return Finish.STOP
            if self.passes in method.answer_at:
                self.conclusions.keep(self._snapshot(Finish.LENGTH))
            passes = self._room()
            if isinstance(passes, Finish):
                return passes
            group.arrange()
            for worker in group.workers:
                worker.branch.lockstep(self.gang)
            ended = self._take(await self._decode(passes))
            if ended is not None:
                return ended

    def _join_and_leave(self) -> None:
        method, group = self.method, self.group
        joining = [w for w in self.waiting if method.join_at.get(w.name, 0) <= self.passes]
        for worker in list(group.workers):
            if method.leave_at.get(worker.name, self.passes + 1) <= self.passes:
                group.leave(worker)
        if not group.workers and not joining:  # nobody is left to make the passes that the next one would wait for
            joining = sorted(self.waiting, key=lambda w: method.join_at.get(w.name, 0))[:1]
        for worker in joining:
            self.waiting.remove(worker)
            group.add(worker, method.workers)

    def _room(self) -> int | Finish:
        """Forward passes the next round may take, or why there can be none."""
        method, group, ctx = self.method, self.group, self.ctx
        count = len(group.workers)
        if ctx.is_late:
            return Finish.DEADLINE
        events = chain(method.join_at.values(), method.leave_at.values(), method.answer_at)
        passes = min((n - self.passes for n in events if n > self.passes), default=self.limit)
        passes = min(passes, method.limit - self.passes)
        if passes < 1:
            method.note_bound(ctx)
            return Finish.LENGTH
        while (left := self._context_left() // count) < 1:
            if method.overflow == "stop" or not group.forget_oldest():
                return Finish.CONTEXT
            ctx.count("dropped_steps")
        self.left = self._context_left()
        share = ctx.share(count, self.conclusions.kept)
        if share is not None and any(len(w.pending) >= share for w in group.workers):
            critical = ctx.critical_left is not None and max(ctx.critical_left - self.conclusions.kept, 0) <= share
            return Finish.CRITICAL_TOKENS if critical else Finish.TOTAL_TOKENS
        # The engine looks for strings in what one call samples: one token at a time where one may be in the midst.
        return 1 if any(map(self.watch.is_midway, group.workers)) else min(passes, left)

    def _context_left(self) -> int:
        """Tokens the group may still write, so that views and the concluding sequence fit."""
        extra = self.conclusions.room + self.num_headings
        return self.limit - self.group.num_tokens - extra - len(self.group.workers) * len(self.pivot)

    # -- one round ---------------------------------------------------------------------------------------------

    async def _decode(self, passes: int) -> list[Generated | None]:
        """All workers decode until one of them stops; None for a worker whose engine branch failed."""
        workers = {worker.branch.id: worker for worker in self.group.workers}
        errors: list[Exception] = []

        async def work(part: Context, branch: TracedBranch) -> Generated | None:
            worker = workers[branch.id]
            start = branch.length
            try:
                branch.extend(worker.pending)
                self.spent += len(worker.pending)
                worker.pending, start = [], branch.length
                return await branch.generate(self._params(worker, passes))
            except (AssertionError, EngineClosed):
                raise
            except Exception as error:  # whatever the engine raised for this worker; the trace has it
                part.count("worker_errors")
                errors.append(error)
                worker.text += [] if branch.is_closed else branch.tokens[start:]
                return None
            finally:
                if not branch.is_closed:
                    branch.lockstep(None)  # who could not decode must not keep the others waiting

        results = await self.ctx.parallel(work, [w.branch for w in self.group.workers], reserve=self.conclusions.kept)
        if len(errors) == len(workers):
            raise errors[0]
        return results

    def _params(self, worker: Worker, passes: int) -> SamplingParams:
        method = self.method
        if self.has_steps and method.max_step is not None:
            passes = max(1, min(passes, self._step_limit(worker) - len(worker.said)))
        banned = worker.banned if worker.place == len(worker.text) else ()
        return method.sampling(
            self.ctx,
            max_tokens=passes,
            stop=self.watch.strings(worker),
            include_stop=True,  # what others have seen must not vanish from the record
            stop_token_ids=(*method.stop_token_ids, *self.pieces.blank),
            ignore_eos=self.policy.is_endless,
            forbidden_ids=(*self.forbidden, *banned),
            forced=tuple(worker.forced[:passes]),
        )

    def _step_limit(self, worker: Worker) -> int:
        assert self.method.max_step is not None
        return self.method.max_step * (2 if has_open_fence(self.ctx.tokenizer.decode(worker.text)) else 1)

    # -- between two rounds ------------------------------------------------------------------------------------

    def _take(self, results: list[Generated | None]) -> Finish | None:
        """Take over a round's tokens and, in the order of the workers, finish steps; why the run ends, if it does."""
        passes = max((len(r.token_ids) for r in results if r is not None), default=0)
        self.passes += passes
        self.context = max(self.context, self.limit - self.left + passes * len(results))
        # Every pass but the last has put one token of each worker into the next; the last is counted by `_handle`.
        self.since_check += sum(max(len(r.token_ids) - 1, 0) for r in results if r is not None)
        ended: list[Finish] = []
        for worker, result in zip(list(self.group.workers), results, strict=True):
            if result is None:
                self.group.leave(worker)
                continue
            self.spent += len(result.token_ids)
            worker.text += result.token_ids
            del worker.forced[: len(result.token_ids)]
            finish = self._handle(worker, result)
            if finish is not None:
                ended.append(finish)
        return ended[0] if ended else None

    def _handle(self, worker: Worker, result: Generated) -> Finish | None:
        """What a worker's new tokens lead to."""
        method = self.method
        text = self.ctx.tokenizer.decode(worker.text)
        stop = self.watch.met(worker, result)
        if stop is not None and (stop in method.stop or stop in method.stop_token_ids):
            drop = worker.overhang(self.ctx.tokenizer, text.rfind(stop)) if isinstance(stop, str) else 1
            del worker.text[len(worker.text) - drop :]
            return Finish.STOP
        if result.finish not in (Finish.STOP, Finish.LENGTH, Finish.GANG):
            if result.finish is Finish.EOS:
                del worker.text[-1]
            return result.finish
        if not result.token_ids:
            return None
        is_blank = stop is not None and (stop == SEPARATOR or not isinstance(stop, str))
        is_over = is_blank and not self.has_steps and not self.policy.is_endless
        if stop is not None and not is_blank:
            at = text.rfind(str(stop))
            is_over = self._expose(worker, text, at)
            text = text[:at]
        elif not self.has_steps:
            pass
        elif is_blank and ends_step(text, minds_fences=self.policy.minds_fences):
            self._finish_step(worker)
            is_over = True
        elif method.max_step is not None and len(worker.said) >= self._step_limit(worker):
            self.ctx.count("forced_steps")
            self._finish_step(worker, closing=self.separator)
            is_over = True
        self.since_check += len(worker.pending) or 1  # what the worker puts into the next pass
        if is_over and method.answer != "text" and find(method.answer, text, method.accepts) is not None:
            return Finish.STOP
        return None

    def _expose(self, worker: Worker, text: str, keep: int) -> bool:
        """A worker wrote under another's name behind the first `keep` characters; was its step ended?"""
        self.ctx.count("impersonations")
        given = len(self.ctx.tokenizer.decode(worker.text[: worker.num_given]))
        if self.has_steps and text[given:keep].strip():
            self._finish_step(worker, drop=worker.overhang(self.ctx.tokenizer, keep), closing=self.separator)
            return True
        drop = worker.overhang(self.ctx.tokenizer, keep, least=0 if worker.num_given else 1)
        if drop:
            self.group.take_back(worker, drop)
        return False

    def _finish_step(self, worker: Worker, *, drop: int = 0, closing: Sequence[int] = ()) -> None:
        method = self.method
        tokens = self.encode(prefix(worker.name, worker.step + 1))
        is_due = method.self_check_every is not None and self.since_check > method.self_check_every
        repeats = method.check_repeats and (is_looping(worker.said) or worker.said == worker.last_said)
        if is_due or repeats:
            self.ctx.count("self_checks")
            tokens = self.ctx.tokenizer.encode_continuation(
                (), prefix(worker.name, worker.step + 1) + method.self_check
            )
            self.since_check = 0
        self.group.finish_step(worker, tokens, drop=drop, closing=closing)

    # -- the end -----------------------------------------------------------------------------------------------

    def _snapshot(self, finish: Finish) -> Snapshot:
        return Snapshot(
            passes=self.passes,
            tokens=tuple(self.group.whole()),
            finish=finish,
            total_tokens=self.spent,
            critical_tokens=self.ctx.now - self.began,
        )

    async def _finish(self, finish: Finish) -> Outcome:
        """The answer, asked for if nobody has given one, and those of smaller budgets."""
        group, conclusions = self.group, self.conclusions
        last = self._snapshot(finish)
        ended = await conclusions.conclude(self.ctx, last)
        context = max(self.context, group.num_prompt + conclusions.room + len(last.tokens))
        steps = len(group.history) + len(group.forgotten)
        details: dict[str, Any] = {"passes": self.passes, "steps": steps, "context": context}
        if self.method.answer_at:
            details["answers"] = await conclusions.all(last, ended)
        return Outcome(text=ended[0], answer=ended[1], finish=finish, details=details)
