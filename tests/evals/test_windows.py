"""What is derived for a smaller window equals what running there gives, on the shipped model."""

from __future__ import annotations

import asyncio

import pytest

from plait import APR, Budget, Hogwild, Multiverse, Runtime, ScriptedEngine, SelfConsistency, Sequential
from plait.evals import MethodConfig
from plait.evals.benchmarks.countdown.benchmark import Countdown
from plait.evals.windows import longest_context, narrow
from plait.runtime.methods.prompt import prompt_tokens
from plait.tests.evals.benchmarks.countdown.players import engine, player

METHODS = [
    {"method": "sequential"},
    {"method": "self_consistency", "n": 3},
    {"method": "self_consistency", "n": 3, "temperature": 0.0},
    {"method": "apr"},
    {"method": "self_consistency", "n": 3, "generator": {"method": "sequential", "prompt": "-", "answer": "countdown"}},
]
CUT = METHODS[:3]
"""Those whose text in a smaller window is a prefix."""
WINDOWS = [9, 20, 60, 130]


@pytest.fixture(scope="module")
def benchmark():
    return Countdown(numbers=3, count=3)


async def outcome(runtime, method):
    result = await (await runtime.submit(method, seed=5))
    usage = result.usage
    return (result.answer, result.text, result.finish_reason, usage.total_tokens, usage.critical_tokens), result


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: fields["method"])
async def test_narrowed_equals_run(benchmark, fields):
    async with Runtime("countdown") as runtime:
        derived, seen = await compare(runtime, benchmark, fields, 400, WINDOWS)
    assert derived >= 6
    assert seen == ({True, False} if fields in CUT else {True})


@pytest.mark.parametrize("fields", METHODS[:4], ids=lambda fields: fields["method"])
async def test_narrowed_equals_run_in_the_papers_language(fields):
    fields = {**fields, "sub_call_budget": 3} if fields["method"] == "apr" else fields
    paper = Countdown(language="paper", count=4, token_budget=1024)
    script = player([sample.data for sample in paper.load()])
    async with Runtime(engine=engine(script)) as runtime:
        derived, seen = await compare(runtime, paper, fields, 4000, [30, 200, 600, 1500, 3000])
    assert derived >= 6
    assert seen == ({True} if fields["method"] == "apr" else {True, False})


async def test_a_conclusion_needs_room_whether_it_comes_or_not():
    async with Runtime(
        engine=ScriptedEngine(lambda text: "so be it" if text.endswith("so ") else "x" * 100)
    ) as runtime:
        method = Sequential(prompt="p", answer="boxed", conclusion="so ", conclusion_tokens=20, context_limit=400)
        _, larger = await outcome(runtime, method)
        longest = longest_context(larger.trace)
        for window in range(longest - 1, longest + 30):
            narrowed = narrow(method, larger, window, runtime.tokenizer)
            expected, _ = await outcome(runtime, method.model_copy(update={"context_limit": window}))
            assert narrowed is None or narrowed.text == expected[1], window
        assert narrowed is not None


async def compare(runtime, benchmark, fields, largest, windows):
    """Derive the outcomes in these windows from runs in the largest, and run in each; how many there were, and whether
    all fitted in."""
    derived, seen = 0, set()
    for sample in benchmark.load():
        method = MethodConfig(fields=fields)
        _, result = await outcome(runtime, method.build(benchmark, sample, largest))
        whole = longest_context(result.trace) + result.usage.rolled_back_tokens
        built = {window: method.build(benchmark, sample, window) for window in {*windows, whole - 1, whole, whole + 1}}
        found = {window: narrow(built[window], result, window, runtime.engine.tokenizer) for window in built}
        found = {window: narrowed for window, narrowed in found.items() if narrowed is not None}
        runs = await asyncio.gather(*(outcome(runtime, built[window]) for window in found))
        for (window, narrowed), (expected, again) in zip(found.items(), runs, strict=True):
            values = (narrowed.answer, narrowed.text, narrowed.finish)
            assert (*values, narrowed.total_tokens, narrowed.critical_tokens) == expected
            assert narrowed.is_same == (window > whole)
            assert longest_context(again.trace) <= window
            derived += 1
            seen.add(narrowed.is_same)
    return derived, seen


async def test_what_would_run_differently_is_not_derived(benchmark):
    sample = benchmark.load()[0]
    prompt = benchmark.prompt(sample, "sequential")["prompt"]
    async with Runtime("countdown") as runtime:
        tokenizer = runtime.engine.tokenizer
        length = len(prompt_tokens(prompt, tokenizer))
        concluding = Sequential(prompt=prompt, conclusion="answer", answer="countdown", context_limit=400)
        stopping = Sequential(prompt=prompt, stop=("x _ ", "answer"), context_limit=400)
        for method, window, budget in [
            (concluding, 60, {}),
            (stopping, 60, {}),
            (Sequential(prompt=prompt, context_limit=400), length, {}),
            (Sequential(prompt=prompt, context_limit=400), 200, {"total_tokens": 20}),
            (APR(prompt=prompt, dialect="compact", context_limit=400), 60, {}),
            (SelfConsistency(prompt=prompt, n=2, generator=Hogwild(prompt="-", workers=1), context_limit=400), 399, {}),
            (SelfConsistency(prompt=prompt, n=2, conclusion="answer"), 60, {}),
            (Multiverse(prompt=prompt, context_limit=400), 60, {}),
        ]:
            result = await (await runtime.submit(method, budget=Budget(**budget)))
            assert narrow(method, result, window, tokenizer) is None, method
