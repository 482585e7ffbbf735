"""A small job beside a large one: steps are dealt out, nobody's tokens change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import groupby
from typing import Any

from plait import SamplingParams
from plait.tests.runtime.engines.native.stepped import Stepped
from plait.tests.runtime.engines.native.test_pressure import _await, close, engine, prompt
from plait.tests.runtime.engines.native.test_scheduler import decoding


async def test_a_large_job_is_dealt_out_in_slices_while_others_run():
    wide = SamplingParams(max_tokens=12, temperature=1.0, ignore_eos=True)
    small = SamplingParams(max_tokens=30, ignore_eos=True)

    async def run(*, alone: bool) -> tuple[list[list[int]], list[int], list[dict[str, int]]]:
        native = engine(kv_tokens=16384, slice_rows=8)
        steps: list[dict[str, int]] = []
        plan = native.scheduler.plan

        def noted():
            step, deliveries = plan()
            if step.chunks:
                steps.extend([dict(step.jobs)] * step.num_steps)
            return step, deliveries

        native.scheduler.plan = noted  # type: ignore[method-assign]
        await native.start()
        root = native.open(prompt(20), job="large", seed=1)
        await root.generate(SamplingParams(max_tokens=0))
        many = root.fork(100)
        waiting = [asyncio.ensure_future(_await(branch.generate(wide))) for branch in many]
        if alone:
            drawn = [c.token_ids for c in await asyncio.gather(*waiting)]
            few = native.open(prompt(9), job="small")
            said = (await few.generate(small)).token_ids
        else:
            few = native.open(prompt(9), job="small")
            said = (await few.generate(small)).token_ids
            drawn = [c.token_ids for c in await asyncio.gather(*waiting)]
        for branch in (root, few, *many):
            branch.close()
        await close(native)
        return drawn, said, steps

    drawn, said, steps = await run(alone=True)
    assert max(step.get("large", 0) for step in steps) > 50
    again, same, steps = await run(alone=False)
    assert (again, same) == (drawn, said)
    shared = [step for step in steps if "small" in step]
    assert len(shared) >= 30 and max(step.get("large", 0) for step in shared) == 8
    assert max(step.get("large", 0) for step in steps) > 50  # before and after it has the steps for itself


async def test_a_step_that_leaves_branches_out_is_taken_again_until_somebody_comes():
    stepped = Stepped(kv_tokens=4096, slice_rows=3)
    large = decoding(stepped, "a" * 12)
    (small,) = decoding(stepped, "b")
    stepped.step(60)
    lengths = [len(list(same)) for _, same in groupby(map(id, stepped.steps))]
    assert max(lengths) == 17 and small.sampled  # then it is planned anew
    assert stepped.step() == [{"a": 3, "b": 1}]
    out = next(g for g in large if g not in [one for one, _ in stepped.steps[-1].sampling])
    model, came = stepped.native.model, []

    def meanwhile(work: Callable[..., Any]) -> Callable[..., Any]:
        def worked(*args: Any, **options: Any) -> Any:
            if not came:  # as many run as before
                stepped.scheduler.abort(out)
                came.append(stepped.generate(prompt(9, 99), job="c"))
            return work(*args, **options)

        return worked

    model.forward, model.decode = meanwhile(model.forward), meanwhile(model.decode)
    stepped.step(5)  # its prompt comes in three
    assert came[0].sampled and stepped.step() == [{"a": 3, "b": 1, "c": 1}]
    await stepped.close()
