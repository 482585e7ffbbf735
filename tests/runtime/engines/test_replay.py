"""Recording and replay: the same job without the engine, and clear errors for another one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import (
    APR,
    Budget,
    Hogwild,
    InvalidInput,
    OutOfBlocks,
    PlaitError,
    PromptTooLong,
    Recorder,
    ReplayEngine,
    Runtime,
    ScriptedEngine,
    Sequential,
    UnsupportedByEngine,
)
from plait.runtime.engine import Capabilities, Completion, FinishReason, SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.registry import MODELS
from plait.runtime.engines.replay import View, call_key, text_key
from plait.runtime.engines.scripted import WordTokenizer
from plait.tests.runtime.methods.apr.test_apr import BAD, model
from plait.tests.runtime.methods.apr.test_paper import ROOT
from plait.tests.runtime.tools import Busy


def scripted(script=None, **options):
    return ScriptedEngine(script or model(), tokenizer=WordTokenizer(), name="toy", **options)


async def submit(engine, method, *, read_events=False, **options):
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(method, **options)
        events = [event async for event in job] if read_events else []
        return await job, events


def comparable(result):
    """All of a trace but what depends on the clock."""
    lines = json.loads(json.dumps(list(result.trace.lines())))
    for line in lines:
        for record in [line, *line.get("pieces", [])]:
            for name in ("usage", "opened", "closed", "began", "ended", "time"):
                record.pop(name, None)
    return lines


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (APR(prompt=ROOT), {}),
        (APR(prompt=ROOT, verify_join=True, max_children=1), {"seed": 4}),
        (Busy(), {"budget": Budget(total_tokens=40, width=2)}),
        (Sequential(prompt=[{"role": "user", "content": "hi"}]), {}),
    ],
    ids=["apr", "apr with options", "forks and merges", "chat"],
)
@pytest.mark.parametrize("read_events", [False, True])
async def test_a_replay_equals_the_recording(tmp_path, method, options, read_events):
    file = tmp_path / "deep" / "recording.jsonl"
    first, _ = await submit(Recorder(scripted(), file), method, **options)
    second, events = await submit(ReplayEngine(file), method, read_events=read_events, **options)
    assert comparable(second) == comparable(first)
    assert second.usage.rolled_back_tokens == first.usage.rolled_back_tokens
    assert bool(events) == read_events


async def test_recordings_from_before_texts_were_read_behind_others_are_played(tmp_path):
    file, method = tmp_path / "file", Sequential(prompt="q")
    first, _ = await submit(Recorder(scripted(), file), method)
    looked_for = {text_key("continuation", [[], text]) for text in "a0."}
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line).get("key") not in looked_for]
    assert len(kept) < len(lines)
    file.write_text("".join(kept))
    second, _ = await submit(ReplayEngine(file), method, read_events=True)
    assert comparable(second) == comparable(first)


async def test_the_replay_engine_presents_itself_as_the_recorded_one(tmp_path):
    engine = scripted(context_limit=777, capabilities=Capabilities(kv_merge=True))
    await submit(Recorder(engine, tmp_path / "file"), Sequential(prompt="q"))
    replay = ReplayEngine(tmp_path / "file")
    assert (replay.name, replay.context_limit, replay.capabilities) == ("toy", 777, engine.capabilities)
    assert replay.tokenizer.bos_id == 0 and replay.tokenizer.eos_ids == (1,)
    assert replay.tokenizer.vocab_size == engine.tokenizer.vocab_size


@pytest.mark.parametrize("change", [{"seed": 9}, {"prompt": "other"}, {"temperature": 0.5}])
async def test_another_job_is_not_in_the_recording(tmp_path, change):
    await submit(Recorder(scripted(), tmp_path / "file"), Sequential(prompt="q"))
    fields = {key: value for key, value in change.items() if key != "seed"}
    with pytest.raises(InvalidInput, match="no recorded answer|never saw"):
        await submit(
            ReplayEngine(tmp_path / "file"), Sequential(**{"prompt": "q", **fields}), seed=change.get("seed", 0)
        )


async def test_equal_calls_are_played_in_order_and_the_last_again(tmp_path):
    recorder = Recorder(ScriptedEngine(["one", "two"]), tmp_path / "file")
    async with Runtime(engine=recorder) as runtime:
        for _ in range(2):
            await (await runtime.submit(Sequential(prompt="q")))
    async with Runtime(engine=ReplayEngine(tmp_path / "file")) as runtime:
        texts = [(await (await runtime.submit(Sequential(prompt="q")))).text for _ in range(3)]
    assert texts == ["one", "two", "two"]


async def test_failures_fail_again(tmp_path):
    def script(context):
        raise OSError("engine gone")

    with pytest.raises(OSError, match="gone"):
        await submit(Recorder(scripted(script), tmp_path / "file"), Sequential(prompt="q"))
    with pytest.raises(PlaitError, match="OSError: engine gone"):
        await submit(ReplayEngine(tmp_path / "file"), Sequential(prompt="q"))


class ServerSays(PromptTooLong):
    """As engines have errors of their own below plait's."""


@pytest.mark.parametrize("kind", [PromptTooLong, OutOfBlocks, ServerSays])
async def test_failures_are_caught_again(tmp_path, kind):
    live = model()

    def script(context):
        if context.startswith(BAD):
            raise kind("at 4096: too long")
        return live(context)

    first, _ = await submit(Recorder(scripted(script), tmp_path / "file"), APR(prompt=ROOT))
    second, _ = await submit(ReplayEngine(tmp_path / "file"), APR(prompt=ROOT))
    assert second.usage.counts == first.usage.counts != {}

    def fail(context):
        raise kind("at 4096: too long")

    for engine in (lambda file: Recorder(scripted(fail), file), ReplayEngine):
        with pytest.raises(PlaitError, match="^at 4096: too long$"):
            await submit(engine(tmp_path / "file"), Sequential(prompt="q"))


async def test_interruptions_are_interrupted_again(tmp_path):
    class Slow(ScriptedEngine):
        async def complete(self, generation):
            generation.costs.prefilled_tokens = 7
            return await super().complete(generation)

    slow = Slow(lambda _: "word " * 2000, seconds_per_token=0.001)
    limits = {"budget": Budget(seconds=0.05)}
    first, _ = await submit(Recorder(slow, tmp_path / "file"), Sequential(prompt="q"), **limits)
    second, _ = await submit(ReplayEngine(tmp_path / "file"), Sequential(prompt="q"), **limits)
    assert second.text == first.text != "" and second.finish_reason == first.finish_reason == "deadline"
    assert second.usage.prefilled_tokens == first.usage.prefilled_tokens == 7


async def test_what_a_call_costs_that_is_cut_is_what_the_engine_says(tmp_path):
    recorder = Recorder(scripted(lambda _: "word " * 2000, seconds_per_token=0.001), tmp_path / "file")
    generation = recorder.open([5]).generate(SamplingParams())
    generation._generation.costs.prefilled_tokens = 3
    assert generation.costs.prefilled_tokens == 3
    await generation.aclose()
    await recorder.close()


async def test_top_logprobs_survive(tmp_path):
    class Detailed(ScriptedEngine):
        async def complete(self, generation):
            generation.append([70])
            return Completion(
                token_ids=[70], text="D", finish_reason=FinishReason.LENGTH, logprobs=[-1.0], top_logprobs=[{70: -1.0}]
            )

    recorder = Recorder(Detailed([]), tmp_path / "file")
    first = await recorder.open([5]).generate(SamplingParams(logprobs=1))
    await recorder.close()
    assert await ReplayEngine(tmp_path / "file").open([5]).generate(SamplingParams(logprobs=1)) == first


async def test_branches_of_other_engines_are_refused(tmp_path):
    recorder = Recorder(scripted(capabilities=CONTEXTS), tmp_path / "file")
    with pytest.raises(InvalidInput, match="another engine"):
        recorder.open([5]).attach([scripted().open([5])])
    root = recorder.open([5])
    one, _ = root.fork(2)
    root.attach([one])
    one.seek(4)
    assert recorder.block_usage().used == 4
    await recorder.close()


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"format": 2}', '{"type": "header", "format": 1}', "[1]"])
def test_files_that_are_no_recording(tmp_path, text):
    (tmp_path / "file").write_text(text)
    with pytest.raises(InvalidInput, match="not a recording"):
        ReplayEngine(tmp_path / "file")


CONTEXTS = Capabilities(parallel_contexts=True)


@pytest.mark.parametrize(
    "change",
    [{}, {"contexts": ("ab", "cf")}, {"context_scale": 0.3}, {"context_bias": 0.5}, {"context_temperature": 2.0}],
)
async def test_what_is_attached_is_part_of_a_call(tmp_path, change):
    method = Sequential(prompt="q", contexts=("ab", "cd"), encoding="parallel")
    engine = scripted(lambda _: "answer", capabilities=CONTEXTS)
    first, _ = await submit(Recorder(engine, tmp_path / "file"), method)
    replay = submit(ReplayEngine(tmp_path / "file"), method.model_copy(update=change))
    if not change:
        assert (await replay)[0].text == first.text
        return
    with pytest.raises(InvalidInput, match="no recorded answer|never saw"):
        await replay


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("seek"), st.integers(0, 50)),
        st.tuples(st.just("attach"), st.sampled_from([0.5, 2.0])),
        st.tuples(st.just("contexts"), st.sampled_from([0.5, 2.0])),
        st.tuples(st.just("merge"), st.none()),
        st.tuples(st.just("merge after seek"), st.integers(0, 50)),
    ),
    max_size=3,
)


def apply(branch, operations):
    for name, value in operations:
        (child,) = branch.fork(1)
        child.extend([6])
        if name == "seek":
            branch.seek(value)
        elif name == "attach":
            branch.attach([child], scale=value)
        elif name == "contexts":
            branch.attach_contexts([[5, 6]], bias=value)
        else:
            if name == "merge after seek":
                child.seek(value)
                child.extend([7])
            branch.merge([child])


@given(OPERATIONS, OPERATIONS)
async def test_a_view_is_known_by_what_was_done_to_it(recorded, replayed):
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(ScriptedEngine(lambda _: "answer", capabilities=CONTEXTS), Path(folder) / "file")
        root = recorder.open([5])
        apply(root, recorded)
        done = await root.fork(1)[0].generate()
        await recorder.close()
        branch = ReplayEngine(Path(folder) / "file").open([5])
        apply(branch, replayed)
        generation = branch.fork(1)[0].generate()
        if recorded == replayed:
            assert await generation == done
        else:
            with pytest.raises(InvalidInput, match="no recorded answer"):
                await generation


CUTS = st.sets(st.integers(1, 4))


@given(CUTS, CUTS)
async def test_merged_branches_are_known_by_where_they_end(recorded, replayed):
    """The tokens are the same ones, but not the positions."""

    def merged(engine, cuts):
        root, edges = engine.open([5]), [0, *sorted(cuts), 5]
        children = root.fork(len(edges) - 1)
        for child, start, end in zip(children, edges, edges[1:], strict=False):
            child.extend(range(6 + start, 6 + end))
        root.merge(children)
        return root

    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(ScriptedEngine(lambda _: "answer"), Path(folder) / "file")
        root = merged(recorder, recorded)
        position, done = root.position, await root.generate()
        await recorder.close()
        branch = merged(ReplayEngine(Path(folder) / "file"), replayed)
        assert branch.tokens == [5, *range(6, 11)] and root.tokens[:6] == branch.tokens
        if recorded == replayed:
            assert branch.position == position and await branch.generate() == done
        else:
            with pytest.raises(InvalidInput, match="no recorded answer"):
                await branch.generate()


def test_recordings_from_before_views_counted_are_played():
    """The name of a call whose tokens tell all is what it was."""
    key = call_key(0, (), [5], SamplingParams(), View())
    assert key == "206b83ca0000c98bdc2e4f63"


async def test_live_views_are_refused_when_they_are_recorded(tmp_path):
    engine = NativeEngine.load(MODELS / "countdown")
    async with Runtime(engine=Recorder(engine, tmp_path / "file")) as runtime:
        with pytest.raises(UnsupportedByEngine, match="not recorded"):
            await runtime.submit(Hogwild(prompt="p", rules=False))
        refuse_live_views(runtime.engine)
    async with Runtime(engine=ReplayEngine(tmp_path / "file")) as runtime:
        refuse_live_views(runtime.engine)


def refuse_live_views(engine):
    branch = engine.open([5])
    (other,) = branch.fork(1)
    more = (lambda: branch.arrange([]), lambda: branch.lockstep("g"), lambda: branch.watch(other))
    for operation in (branch.block, branch.seal, *more):
        with pytest.raises(UnsupportedByEngine, match="live views"):
            operation()
    other.close()
    branch.close()
