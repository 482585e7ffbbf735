"""Texts under a constraint on the native engine."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait import (
    ChoiceConstraint,
    Constraint,
    Finish,
    FinishReason,
    GrammarConstraint,
    InvalidInput,
    JsonConstraint,
    RegexConstraint,
    Runtime,
    SamplingParams,
    SelfConsistency,
    Sequential,
    TreeSearch,
)
from plait.runtime.engines.constraints.matcher import Compiler
from plait.runtime.engines.native.engine import NativeEngine
from plait.tests.runtime.engines.constraints.byte_model import save_byte_model

PROMPT = "seq 24 : 8 3 1 ;"
WORDS = [" 1", " 8", " +", " -", " =", " answer", " 24"]


@asynccontextmanager
async def byte_engine(**options):
    engine = NativeEngine.load(save_byte_model(), **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
    assert engine.num_branches == 0 and engine.block_usage().used == 0


async def write(engine, constraint, *, max_tokens=60, seed=0, temperature=1.0, prompt=(65, 66), **params):
    branch = engine.open(list(prompt), seed=seed)
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, constraint=constraint, **params)
    try:
        return await branch.generate(params)
    finally:
        branch.close()


def can_go_on(engine, constraint, tokens):
    """Is this the beginning of a text that the constraint allows? By the words alone, without the engine's state."""
    matcher = Compiler(engine.tokenizer, "oracle").matcher(SamplingParams(constraint=constraint))
    return matcher.take(tokens) == len(tokens) and bool(matcher.allowed(engine.vocab_size).any())


def schemas():
    integers = st.tuples(st.integers(-20, 20), st.integers(0, 50)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    )
    simple = st.one_of(
        integers,
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.integers(0, 4).map(lambda n: {"type": "string", "maxLength": n}),
        st.sampled_from(["a+", "[0-9]{2}", "(x|yy)?z"]).map(lambda p: {"type": "string", "pattern": f"^{p}$"}),
        st.lists(st.sampled_from(["a", "é", 1, None, True, [1], {"k": 2}]), min_size=1, max_size=3).map(
            lambda values: {"enum": values}
        ),
    )

    def larger(inner):
        names = st.sampled_from(["a", "b", "long name", "ü"])
        return st.one_of(
            st.tuples(inner, st.integers(0, 2)).map(lambda p: {"type": "array", "items": p[0], "maxItems": p[1]}),
            st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
            st.dictionaries(names, inner, max_size=3).flatmap(
                lambda fields: st.sets(st.sampled_from(sorted(fields)) if fields else st.nothing()).map(
                    lambda needed: {
                        "type": "object",
                        "properties": fields,
                        "required": sorted(needed),
                        "additionalProperties": False,
                    }
                )
            ),
        )

    return st.recursive(simple, larger, max_leaves=4)


PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def wait(loop, coroutine):
    """From a property's thread: what the loop's engine gives."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)


async def test_json_is_what_the_schema_allows():
    async with byte_engine() as engine:
        loop = asyncio.get_running_loop()

        @PROPERTY
        @given(schemas(), st.integers(0, 9))
        def check(schema, seed):
            constraint = JsonConstraint(json_schema=schema).plain()
            done = wait(loop, write(engine, constraint, seed=seed, logprobs=0))
            if done.finish_reason is FinishReason.EOS:
                jsonschema.validate(json.loads(done.text), schema)
            else:
                assert done.finish_reason is FinishReason.LENGTH
                assert can_go_on(engine, constraint, done.token_ids)
            assert len(done.logprobs) == len(done.token_ids) and all(value < 0 for value in done.logprobs)

        await asyncio.to_thread(check)


def patterns():
    words = st.sampled_from(WORDS).map(re.escape)
    return st.recursive(
        words,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2,3}"])).map(lambda pair: f"({pair[0]}){pair[1]}"),
        ),
        max_leaves=6,
    )


async def test_the_shipped_model_writes_what_an_expression_matches():
    async with Runtime("countdown") as runtime:
        loop, engine = asyncio.get_running_loop(), runtime.engine
        prompt = engine.tokenizer.encode(PROMPT)

        @PROPERTY
        @given(patterns(), st.sampled_from([0.0, 1.0, 3.0]))
        def check(pattern, temperature):
            constraint = RegexConstraint(pattern=pattern).plain()
            wanted = write(engine, constraint, max_tokens=20, temperature=temperature, prompt=prompt)
            done = wait(loop, wanted)
            if done.finish_reason is FinishReason.EOS:
                assert re.fullmatch(pattern, done.text)
            else:
                assert can_go_on(engine, constraint, done.token_ids)

        await asyncio.to_thread(check)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_constraint_that_allows_everything_changes_nothing(temperature):
    async with Runtime("countdown") as runtime:
        anything = GrammarConstraint(grammar="start: /(?s:.*)/")
        fields = {"prompt": PROMPT, "max_tokens": 80, "temperature": temperature, "n": 3}
        jobs = [SelfConsistency(**fields), SelfConsistency(**fields, constraint=anything)]
        free, bound = [await (await runtime.submit(job, seed=4)) for job in jobs]
    assert free.text == bound.text and len(free.text) > 20
    texts, logprobs = [], []
    for result in (free, bound):
        pieces = [p for s in result.trace.segments for p in s.pieces if p.kind == "sampled"]
        texts.append(sorted(piece.text for piece in pieces))
        logprobs.append(sorted(value for piece in pieces for value in piece.logprobs))
    assert texts[0] == texts[1] and logprobs[0] == logprobs[1]


async def test_log_probabilities_are_the_models_own():
    """Not those among the tokens that are allowed: a forced token has the same."""
    async with Runtime("countdown") as runtime:
        engine = runtime.engine
        prompt = engine.tokenizer.encode(PROMPT)
        constraint = Constraint(kind="choice", source='[" answer 7", " answer 8"]')
        done = await write(engine, constraint, prompt=prompt, temperature=0.0, logprobs=2)
        same = await write(engine, None, prompt=prompt, forced=tuple(done.token_ids), logprobs=2)
    assert done.text in (" answer 7", " answer 8") and done.finish_reason is FinishReason.EOS
    assert done.logprobs == same.logprobs and done.logprobs[0] < -3
    assert done.top_logprobs == same.top_logprobs


async def test_forks_and_rewinds_go_on_with_the_text():
    constraint = Constraint(kind="regex", source="([0-9]{3};){4}")
    async with byte_engine() as engine:
        root = engine.open([65])
        shape = {"temperature": 1.0, "constraint": constraint}
        first = await root.generate(SamplingParams(max_tokens=6, **shape))
        children = root.fork(3)
        children[2].rewind(1 + 2)
        texts = set()
        for child in children:
            before = tuple(child.tokens[1:])
            done = await child.generate(SamplingParams(constrained=before, **shape))
            assert done.finish_reason is FinishReason.EOS
            text = engine.tokenizer.decode([*before, *done.token_ids[:-1]])
            assert re.fullmatch(constraint.source, text) and text[:2] == first.text[:2]
            texts.add(text)
            child.close()
        root.close()
    assert len(texts) > 1


async def test_batch_and_bursts_change_nothing():
    """Beside free generations, which run in bursts, and alone."""
    async with byte_engine() as engine:
        constraints = [
            JsonConstraint(json_schema={"type": "array", "items": {"type": "integer"}, "minItems": 2}).plain(),
            None,
            Constraint(kind="regex", source="(ab|ba)+c"),
        ]
        alone = [await write(engine, c, seed=i, max_tokens=40) for i, c in enumerate(constraints)]
        together = await asyncio.gather(*(write(engine, c, seed=i, max_tokens=40) for i, c in enumerate(constraints)))
    assert [done.token_ids for done in alone] == [done.token_ids for done in together]


async def test_stop_strings_and_stop_tokens():
    async with byte_engine() as engine:
        constraint = Constraint(kind="regex", source="[ab]{2}(cc|dd)[ab]{9}")
        done = await write(engine, constraint, stop=("cc", "dd"))
        assert done.finish_reason is FinishReason.STOP and re.fullmatch("[ab]{2}", done.text)
        done = await write(engine, constraint, stop_token_ids=(270,), forbidden_ids=(256,))
        assert done.stop == 270 and re.fullmatch(constraint.source, done.text)


async def test_what_forbids_all_that_is_allowed_ends_that_generation_alone():
    async with byte_engine() as engine:
        constraint = Constraint(kind="regex", source="a(x|y)")
        others = [asyncio.ensure_future(write(engine, None, seed=i)) for i in range(2)]
        with pytest.raises(InvalidInput, match="no token that the constraint allows"):
            await write(engine, constraint, forbidden_ids=(ord("x") - 33, ord("y") - 33))
        assert all([(await other).token_ids for other in others])
        assert (await write(engine, constraint)).text in ("ax", "ay")


async def test_tree_search_holds_it_over_all_steps():
    async with Runtime("countdown") as runtime:
        method = TreeSearch(
            prompt=f"step {PROMPT[4:]}",
            constraint=RegexConstraint(pattern=r"( [0-9]{1,2} \+ 1 = [0-9]{1,2} ;){3} answer"),
            delimiters=(";",),
            width=3,
            strategy="rebase",
            reward=lambda prompt, steps: 0.5,
        )
        result = await (await runtime.submit(method, seed=1))
    assert re.fullmatch(method.constraint.pattern, result.text) and result.finish_reason is Finish.EOS
    assert len(result.details["levels"]) == 4


async def test_what_is_refused_is_refused_before_any_work():
    async with Runtime("countdown") as runtime:
        bad = [
            RegexConstraint(pattern="("),
            JsonConstraint(json_schema={"type": "nonsense"}),
            JsonConstraint(),  # this model has no braces
            ChoiceConstraint(choices=("neither",)),
            GrammarConstraint(grammar="start: x"),
        ]
        for constraint in bad:
            with pytest.raises(InvalidInput):
                await runtime.submit(Sequential(prompt=PROMPT, constraint=constraint))
        assert not runtime.jobs and runtime.engine.block_usage().used == 0


async def test_constrained_text_is_not_drafted():
    """The constraint is asked for what it allows behind each token."""
    async with byte_engine(draft_rows=16) as engine:
        done = await write(engine, Constraint(kind="regex", source="(ab){20}"), temperature=0)
        assert done.text == "ab" * 20 and done.drafted_tokens == 0
