"""A job as agents that repair a repository make it: states, tools that take their time, a part on another model."""

from __future__ import annotations

import asyncio
import random
from typing import Literal

from plait import Context, Method, Outcome, Runtime, SamplingParams, ScriptedEngine, Trace, TracedBranch, register
from plait.runtime.engines.scripted import WordTokenizer
from plait.runtime.trace.record import ToolRecord

ISSUE = """Blueprints accept an empty name. Require that it is not empty: an empty name is a mistake that shows up late,
when two blueprints without a name are registered and one of them silently takes the place of the other."""
SCRIPT = """import flask

try:
    flask.Blueprint("", __name__)
except ValueError as error:
    print("refused:", error)
    raise SystemExit(0)
print("accepted an empty name")
raise SystemExit(2)
"""
EDIT = """The check belongs into the constructor, beside the one for dots in the name.

<edit>
<<<< SEARCH src/flask/blueprints.py
        if "." in name:
==========
        if not name:
            raise ValueError("'name' may not be empty.")

        if "." in name:
>>>> REPLACE
</edit>"""
ESCAPES = "\x1b[31mFAILED\x1b[0m <img src=x onerror=document.title='broken'> \u202etxet"
SECONDS_PER_TOKEN = 0.0003


def write(context: str) -> str:
    """What the model says next, by what it was asked last."""
    asked = context.rsplit("\n## ", 1)[-1]
    if asked.startswith("Which"):
        return (
            "src/flask/blueprints.py holds the constructor, so it comes first. src/flask/app.py registers blueprints."
        )
    if asked.startswith("Write a test"):
        return f"I create a blueprint without a name and look whether it is refused.\n<test>\n{SCRIPT}</test>"
    if asked.startswith("Write the edit"):
        return EDIT
    if asked.startswith("Choose"):
        return "Both candidates refuse the empty name; the first is the shorter one.\n<choice>0</choice>"
    if "exit code 1" in asked:
        return f"The script broke before it came to the point; this one does not.\n<test>\n{SCRIPT}</test>"
    return "The script shows the issue on the original and its absence after the edit. <done>"


def output(rng: random.Random, code: int) -> str:
    lines = [
        f"tests/test_blueprints.py::test_{rng.choice(['name', 'dots', 'url', 'nested'])}_{i} PASSED" for i in range(40)
    ]
    return "\n".join([*lines, ESCAPES if code else "", f"exit code {code}"])


@register
class Repair(Method):
    """Trajectories that write tests and edits in turns, each test run against each edit, and a choice."""

    method: Literal["test_repair"] = "test_repair"
    trajectories: int = 4
    slowness: float = 1.0
    """Factor of the tools' seconds."""

    async def run(self, ctx: Context) -> Outcome:
        rng = random.Random(3)
        other = ScriptedEngine(write, tokenizer=WordTokenizer(), name="ranker", seconds_per_token=SECONDS_PER_TOKEN)
        trunk = ctx.open(ctx.tokenizer.encode(f"# Issue\n{ISSUE}\n"), label="repository")
        trunk.enter("relevance")
        with ctx.on(other, parent=trunk) as part:
            ranker = part.open(part.tokenizer.encode("\n## Which files matter?\n"), label="relevance")
            await ranker.generate(SamplingParams(max_tokens=200, logprobs=0))
        trunk.enter("test_and_edit")
        testers = [ctx.open(ctx.tokenizer.encode(ISSUE), label=f"test {i}") for i in range(self.trajectories)]
        editors = trunk.fork(self.trajectories, [f"edit {i}" for i in range(self.trajectories)])
        await ctx.parallel(self._trajectory, [(branch, rng.random(), False) for branch in testers])
        await ctx.parallel(self._trajectory, [(branch, rng.random(), True) for branch in editors])
        trunk.enter("cross_execution")
        pairs = [(edit, test) for edit in range(3) for test in range(2)]
        await asyncio.gather(*(self._test(trunk, rng.random(), f"edit {edit}", test) for edit, test in pairs))
        trunk.enter("selection")
        trunk.join(self._said(ctx, "Choose between 2 candidates."), {b.id: i != 2 for i, b in enumerate(editors)})
        choice = await trunk.generate(SamplingParams(max_tokens=200, logprobs=0))
        trunk.enter("done")
        return Outcome(text=choice.text, answer="candidate 0", finish=choice.finish)

    async def _trajectory(self, ctx: Context, item: tuple[TracedBranch, float, bool]) -> None:
        branch, seed, is_edit = item
        rng = random.Random(seed)
        branch.enter("write_initial_edit" if is_edit else "write_initial_script")
        branch.extend(self._said(ctx, "Write the edit." if is_edit else "Write a test."))
        await branch.generate(SamplingParams(max_tokens=200, logprobs=0))
        for turn in range(3):
            branch.enter("exec_script")
            runs = [self._test(branch, rng.random(), "original", turn)]
            if is_edit:
                runs.append(self._test(branch, rng.random(), "edit", turn))
            codes = await asyncio.gather(*runs)
            branch.enter("approve_or_revise")
            branch.extend(self._said(ctx, f"Runs gave exit code {codes[-1]}."))
            said = await branch.generate(SamplingParams(max_tokens=200, logprobs=0))
            if "<done>" in said.text:
                break
        branch.enter("done")

    async def _test(self, branch: TracedBranch, seed: float, on: str, number: int) -> int:
        rng = random.Random(seed)
        code = rng.choice([0, 0, 1])
        try:
            with branch.tool("test", on=on, number=number, script=SCRIPT) as call:
                await self._execute(call, rng, code)
        except TimeoutError:
            return 1
        return code

    async def _execute(self, call: ToolRecord, rng: random.Random, code: int) -> None:
        await asyncio.sleep(rng.uniform(0.01, 0.06) * self.slowness)
        if rng.random() < 0.15:
            raise TimeoutError("no result after 100 s")
        call.ok, call.output = code == 0, output(rng, code)

    @staticmethod
    def _said(ctx: Context, text: str) -> list[int]:
        return ctx.tokenizer.encode_continuation((), f"\n## {text}\n")


async def repair(trajectories: int = 4, slowness: float = 1.0) -> Trace:
    engine = ScriptedEngine(write, tokenizer=WordTokenizer(), seconds_per_token=SECONDS_PER_TOKEN)
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(Repair(trajectories=trajectories, slowness=slowness))
        await job.wait()
        return job.trace
