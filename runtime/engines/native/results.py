"""`Results`: what becomes of what a step computed, for the generations that it computed it for."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from ctypes import c_int32
from typing import Protocol

from torch import Tensor

from .generation import Delivery, NativeGeneration
from .model import AT_ONCE
from .sampler import sample
from .sampling import NO_TOKEN, NONE_ALLOWED, Decoded, Draw, Drawn, greedy, uniform
from .step import Chunk, Step
from .store import KVStore

_REPEATS = 16
"""How often a step is taken again that leaves branches of a large job out."""


class Schedule(Protocol):
    """What is done with a generation that has come to its end."""

    @property
    def running(self) -> Sized: ...

    repeatable: Step | None
    interrupt: c_int32

    def retire(self, generation: NativeGeneration) -> None: ...
    def halt(self, g: NativeGeneration) -> list[Delivery]: ...


class Results:
    """Taken over for a `Scheduler`, under the engine's lock."""

    def __init__(self, store: KVStore, schedule: Schedule) -> None:
        self.store = store
        self._schedule = schedule

    def take(
        self,
        step: Step,
        logits: Tensor,
        hidden: Tensor,
        *,
        allowed: Sequence[Tensor | None] | None = None,
        keep_logits: bool = False,
    ) -> list[Delivery]:
        """Of a step: `logits` (rows that sample, V) float32 on the CPU, `hidden` (.., C), `allowed` as `Step.allowed`
        has it."""
        for c in step.chunks:
            segment, end = c.segment, c.begin + c.count - len(c.draft)
            # The branch may have been closed or rewound while the pass was running.
            if segment.refs and segment.version == c.version and end > segment.computed:
                self.store.advance(segment, end)
        for i, (g, _) in enumerate(step.sampling):
            if g.params.hidden_state:
                g.hidden.append(hidden[i].float())
        live = [(i, g) for i, (g, _) in enumerate(step.sampling) if not g.is_done and g.limit > 0]
        masks = None if allowed is None else [allowed[i] for i, _ in live]
        rows = logits[: len(live)] if len(live) == len(step.sampling) else logits[[i for i, _ in live]]
        drawn = self._sample(rows, [g for _, g in live], masks) if live else []
        ended = [g for g in step.prefilled if not g.is_done]
        ended += [g for g, _ in step.sampling if not g.is_done and g.limit == 0]
        deliveries = []
        for g in ended:
            self._schedule.retire(g)
            is_sound = all(bool(state.isfinite().all()) for state in g.hidden)
            deliveries.append(g.finish(g.limit_reason) if is_sound else self._break(g))
        self._offer(step, len(live))
        for i, (_, g) in enumerate(live):
            if keep_logits:
                g.branch.logits = rows[i]
            if (delivery := self._push(g, drawn[i])) is not None:
                deliveries.append(delivery)
                ended += self._retire_if_complete(delivery)
        for g in ended:
            deliveries += self._schedule.halt(g)
        row = len(step.sampling)
        for g, c in step.drafts:
            own = slice(row, row := row + len(c.draft))
            deliveries += self._verify(g, c, logits[own], hidden[own], keep_logits=keep_logits)
        return deliveries

    def _verify(
        self, g: NativeGeneration, c: Chunk, logits: Tensor, hidden: Tensor, *, keep_logits: bool
    ) -> list[Delivery]:
        """What the rows of a draft give, each as long as the token in front of it is the one that was sampled."""
        deliveries = []
        num_accepted = 0
        for i, token in enumerate(c.draft):
            if g.is_done or g.sampled[-1] != token:
                break
            num_accepted += 1
            g.num_accepted += 1
            self.store.advance(c.segment, c.begin + 1 + num_accepted)
            if g.params.hidden_state:
                g.hidden.append(hidden[i].float())
            if keep_logits:
                g.branch.logits = logits[i]
            (drawn,) = self._sample(logits[i : i + 1], [g], None)
            if (delivery := self._push(g, drawn)) is not None:
                deliveries.append(delivery)
                self._retire_if_complete(delivery)
        assert g.drafter is not None
        g.drafter.note(len(c.draft), num_accepted)
        return deliveries

    def take_burst(self, step: Step, decoded: Decoded) -> list[Delivery]:
        """Of a burst, whose rows are the generations of the step."""
        deliveries = []
        generations = [g for g, _ in step.sampling]
        self._offer(step, sum(not g.is_done for g in generations))
        rows = decoded.rows([g.params for g in generations])
        for g, c, drawn in zip(generations, step.chunks, rows, strict=True):
            latest, num_taken = ([], 1) if g.is_done else self._push_all(g, drawn)
            # The branch may have been closed or rewound while the pass was running.
            if c.segment.refs and c.segment.version == c.version:
                self.store.advance(c.segment, c.begin + num_taken)
            c.begin += len(decoded.tokens) - 1
            for delivery in latest:
                self._retire_if_complete(delivery)
            deliveries += latest
        return deliveries

    def _offer(self, step: Step, num_live: int) -> None:
        """The step may be taken again, unless somebody retires: whoever decodes still does, and nobody has come."""
        schedule = self._schedule
        if schedule.interrupt.value == AT_ONCE:
            return  # its inputs may be those of the step behind it
        if step.num_plain == step.num_rows == num_live == len(schedule.running) - step.num_left_out:
            # Of those that it leaves out one may have gone as another came, and how many are fair changes.
            if not step.num_left_out or (step.num_repeats < _REPEATS and not schedule.interrupt.value):
                schedule.repeatable = step

    def _push_all(self, g: NativeGeneration, drawn: Sequence[Drawn]) -> tuple[list[Delivery], int]:
        """Tokens until the generation is complete, and how many of them it took."""
        deliveries: list[Delivery] = []
        for num_taken, one in enumerate(drawn, 1):
            if (delivery := self._push(g, one)) is not None:
                deliveries.append(delivery)
                if delivery.is_last:
                    return deliveries, num_taken
        return deliveries, len(drawn)

    def _push(self, g: NativeGeneration, drawn: Drawn) -> Delivery | None:
        if drawn.token == NO_TOKEN:
            return self._break(g)
        if drawn.token == NONE_ALLOWED:
            return g.fail_without_choice()
        g.branch.num_sampled += 1
        g.branch.view.open_segment().tokens.append(drawn.token)
        return g.push(drawn.token, drawn.logprob, drawn.top, drawn.certainty)

    def _retire_if_complete(self, delivery: Delivery) -> list[NativeGeneration]:
        """The generation, if this was its last delivery."""
        g = delivery.generation
        if not delivery.is_last:
            return []
        if delivery.completion is not None and delivery.completion.rolled_back:
            g.branch.view.cut(g.start_length + len(g.sampled))
        self._schedule.retire(g)
        return [g]

    @staticmethod
    def _sample(
        logits: Tensor, generations: list[NativeGeneration], allowed: Sequence[Tensor | None] | None
    ) -> list[Drawn]:
        if all(g.is_greedy for g in generations):
            return greedy(logits)
        return sample(
            logits,
            [
                Draw(g.params, uniform(g.branch.sampling_seed, g.branch.num_sampled), g.seen, g.next_forced, mask)
                for g, mask in zip(generations, allowed or [None] * len(generations), strict=True)
            ],
        )

    def _break(self, g: NativeGeneration) -> Delivery:
        """The model gave this generation no number to go on from. Others may go on; nobody may reuse what it saw."""
        for segment in g.branch.view.segments:
            self.store.distrust(segment)
        return g.fail_without_numbers()
