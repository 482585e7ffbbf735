"""What sampling parameters refuse, alone and as fields of methods; a model's defaults; bounds that nobody asked for."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import (
    APR,
    Constraint,
    Finish,
    InvalidInput,
    InvalidJob,
    Recorder,
    ReplayEngine,
    Runtime,
    SamplingDefaults,
    SamplingParams,
    ScriptedEngine,
    SelfConsistency,
    Sequential,
    TreeSearch,
    parse_job,
)
from plait.runtime.methods.hogwild import Hogwild
from plait.runtime.methods.multiverse import Multiverse
from plait.runtime.sampling import MAX_BIAS, MAX_PENALTY, MAX_STOP_CHARS, MAX_TOP_K, MIN_TEMPERATURE

NAN, INF, HUGE = math.nan, math.inf, 10**5000

REFUSED = {
    "max_tokens": [-1, True, 1.0, "5", -HUGE],
    "temperature": [-0.1, INF, -INF, NAN, 1e-310, 9e-7, "hot", True, False, None, HUGE],
    "top_k": [-1, True, 2.0, NAN, None],
    "top_p": [0.0, 0, -0.1, 1.01, NAN, INF, True, None],
    "min_p": [-0.1, 1.01, NAN, INF, False, None],
    "repetition_penalty": [0.0, -1.0, INF, NAN, 1e-7, 2e6, True, None],
    "stop": ["END", ("",), ("a", ""), (3,), (b"x",), None, {"a"}],
    "include_stop": [1, None],
    "stop_token_ids": [(-1,), (True,), (1.0,), 5, (-HUGE,)],
    "ignore_eos": [0],
    "forced": [(-1,), ("a",), None],
    "logit_bias": [{-1: 1.0}, {True: 1.0}, {1: NAN}, {1: INF}, {1: -INF}, {1: 1e39}, {1: True}, [(1, 1.0)]],
    "forbidden_ids": [(-3,), (False,)],
    "constraint": ["[ab]+", {"kind": "regex", "source": "a"}],
    "constrained": [(-1,), ("a",), None, (3,)],
    "logprobs": [-1, True, 0.0],
    "hidden_state": ["yes"],
    "certainty": [1, None],
}


def test_every_field_is_in_the_table():
    assert set(REFUSED) == {f.name for f in fields(SamplingParams)}


@pytest.mark.parametrize("name", REFUSED)
def test_params_are_refused_when_they_are_made(name):
    for value in REFUSED[name]:
        with pytest.raises(InvalidInput, match=name):
            SamplingParams(**{name: value})


EDGES = [
    {"temperature": MIN_TEMPERATURE},
    {"temperature": 1e308},
    {"temperature": 1},
    {"top_p": 5e-324},
    {"top_p": 1},
    {"min_p": 1.0},
    {"repetition_penalty": MAX_PENALTY},
    {"repetition_penalty": 1 / MAX_PENALTY},
    {"logit_bias": {0: MAX_BIAS, 1: -MAX_BIAS, 2: 3}},
    {"stop": ["a"], "stop_token_ids": [3]},
    {"max_tokens": HUGE, "top_k": HUGE},
    {"constraint": Constraint(kind="regex", source="a+"), "constrained": (1,)},
    {"ignore_eos": True},
]


@pytest.mark.parametrize("values", EDGES, ids=lambda values: next(iter(values)))
def test_the_edges_are_allowed(values):
    SamplingParams(**values)


def test_a_top_k_beyond_any_vocabulary_fits_a_machine_integer():
    for made in (SamplingParams(top_k=HUGE), SamplingDefaults(top_k=2**63)):
        assert made.top_k == MAX_TOP_K
    assert SamplingParams(top_k=MAX_TOP_K - 1).top_k == MAX_TOP_K - 1


def test_whole_numbers_are_numbers_like_others():
    fields = {"temperature": 1, "top_p": 1, "min_p": 0, "repetition_penalty": 2}
    for made in (SamplingParams(**fields, logit_bias={3: 4}), SamplingDefaults(**fields)):
        assert all(type(getattr(made, name)) is float and getattr(made, name) == fields[name] for name in fields)
    assert type(SamplingParams(logit_bias={3: 4}).logit_bias[3]) is float


def test_what_was_checked_cannot_change():
    stop, bias = ["a"], {1: 1.0}
    params = SamplingParams(stop=stop, logit_bias=bias)
    stop.append("")
    bias[-5] = NAN
    assert (params.stop, params.logit_bias) == (("a",), {1: 1.0})


VOCABULARY = {
    "logit_bias": {"logit_bias": {10**6: 1.0}},
    "forbidden_ids": {"forbidden_ids": (0, 131)},
    "stop_token_ids": {"stop_token_ids": (131,)},
    "forced": {"forced": (5, 131)},
    "forced that are huge": {"forced": (HUGE,)},
    "logprobs": {"logprobs": 132},
    "all of them": {"forbidden_ids": tuple(range(131))},
}


@pytest.mark.parametrize("name", VOCABULARY)
def test_the_vocabulary(name):
    params = SamplingParams(**VOCABULARY[name])
    if "huge" not in name:
        params.check_vocabulary(1000001)
    with pytest.raises(InvalidInput, match=f"{next(iter(VOCABULARY[name]))}.*131"):
        params.check_vocabulary(131)


async def test_engines_without_a_model_ask_their_tokenizer():
    engine = ScriptedEngine(["a"])
    branch = engine.open([5])
    with pytest.raises(InvalidInput, match="forced"):
        branch.generate(SamplingParams(forced=(engine.tokenizer.vocab_size,)))
    assert (await branch.generate()).text == "a"
    await engine.close()


SHARED = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "stop_token_ids")


@pytest.mark.parametrize("cls", [Sequential, SelfConsistency, APR, Multiverse, Hogwild, TreeSearch])
@pytest.mark.parametrize("name", SHARED)
def test_methods_refuse_the_same(cls, name):
    fields = {"reward": lambda prompt, steps: 0.0} if cls is TreeSearch else {}
    for value in REFUSED[name]:
        if value is None and name != "stop":
            continue  # leaves it to the model or the method
        if isinstance(value, set):
            continue  # pydantic makes a tuple of it
        with pytest.raises(InvalidJob, match=name):
            cls(prompt="x", **fields, **{name: value})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1e-310", "true", '"1"'])
def test_jobs_in_json_are_refused_as_well(number):
    with pytest.raises(InvalidJob, match="temperature"):
        parse_job(f'{{"method": {{"method": "sequential", "prompt": "x", "temperature": {number}}}}}')


async def test_stop_tokens_are_checked_before_any_work():
    async with Runtime(engine=ScriptedEngine([])) as runtime:
        with pytest.raises(InvalidInput, match="stop_token_ids"):
            await runtime.submit(Sequential(prompt="x", stop_token_ids=(10**30,)))
        assert not runtime.jobs


# -- a model's defaults ----------------------------------------------------------------------------------------


class Noting(ScriptedEngine):
    """Notes the parameters of every generation."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked: list[SamplingParams] = []

    async def complete(self, generation):
        self.asked.append(generation.params)
        return await super().complete(generation)


numbers = st.one_of(st.none(), st.floats(1e-3, 1.0))
own_fields = st.fixed_dictionaries(
    {"temperature": st.one_of(numbers, st.just(0.0)), "top_k": st.one_of(st.none(), st.integers(0, 99)),
     "top_p": numbers, "min_p": numbers, "repetition_penalty": numbers}
)  # fmt: skip
model_fields = own_fields.map(lambda values: {name: v for name, v in values.items() if v is not None})


@settings(max_examples=40, deadline=None)
@given(own=own_fields, model=model_fields, cls=st.sampled_from([Sequential, SelfConsistency, APR]))
def test_fields_left_out_are_the_models_own(own, model, cls):
    own = {name: value for name, value in own.items() if value is not None or name != "temperature"}
    defaults = SamplingDefaults(**model)
    engine = Noting(lambda _: "a", sampling_defaults=defaults)

    async def go():
        async with Runtime(engine=engine) as runtime:
            return await (await runtime.submit(cls(prompt="q", **own)))

    result = asyncio.run(go())
    given_ = {name: value for name, value in own.items() if value is not None}
    if cls is SelfConsistency:
        given_.setdefault("temperature", 1.0)
    expected = asdict(defaults) | given_
    asked = engine.asked[-1]
    assert {name: getattr(asked, name) for name in expected} == expected
    header = json.loads(json.dumps(result.trace.header))
    assert header["settings"]["sampling"] == {**expected, "max_tokens": 4096}


async def test_none_means_the_models_own_in_every_method():
    engine = Noting(lambda _: "a", sampling_defaults=SamplingDefaults(temperature=0.7))
    async with Runtime(engine=engine) as runtime:
        await (await runtime.submit(SelfConsistency(prompt="q", n=2, temperature=None)))
    assert {params.temperature for params in engine.asked[1:]} == {0.7}


async def test_recordings_keep_the_defaults_and_old_ones_have_none(tmp_path):
    file, old = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
    defaults = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05)
    recorder = Recorder(ScriptedEngine(["answer"], sampling_defaults=defaults), file)
    assert recorder.sampling_defaults == defaults
    async with Runtime(engine=recorder) as runtime:
        first = await (await runtime.submit(Sequential(prompt="q")))
    replay = ReplayEngine(file)
    assert replay.sampling_defaults == defaults
    async with Runtime(engine=replay) as runtime:
        again = await (await runtime.submit(Sequential(prompt="q")))
    assert (again.text, first.text) == ("answer", "answer")
    header, *rest = file.read_text().splitlines()
    values = json.loads(header)
    del values["sampling_defaults"]
    old.write_text("\n".join([json.dumps(values), *rest]))
    assert ReplayEngine(old).sampling_defaults == SamplingDefaults()
    values["sampling_defaults"] = {"temperature": -1}
    old.write_text("\n".join([json.dumps(values), *rest]))
    with pytest.raises(InvalidInput, match="temperature"):
        ReplayEngine(old)


# -- bounds ----------------------------------------------------------------------------------------------------

LIMIT = 1 << 17


async def endless(method, **options):
    engine = Noting(lambda _: "ab", ends=False, context_limit=LIMIT, **options)
    async with Runtime(engine=engine) as runtime:
        result = await (await runtime.submit(method))
    return result, engine


@pytest.mark.parametrize(
    ("method", "bound", "length"),
    [
        (Sequential(prompt="q"), 4096, 4096),
        (Sequential(prompt="q", answer="boxed", conclusion="!", conclusion_tokens=5), 4096, 4102),
        (SelfConsistency(prompt="q", n=2), 4096, 4096),
        (APR(prompt="q"), 4096, 4096),
        (TreeSearch(prompt="q", width=1, strategy="beam", reward=lambda prompt, steps: 0.5), 1024, 1024),
    ],
    ids=lambda value: getattr(value, "method", ""),
)
async def test_a_method_without_max_tokens_has_its_own_bound(method, bound, length):
    result, _ = await endless(method)
    assert (result.finish_reason, len(result.text), result.details["bound"]) == (Finish.LENGTH, length, bound)
    assert result.trace.end["details"]["bound"] == bound
    assert result.trace.header["settings"]["sampling"]["max_tokens"] == bound


@pytest.mark.parametrize("method", [Sequential, APR])
async def test_a_number_of_ones_own_wins(method):
    for number in (7, 5000):
        result, _ = await endless(method(prompt="q", max_tokens=number))
        assert (result.finish_reason, len(result.text)) == (Finish.LENGTH, number)
        assert "bound" not in result.details


async def test_a_bound_that_ended_nothing_is_not_mentioned():
    ended, _ = await endless(Sequential(prompt="q", stop=("ba",)))
    context, _ = await endless(Sequential(prompt="q", context_limit=100))
    conclusion = Sequential(prompt="q", answer="boxed", conclusion="!", conclusion_tokens=5, context_limit=100)
    concluded, _ = await endless(conclusion)
    assert [r.finish_reason for r in (ended, context, concluded)] == [Finish.STOP, Finish.CONTEXT, Finish.LENGTH]
    for result in (ended, context, concluded):
        assert "bound" not in result.details


def test_stop_strings_are_bounded_altogether():
    half = "a" * (MAX_STOP_CHARS // 2)
    assert SamplingParams(stop=(half, half)).stop == (half, half)
    with pytest.raises(InvalidInput, match=f"stop: {MAX_STOP_CHARS + 1} characters"):
        SamplingParams(stop=(half, half, "b"))
    with pytest.raises(InvalidInput, match="stop: 1000000 characters"):
        parse_job({"method": {"method": "sequential", "prompt": "x", "stop": ["a" * 10**6]}})


async def test_a_stop_string_that_is_longer_than_the_text_costs_no_more_than_the_text():
    async with Runtime(engine=ScriptedEngine(lambda _: "a" * 300)) as runtime:
        result = await (await runtime.submit(Sequential(prompt="x", stop=("a" * 16_000,))))
    assert result.finish_reason is Finish.EOS and result.text == "a" * 300
