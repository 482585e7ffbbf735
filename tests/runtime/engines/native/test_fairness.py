"""A small job beside a large one: steps are dealt out, nobody's tokens change."""

from __future__ import annotations

import asyncio

from plait import SamplingParams
from plait.tests.runtime.engines.native.test_pressure import _await, close, engine, prompt


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
                steps.append(dict(step.jobs))
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
            assert not any(w.done() for w in waiting[50:])
            drawn = [c.token_ids for c in await asyncio.gather(*waiting)]
        for branch in (root, few, *many):
            branch.close()
        await close(native)
        return drawn, said, steps

    drawn, said, steps = await run(alone=True)
    assert max(step.get("large", 0) for step in steps) == 100
    again, same, steps = await run(alone=False)
    assert (again, same) == (drawn, said)
    shared = [step for step in steps if "small" in step]
    assert len(shared) >= 30 and max(step.get("large", 0) for step in shared) == 8
    assert max(step.get("large", 0) for step in steps) > 50  # before and after it has the steps for itself
