"""`Multiverse(mode="guided")`: the runtime leads a model through one block that was never trained on the tags.

The prompt shows the format. The runtime opens the goal, reads the model's plan leniently and writes it down again in
the exact format, forks the paths itself, and opens conclusion and answer. A path opens with its whole outline: of its
number alone a model that was not trained on that makes nothing. The text that results is Multiverse text.
"""

from __future__ import annotations

from ...jobs.context import Context
from ...result import Generated
from .line import Line
from .outlines import Outline, goal_text, numbered_lines
from .prompts import QUESTION
from .run import Run

GUIDE = f"""\
Work on the task below in parallel parts.
- First plan: list two to five parts as outlines. No part may need the result of another. Say what each part is to \
find out, with the numbers and facts it needs.
- Then work on each part in a path of its own, which begins with its outline. A path must make sense by itself: it \
never refers to another path. Think step by step in it.
- Then put what the paths found together in the conclusion, and finish with a full answer to the task, in the form it \
asks for.

This is the format, on another task ("A shop sells 12 boxes of 8 red pens and 5 boxes of 9 blue pens. How many more \
red pens than blue pens are that?"):

<Parallel>
<Goal>
<Outline>
1: How many red pens there are in 12 boxes of 8.
</Outline>
<Outline>
2: How many blue pens there are in 5 boxes of 9.
</Outline>
</Goal>
<Path>
1: How many red pens there are in 12 boxes of 8.
Every box holds 8 red pens and there are 12 boxes: 12 * 8 = 96 red pens.
</Path>
<Path>
2: How many blue pens there are in 5 boxes of 9.
Every box holds 9 blue pens and there are 5 boxes: 5 * 9 = 45 blue pens.
</Path>
<Conclusion>
There are 96 red pens and 45 blue pens: 96 - 45 = 51 more red ones.
</Conclusion>
</Parallel>

The answer is 51.

The task:
{QUESTION}"""

OPENING = "<Think>\n<Parallel>\n"
CLOSING = "\n</Conclusion>\n</Parallel>\n</Think>\n\n"

_ENDS = ("<Path>", "<Conclusion>", "</Conclusion>", "</Parallel>", "</Think>")
"""Tags at which a model has gone on by itself to what the runtime writes."""


async def guided(run: Run, ctx: Context, line: Line, tail: int) -> Generated | None:
    """Lead a line through plan, paths, conclusion and answer; None: with fewer than two different outlines, or without
    room for their paths, there is nothing to run in parallel."""
    method = run.method
    started = f"{OPENING}<Goal>\n<Outline>\n1:"
    limit = min(method.outline_tokens, line.room - line.size(started) - tail)
    if limit <= 0:
        ctx.count("refused_forks")
        return None
    line.write(started)
    await _until(ctx, run, line, limit, ("</Goal>", *_ENDS))
    points = list(dict.fromkeys(numbered_lines(line.text)))[: run.max_paths]
    if len(points) < 2:
        ctx.count("no_outline")
        return None
    line.restart()
    goal = OPENING + goal_text(points)
    if line.size(goal) + tail >= line.room:
        ctx.count("refused_forks")
        return None
    line.write(goal)
    outlines = [Outline(index=str(i), text=point, is_numbered=True) for i, point in enumerate(points, 1)]
    run.other_stops, line.may_fork = (*method.stop, *_ENDS), False
    done = await run.block(ctx, line, goal, outlines, tail)
    run.other_stops = method.stop
    return await _conclude(run, ctx, line, tail) if done else None


async def _conclude(run: Run, ctx: Context, line: Line, tail: int) -> Generated:
    """Half of what is left is for the conclusion, the rest for the answer."""
    before = len(line.text)
    call = await _until(ctx, run, line, (line.room - tail) // 2, _ENDS)
    line.keep(max(len(line.text.rstrip()), before))
    if line.size(CLOSING) >= line.room:
        return call
    line.write(CLOSING)
    return await run.decode(ctx, line, min(tail, line.room // 2))


async def _until(ctx: Context, run: Run, line: Line, limit: int, stops: tuple[str, ...]) -> Generated:
    """Decode up to one of the stops, which is cut off, as an end of sequence is."""
    params = run.method.sampling(ctx, max_tokens=max(limit, 1), stop=(*run.method.stop, *stops), include_stop=True)
    call = await line.branch.generate(params)
    line.used += len(call.token_ids)
    line.drop_stop(call)
    if isinstance(call.stop, str):
        line.keep(line.text.rfind(call.stop))
    return call
