"""`Hogwild`: workers that write at the same time and read each other as they write (arXiv 2504.06261).

All workers step together: one forward pass gives each of them one token, and each sees what the others have written,
that very pass included. They decode inside the engine until one of them may have finished a step; then the group is
arranged anew and goes on. So everything a job with these parameters does follows from the tokens its workers sample,
and a recorded group can be taken up where it stopped (`resume`, `sampled_tokens`).
"""

from __future__ import annotations

import asyncio

from ...engine import Engine
from ...errors import OutOfBlocks, PromptTooLong, UnsupportedByEngine
from ...jobs.context import Context
from ...result import Outcome
from ...trace.trace import Trace
from ..base import check_tokens
from .fields import HogwildFields
from .run import Run
from .text import pieces


class Hogwild(HogwildFields):
    """Workers with a shared, live KV cache. Training-free; needs an engine with `live_views`.

    `max_tokens` counts forward passes: tokens that each worker samples at most. Text put into a worker's context does
    not count there, but does in the job's budget, once more for the token that ends a step (it begins the next block).
    `stop` and `stop_token_ids` end the whole group. More workers than the budget's width are not started.

    `Result.details`: `passes`, finished `steps`, `context` (the least context limit with the same outcome) and
    `answers`, one for each of `answer_at`: `passes`, `answer`, `finish`, `total_tokens`, `critical_tokens`.
    """

    def check(self, engine: Engine) -> None:
        if not engine.capabilities.live_views:
            raise UnsupportedByEngine(
                f"hogwild needs live views, which engine {engine.name} lacks; the native engine has them, "
                "where it is not recorded or played back"
            )
        check_tokens("stop_token_ids", self.stop_token_ids, engine)
        for name, tokens in self.resume.items():
            check_tokens(f"resume: {name}", tokens, engine)
        try:
            self.check_prompt(self.prompt_tokens(engine.tokenizer), engine)
        except (PromptTooLong, OutOfBlocks) as error:
            raise type(error)(f"{error}; rules=False leaves the instructions for the team out") from None

    async def run(self, ctx: Context) -> Outcome:
        # Looking through the vocabulary takes a moment, once for each tokenizer.
        found = await asyncio.to_thread(pieces, ctx.tokenizer)
        return await Run(self, ctx, found).outcome()


def sampled_tokens(trace: Trace) -> dict[str, list[int]]:
    """What each worker of a recorded job has sampled, for `Hogwild.resume`. The job must be one Hogwild! run."""
    found: dict[str, list[int]] = {}
    workers = set(trace.header["method"]["workers"])
    for record in trace.branches.values():
        if record.label in workers:
            found[record.label] = [
                token
                for segment in trace.segments_of(record.id)
                for piece in segment.pieces
                if piece.kind == "sampled"
                for token in piece.token_ids
            ]
    return found
