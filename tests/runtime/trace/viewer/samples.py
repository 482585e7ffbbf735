"""Traces of every kind of job, for the viewer to draw."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Literal

from plait import APR, Method, Multiverse, Runtime, ScriptedEngine, SelfConsistency, Trace, TreeSearch
from plait.runtime.trace.record import (
    BranchRecord,
    JoinRecord,
    Piece,
    SegmentRecord,
    SpanRecord,
    StateRecord,
    ToolRecord,
)
from plait.tests.runtime.methods.apr.test_apr import model
from plait.tests.runtime.methods.apr.test_paper import ROOT
from plait.tests.runtime.methods.hogwild import tools as hogwild_tools
from plait.tests.runtime.methods.multiverse.tools import Par, scripted
from plait.tests.runtime.trace.viewer.repair import repair
from plait.tests.search.tools import Steps, by_value


async def run(method: Method, engine: ScriptedEngine, *, cancel: bool = False) -> Trace:
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(method)
        if cancel:
            async for event in job:
                if event.type == "text":
                    job.cancel()
        await job.wait()
        return job.trace


async def apr() -> Trace:
    return await run(APR(prompt=ROOT), ScriptedEngine(model()))


async def multiverse() -> Trace:
    inner = Par({"1.1": ["left"], "1.2": ["right"]}, "both")
    items = ["<Think>\n", Par({"1": ["one\n", inner, "more"], "2": ["two"]}, "so"), "\n</Think>\n\nAnswer: 7"]
    return await run(Multiverse(prompt="Q"), scripted(items))


async def hogwild() -> Trace:
    script = {
        "A": hogwild_tools.said("I look.\n\n", "Then I check.\n\n", "Done now.\n\n"),
        "B": hogwild_tools.said("Me too.\n\n", "I see what A found.\n\n", "Yes."),
    }
    trace = (await hogwild_tools.play(hogwild_tools.job(script))).trace
    assert trace is not None
    return trace


async def tree_search() -> Trace:
    children = {"q": ["a;", "b;", "c;", "d;"], "qa;": ["e;", "f;"], "qb;": ["g;", "h;"], "qa;e;": ["=7"]}
    reward = by_value({"a": 0.9, "b": 0.6, "e": 0.9, "f": 0.3, "g": 0.8}, default=0.1)
    method = TreeSearch(prompt="q", strategy="beam", width=4, reward=reward, delimiters=(";",), answer=r"regex:=(\d)")
    return await run(method, Steps(children))


async def samples() -> Trace:
    return await run(SelfConsistency(prompt="q", n=4, answer="text"), ScriptedEngine(lambda _: "four"))


async def cancelled() -> Trace:
    return await run(APR(prompt=ROOT), ScriptedEngine(model()), cancel=True)


async def empty() -> Trace:
    return Trace()


async def hostile() -> Trace:
    """Text that would break out of its element, and names that would be read as HTML."""
    trace = Trace({"model": "<b>m</b>", "method": {"method": "</title><script>alert(1)</script>"}})
    text = "</script><!-- <script> \u2028 \ud800 \U0001f9f5 e\u0301 \x00 </pre>"
    trace.branches["0"] = BranchRecord(id="0", parent=None, origin="open", label="<img src=x onerror=1>", level=0)
    segment = trace.new_segment("0", 0, ())
    ids = list(range(len(text)))
    logprobs = [-float("inf"), -0.0, float("nan"), *[-1.0] * (len(text) - 3)]
    segment.pieces.append(Piece(kind="prompt", token_ids=[1], text=text))
    segment.pieces.append(Piece(kind="sampled", token_ids=ids, text=text, logprobs=logprobs, chars=[1] * len(text)))
    tool = ToolRecord(branch="0", tool=text, arguments={"<b>": text, "__proto__": "x"}, began=0.0, output=text)
    trace.tools.append(tool)
    trace.states.append(StateRecord(branch="0", state=text, time=0.0))
    trace.end = {"finish": "eos", "answer": text}
    return trace


SAMPLES = {f.__name__: f for f in (apr, multiverse, hogwild, tree_search, samples, repair, cancelled, empty, hostile)}


def sample(name: str) -> Trace:
    return asyncio.run(SAMPLES[name]())


def large(num_branches: int = 500, num_tokens: int = 100_000, seed: int = 0) -> Trace:
    """A tree of spawned and forked branches, all joined, with random text and surprise."""
    rng = random.Random(seed)
    words = [" ".join(rng.choices(["the", "sum", "of", "12", "+", "so", "then"], k=1)) + " " for _ in range(50)]
    trace = Trace({"model": "random", "method": {"method": "large"}})
    each = num_tokens // num_branches
    ends: dict[str, int] = {}
    owns: dict[str, list[SegmentRecord]] = defaultdict(list)

    def write(name: str, step: int, kind: Literal["prompt", "injected", "sampled"], count: int) -> None:
        tokens = [rng.randrange(50) for _ in range(count)]
        texts = [words[token] for token in tokens]
        step = max(step, ends.get(name, 0))
        view = tuple(SpanRecord(segment=own.id, length=len(own)) for own in owns[name])
        segment = trace.new_segment(name, step, view)
        owns[name].append(segment)
        segment.pieces.append(
            Piece(
                kind=kind,
                token_ids=tokens,
                text="".join(texts),
                logprobs=[-rng.expovariate(2) for _ in tokens] if kind == "sampled" else None,
                chars=[len(text) for text in texts] if kind == "sampled" else None,
                step=step,
                began=step / 100,
                ended=(step + count) / 100,
            )
        )
        ends[name] = step + count * (kind != "prompt")

    for number in range(num_branches):
        parent = f"{rng.randrange(max(number // 4, 1))}" if number else None
        opened = ends[parent] // 2 if parent else 0
        trace.branches[str(number)] = BranchRecord(
            id=str(number),
            parent=parent,
            origin="fork" if number % 2 else "open",
            label=f"branch {number}" if number % 3 else "",
            level=0,
            finish="eos",
            pruned="low score" if number % 7 == 6 else None,
            step=opened,
            opened=opened / 100,
            closed=(opened + each) / 100,
        )
        if not number % 2:
            write(str(number), opened, "prompt", 10)
        write(str(number), opened, "sampled", each)
    for number in range(0, num_branches, 25):
        name = str(number)
        children = tuple(child.id for child in trace.children_of(name) if child.pruned is None)
        if children:
            step = max(ends[name], *(ends[child] for child in children))
            trace.joins.append(
                JoinRecord(
                    branch=name,
                    children=children,
                    found=children[::2],
                    segment=len(trace.segments),
                    step=step,
                    time=step / 100,
                )
            )
            write(name, step, "injected", 20)
    trace.end = {"finish": "eos", "answer": "42"}
    return trace
