"""Methods inside methods: budgets, events, traces, memory, replay and cancellation hold through all levels."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from plait import (
    APR,
    Budget,
    Finish,
    InvalidJob,
    PromptTooLong,
    Recorder,
    ReplayEngine,
    Runtime,
    ScriptedEngine,
    SelfConsistency,
    Sequential,
    Trace,
)
from plait.runtime.budget import Ledger
from plait.runtime.engine import BlockUsage
from plait.runtime.engines.native.drafting import ROWS
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.events import BranchEvent, BranchStarted, Done, Failed, Started, Stopped, Text
from plait.runtime.job_spec import JobSpec, parse_job
from plait.runtime.methods.registry import parse_method
from plait.search.tree_search import TreeSearch
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.search.nestings import MarksTokenizer, by_length, nestings, scripted

TOKENIZER = MarksTokenizer()
_, FOLDER = tiny(
    "llama", vocab_size=TOKENIZER.vocab_size, max_position_embeddings=320, hidden_size=32, intermediate_size=48,
    num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, seed=3,
)  # fmt: skip
MODEL = load_model(FOLDER)
SMALL = 512

budgets = st.builds(
    Budget,
    total_tokens=st.none() | st.integers(1, 400),
    critical_tokens=st.none() | st.integers(1, 120),
    width=st.none() | st.integers(3, 4),
    depth=st.none() | st.integers(0, 1),
)
crowds = st.lists(nestings(live=True), max_size=2)
few = settings(
    deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate), suppress_health_check=list(HealthCheck)
)


def native(kv_tokens: int, *, drafts: bool = False) -> NativeEngine:
    rows = ROWS if drafts and MODEL.stack is not None else 0
    return NativeEngine(MODEL, TOKENIZER, NativeOptions(kv_tokens=kv_tokens, draft_rows=rows), name="tiny")


@contextmanager
def audited():
    """Every share of a ledger is handed back with what was not spent of it, at all levels."""
    given_to: dict[int, tuple[Ledger, int | None]] = {}
    split, give_back = Ledger.split, Ledger.give_back

    def watched_split(self, parts, reserve=0):
        shares = split(self, parts, reserve)
        given_to.update({id(share): (share, share.left) for share in shares})
        assert self.left is None or self.left >= 0
        return shares

    def watched_return(self, share):
        _, amount = given_to.pop(id(share))
        assert (share.left is None) == (amount is None)
        assert share.left is None or (share.left >= 0 and share.left + share.spent == amount)
        give_back(self, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "split", watched_split)
        patch.setattr(Ledger, "give_back", watched_return)
        yield
    assert not given_to


def said(result):
    """All that a job wrote, and what came of it."""
    pieces = [(s.branch, s.position, p.kind, p.token_ids, p.finish) for s in result.trace.segments for p in s.pieces]
    return result.text, result.answer, result.finish_reason, sorted(pieces), dict(result.usage.counts)


def check_books(result, budget):
    usage = result.usage
    pieces = [piece for segment in result.trace.segments for piece in segment.pieces]
    count = Counter[str]()
    for piece in pieces:
        count[piece.kind] += len(piece.token_ids)
    assert set(count) <= {"prompt", "sampled", "injected"}
    assert usage.critical_tokens <= usage.total_tokens == usage.generated_tokens + usage.injected_tokens
    assert count["sampled"] <= usage.generated_tokens and count["injected"] <= usage.injected_tokens
    assert budget.total_tokens is None or usage.total_tokens <= budget.total_tokens
    assert budget.critical_tokens is None or usage.critical_tokens <= budget.critical_tokens
    branches = result.trace.branches
    assert usage.branches == len(branches)
    assert all(b.parent is None or b.parent in branches for b in branches.values())
    assert all(b.closed is not None and b.opened is not None for b in branches.values())
    assert budget.depth is None or all(b.level <= budget.depth for b in branches.values())


def check_events(events, result):
    """Complete and in order: every branch is announced before it does anything, and nothing is missing."""
    assert isinstance(events[0], Started) and isinstance(events[-1], Done)
    assert not any(isinstance(e, (Started, Done, Failed)) for e in events[1:-1])
    known: set[str] = set()
    texts, stopped = Counter[str](), Counter[str]()
    for one in events:
        if isinstance(one, BranchStarted):
            assert one.branch not in known and (one.parent is None or one.parent in known)
            known.add(one.branch)
        elif isinstance(one, BranchEvent):
            assert one.branch in known
        if isinstance(one, Text):
            texts[one.branch] += one.tokens
        if isinstance(one, Stopped):
            stopped[one.branch] += one.tokens
    assert known == set(result.trace.branches)
    assert all(texts[branch] <= stopped[branch] for branch in known)
    assert sum(stopped.values()) == result.usage.generated_tokens
    assert events[-1].total_tokens == result.usage.total_tokens


def check_trace(result):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.jsonl"
        result.trace.save(file)
        loaded = Trace.load(file)
    before, after = ([json.dumps(line) for line in trace.lines()] for trace in (result.trace, loaded))
    assert after == before
    return loaded


async def one(runtime, spec):
    job = await runtime.submit(spec)
    events = [event async for event in job]
    result = await job
    return result, events


def check_native(engine):
    engine.store.check_integrity()
    assert engine.num_branches == 0 and engine.block_usage().used == 0
    assert engine.store.num_swapped == 0 and engine.store.swap.used == 0
    assert not engine.scheduler.running and not engine.scheduler.pressure.suspended and not engine.scheduler.gangs


async def idle():
    """No task is left."""
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@settings(few, max_examples=15)
@given(method=nestings(live=False), budget=budgets, seed=st.integers(0, 3))
def test_nested_methods_on_a_script(method, budget, seed):
    spec = JobSpec(method=method, budget=budget, seed=seed)

    async def main():
        with TemporaryDirectory() as folder, audited():
            file = Path(folder) / "calls.jsonl"
            async with Runtime(engine=Recorder(scripted(), file)) as runtime:
                result, events = await one(runtime, spec)
            check_books(result, budget)
            check_events(events, result)
            loaded = check_trace(result)
            again = parse_job(
                {"method": loaded.header["method"], "budget": budget.model_dump(exclude_none=True), "seed": seed}
            )
            assert again.method == method
            async with Runtime(engine=ReplayEngine(file)) as runtime:
                replayed, _ = await one(runtime, again)
            assert said(replayed) == said(result)
        await idle()
        event(f"branches {min(len(result.trace.branches) // 5, 5)}")

    asyncio.run(main())


@settings(few, max_examples=12)
@given(
    method=nestings(live=True), budget=budgets, seed=st.integers(0, 3), others=crowds, drafts=st.booleans(),
)  # fmt: skip
def test_nested_methods_alone_beside_others_and_in_little_memory(method, budget, seed, others, drafts):
    spec = JobSpec(method=method, budget=budget, seed=seed)

    async def main():
        with audited():
            async with Runtime(engine=native(1 << 15)) as runtime:
                result, events = await one(runtime, spec)
                check_native(runtime.engine)
            check_books(result, budget)
            check_events(events, result)
            again = JobSpec(method=check_trace(result).header["method"], budget=budget, seed=seed)
            small = native(SMALL, drafts=drafts)
            async with Runtime(engine=small) as runtime:
                jobs = [await runtime.submit(other, seed=7) for other in others]
                crowded, _ = await one(runtime, again)
                results = [crowded, *[await job for job in jobs]]
                check_native(small)
        await idle()
        event(f"preempted {small.scheduler.pressure.num_preemptions > 0}, swapped {small.store.swap.moved_out > 0}")
        if not any(b.finish == "memory" for r in results for b in r.trace.branches.values()):
            assert said(crowded) == said(result)

    asyncio.run(main())


@settings(few, max_examples=12)
@given(method=nestings(live=True), at=st.integers(0, 60), small=st.booleans())
def test_cancelled_anywhere_nested_methods_leave_nothing(method, at, small):
    async def main():
        engine = native(SMALL if small else 1 << 15)
        async with Runtime(engine=engine) as runtime:
            job = await runtime.submit(method)
            other = await runtime.submit(Sequential(prompt="a", max_tokens=30))
            seen = []
            async for one_event in job:
                seen.append(one_event)
                if len(seen) > at:
                    job.cancel("enough")
            try:
                await job
                assert isinstance(seen[-1], Done)
            except asyncio.CancelledError:
                assert isinstance(seen[-1], Failed) and seen[-1].cancelled
            await other
            check_native(engine)
            await runtime.submit(Sequential(prompt="a", max_tokens=3))
        check_native(engine)
        await idle()

    asyncio.run(main())


@settings(few, max_examples=15)
@given(method=nestings(live=True))
def test_a_deadline_that_is_over_ends_nested_methods(method):
    async def main():
        async with Runtime(engine=native(SMALL)) as runtime:
            result, events = await one(runtime, JobSpec(method=method, budget=Budget(seconds=1e-9)))
            check_native(runtime.engine)
        check_events(events, result)
        check_trace(result)
        assert result.finish_reason is Finish.DEADLINE and result.usage.generated_tokens == 0
        await idle()

    asyncio.run(main())


async def solve(method, script, **limits):
    engine = ScriptedEngine(script)
    async with Runtime(engine=engine) as runtime:
        result = await (await runtime.submit(method, budget=Budget(**limits)))
    assert not engine.branches
    return result


async def test_samples_of_any_method_vote_by_its_own_rule():
    inner = Sequential(prompt="replaced", answer=r"regex:=(\d)")
    result = await solve(SelfConsistency(prompt="q", n=3, generator=inner), ["=1", "so =2", "=2"])
    assert (result.answer, result.text) == ("2", "so =2") and result.details["votes"] == {"1": 1, "2": 2}
    assert {s.pieces[0].text for s in result.trace.segments} == {"<s>q"}


async def test_children_of_any_method_hand_back_its_answer():
    def script(context):
        if context.endswith("q"):
            return "ab!go "
        return "end" if "(joined" in context else {"x": "=7", "y": "none"}[context[0]]

    inner = SelfConsistency(prompt="-", n=2, generator=Sequential(prompt="-", answer=r"regex:=(\d)"))
    result = await solve(APR(prompt="q", dialect="test_calls", generator=inner), script)
    assert result.text == "ab(joined x: 7)(joined y: -)end" and result.details["threads"] == 3
    (join,) = result.trace.joins
    by_label = {b.label: b.id for b in result.trace.branches.values()}
    assert join.children == (by_label["x"], by_label["y"]) and join.found == (by_label["x"],)
    assert [len(result.trace.children_of(child)) for child in join.children] == [2, 2]
    assert all(b.level == 1 for b in result.trace.branches.values() if b.parent in join.children)


@pytest.mark.parametrize("own", [None, 400])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("holder", [SelfConsistency, APR, TreeSearch])
async def test_what_a_thread_may_span_holds_for_methods_inside(holder, depth, own):
    generator = Sequential(prompt="-", context_limit=own)
    if depth == 2:
        generator = SelfConsistency(prompt="-", n=2, generator=generator)
    more = {APR: {"dialect": "test_calls"}, TreeSearch: {"width": 1, "reward": by_length, "strategy": "beam"}}
    method = holder(prompt="q", generator=generator, context_limit=40, max_tokens=50, **more.get(holder, {}))
    result = await solve(method, lambda text: "ab!go " if holder is APR and text.endswith("q") else "z" * 100)
    longest = max(len(s) + sum(span.length or 0 for span in s.view) for s in result.trace.segments)
    assert longest == 40


async def test_the_limit_of_a_method_inside_holds_where_it_is_less():
    inner = Sequential(prompt="-", context_limit=40)
    result = await solve(SelfConsistency(prompt="q", n=1, generator=inner, context_limit=400), ["z" * 100])
    assert result.finish_reason is Finish.CONTEXT and len(result.text) == 40 - len(["<s>", "q"])


async def test_a_trajectory_that_fills_the_context_of_its_generator_ends():
    inner = Sequential(prompt="-", context_limit=8, stop=(";",))
    method = TreeSearch(prompt="q", generator=inner, width=1, reward=by_length, strategy="beam", delimiters=(";",))
    result = await solve(method, lambda context: "abc;")
    assert result.finish_reason is not Finish.FAILED and result.trace.branches


async def test_a_trajectory_that_fills_the_store_of_its_generator_ends():
    class Small(ScriptedEngine):
        def block_usage(self, job=None):
            return BlockUsage(total=1, free=1, cached=0, used=0)

    inner = Sequential(prompt="-", stop=(";",))
    method = TreeSearch(prompt="q", generator=inner, width=1, reward=by_length, strategy="beam", delimiters=(";",))
    async with Runtime(engine=Small(lambda context: "abc;")) as runtime:
        result = await (await runtime.submit(method))
    assert result.text.startswith(4 * "abc;") and result.finish_reason is Finish.MEMORY


def nested(method, generator):
    return parse_method({"method": method, "prompt": "q", "generator": generator})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda g: SelfConsistency(prompt="q", generator=g, conclusion="="), InvalidJob, "give constraint, contexts"),
        (lambda g: nested("self_consistency", {"method": "nobody"}), InvalidJob, "unknown method"),
        (lambda g: nested("apr", "multiverse"), InvalidJob, "generator"),
        (lambda g: TreeSearch(prompt="q", generator=g, contexts=("c",)), InvalidJob, "without contexts"),
        (
            lambda g: TreeSearch(
                prompt="q",
                chat=True,
                generator=SelfConsistency(prompt="p", generator=Sequential(prompt="p", contexts=("c",))),
            ),
            InvalidJob,
            "have no place",
        ),
        (lambda g: SelfConsistency(prompt="long", generator=APR(prompt="q", generator=g)), PromptTooLong, "context"),
    ],
)
async def test_what_cannot_be_nested_is_refused_before_any_work(make, error, message):
    with pytest.raises(error, match=message):
        await solve(make(Sequential(prompt="p", context_limit=2)), ["never"])
