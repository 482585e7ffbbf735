"""The openai engine against a real server, backed by the shipped model on the native engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math

import pytest
from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse
from hypothesis import given
from hypothesis import strategies as st

from plait import (
    APR,
    Finish,
    FinishReason,
    Hogwild,
    InvalidInput,
    JsonConstraint,
    Multiverse,
    PromptTooLong,
    Runtime,
    SamplingDefaults,
    SamplingParams,
    ScriptedEngine,
    SelfConsistency,
    Sequential,
    ServerFailed,
    TreeSearch,
    UnknownModel,
    UnsupportedByEngine,
)
from plait.runtime.engines.openai import engine
from plait.runtime.engines.openai.chunks import Chunk, Malformed, Whole, read_chunk
from plait.runtime.engines.openai.dialect import WHOLE_STOPS
from plait.runtime.engines.openai.engine import _Sample
from plait.runtime.engines.openai.options import ServerOptions
from plait.runtime.engines.openai.server import Server
from plait.runtime.engines.openai.text_tokenizer import TextTokenizer
from plait.runtime.engines.openai.usage import Account, ServerUsage
from plait.runtime.engines.registry import load_engine
from plait.tests.runtime.engines.openai.api_server import KEY, LATE, ApiServer, until
from plait.tests.runtime.server.conftest import serving

PROBLEM = "24 : 63 9 5 2 ;"
METHODS = {
    "sequential": Sequential(prompt=f"seq {PROBLEM}", max_tokens=300),
    "self_consistency": SelfConsistency(prompt=f"seq {PROBLEM}", n=3, max_tokens=60),
    "apr": APR(prompt=f"apr {PROBLEM}", dialect="compact", depth=2, context_limit=512),
    "tree_search": TreeSearch(
        prompt=f"step {PROBLEM}", delimiters=(";",), width=4, reward="function:even", strategy="rebase"
    ),
}


@contextlib.asynccontextmanager
async def served(options=None, *, model="", **server):
    """A runtime by HTTP, the server, and the native engine behind it."""
    async with Runtime("countdown", kv_tokens=40_000) as native, ApiServer(native.engine, **server).serve() as api:
        settings = {"timeout": 1.0, "max_retries": 2, **(options or {})}
        async with Runtime(f"openai:{api.url}{model}", **settings) as remote:
            yield remote, api, native
        await ended(api)
        assert not native.engine.block_usage().used


def answering(monkeypatch, *events):
    """From now on these are every answer."""

    async def stream(self, body, tokens, fault):
        for event in events:
            yield f"data: {json.dumps(event)}\n\n"

    monkeypatch.setattr(ApiServer, "_stream", stream)


def event(text, finish=None, **fields):
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, **fields}]}


def counted(**usage):
    return {"choices": [], "usage": usage}


async def ended(api):
    """The server sees that nobody reads any more."""
    await until(lambda: not api.running)


def even(prompt, steps):
    return 0.5


@pytest.mark.parametrize("name", METHODS)
async def test_greedy_tokens_are_the_native_engines(name):
    method = METHODS[name]
    if name == "tree_search":
        method = TreeSearch(**{**dict(method), "reward": even, "temperature": 0.0})
    async with served({"tokenizer": "countdown"}) as (remote, _, native):
        here, there = [await (await runtime.submit(method)) for runtime in (native, remote)]
    assert there.text == here.text and there.answer == here.answer
    assert there.usage.generated_tokens == here.usage.generated_tokens


async def test_multiverse_is_joined_by_its_text():
    method = Multiverse(prompt=f"mv {PROBLEM}", max_tokens=600)
    async with served({"tokenizer": "countdown"}) as (remote, _, _):
        result = await (await remote.submit(method))
    assert result.details["join"] == "text" and result.details["blocks"] >= 1


async def test_what_needs_views_is_refused():
    async with served({"tokenizer": "countdown"}) as (remote, _, _):
        with pytest.raises(UnsupportedByEngine, match="native"):
            await remote.submit(Hogwild(prompt="a"))
        parallel = Sequential(prompt="c", contexts=["a", "b"], encoding="parallel")
        with pytest.raises(UnsupportedByEngine, match="native.*encoding='sequential'"):
            await remote.submit(parallel)
        with pytest.raises(UnsupportedByEngine):
            remote.engine.open([1]).attach_contexts([[1]])


@pytest.mark.parametrize("flavour", ["vllm", "plain"])
async def test_texts_alone_are_enough(flavour):
    async with served(flavour=flavour, options={"context_limit": 2000}) as (remote, api, native):
        here, there = [await (await runtime.submit(METHODS["sequential"])) for runtime in (native, remote)]
        assert remote.engine.dialect.extensions == (flavour == "vllm")
        assert isinstance(api.requests[-1]["prompt"], str)
    assert there.text.split() == here.text.split()
    assert there.usage.generated_tokens > 50


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("flavour", ["vllm", "sglang", "plain", "lenient"])
async def test_who_ignores_fields_is_not_taken_for_vllm(flavour, api):
    method = Sequential(prompt=f"seq {PROBLEM}", max_tokens=300, temperature=0.0, stop=["="])
    async with served({"api": api, "context_limit": 500}, flavour=flavour) as (remote, server, native):
        here, there = [await (await runtime.submit(method)) for runtime in (native, remote)]
        assert (there.text, there.finish_reason) == (here.text, Finish.STOP)
        fields = SamplingParams(max_tokens=2, top_k=4, min_p=0.1, repetition_penalty=1.5, ignore_eos=True)
        branch = remote.engine.open(remote.engine.tokenizer.encode(PROBLEM))
        dialect, reads = remote.engine.dialect, flavour in ("vllm", "sglang")
        assert (dialect.extensions, dialect.whole_stops) == (reads, flavour == "vllm")
        if reads:
            await branch.generate(fields)
            assert server.requests[-1]["top_k"] == 4 and server.requests[-1]["ignore_eos"]
        else:
            with pytest.raises(UnsupportedByEngine, match="top_k, min_p, repetition_penalty, ignore_eos"):
                branch.generate(fields)


@pytest.mark.parametrize("refused", [WHOLE_STOPS, "return_token_ids"])
async def test_one_field_that_is_not_there_leaves_the_others(refused):
    async with Runtime("countdown") as native, ApiServer(native.engine).serve() as api:
        api.refused = [refused]
        async with Runtime(f"openai:{api.url}", tokenizer="countdown") as remote:
            dialect = remote.engine.dialect
            assert dialect.extensions and dialect.takes_ids
            assert (dialect.whole_stops, dialect.gives_ids) == (refused != WHOLE_STOPS, refused == WHOLE_STOPS)
            params = SamplingParams(max_tokens=300, stop=("=",), repetition_penalty=1.1)
            branches = [one.engine.open(one.engine.tokenizer.encode(f"seq {PROBLEM}")) for one in (native, remote)]
            here, there = [(await branch.generate(params)).text for branch in branches]
            assert here == there and ("stop" in api.requests[-1]) is dialect.whole_stops


@pytest.mark.parametrize("fault", ["408", "429", "503", "hang", "drop"])
async def test_a_fault_is_no_answer_to_what_a_server_knows(fault):
    async with Runtime("countdown") as native, ApiServer(native.engine).serve() as api:
        options = {"max_retries": 1, "timeout": 0.5}
        api.nonsense = [fault]
        async with Runtime(f"openai:{api.url}", **options) as remote:
            assert not api.nonsense and remote.engine.dialect.whole_stops and remote.engine.dialect.extensions
        api.nonsense = [fault] * 9
        with pytest.raises(ServerFailed, match=fault if fault.isdigit() else "cannot be reached|sends no completions"):
            async with Runtime(f"openai:{api.url}", **options):
                pass


@pytest.mark.parametrize("fault", ["400", "422", "500"])
async def test_who_fails_at_nonsense_is_asked_once(fault):
    async with Runtime("countdown") as native, ApiServer(native.engine).serve() as api:
        api.nonsense = [fault] * 9
        async with Runtime(f"openai:{api.url}") as remote:
            assert remote.engine.dialect.extensions and len(api.nonsense) == 4


@pytest.mark.parametrize("options", [{}, {"api": "chat"}, {"tokenizer": "countdown"}])
async def test_what_is_off_is_off_whatever_the_servers_model_has(options):
    """Its makers may have said what to sample with: it holds for what a request leaves out."""
    makers = SamplingDefaults(temperature=1.0, top_k=2, top_p=0.1, min_p=0.9, repetition_penalty=8.0)
    engine = ScriptedEngine(lambda _: "a", sampling_defaults=makers)
    seen = []
    engine.check_params = seen.append
    async with serving(engine=engine) as server:
        for fields in ({}, {"temperature": 0.5, "top_k": 3, "top_p": 0.6, "min_p": 0.2, "repetition_penalty": 2.0}):
            async with Runtime(f"openai:{server.url}/v1#countdown", **options) as remote:
                await (await remote.submit(Sequential(prompt="a", **fields)))
                with pytest.raises(UnsupportedByEngine, match="ignore_eos"):
                    remote.engine.open([20]).generate(SamplingParams(ignore_eos=True))
            asked = SamplingParams(**fields)
            assert [getattr(seen[-1], name) for name in SHAPE] == [getattr(asked, name) for name in SHAPE]


@pytest.mark.parametrize("flavour", ["vllm", "plain"])
async def test_top_p_is_told_unless_it_is_refused(flavour):
    for refuses in (False, True):
        async with Runtime("countdown") as native, ApiServer(native.engine, flavour=flavour).serve() as api:
            api.refused = ["top_p"] if refuses else []
            async with Runtime(f"openai:{api.url}", api="chat", context_limit=500) as remote:
                await (await remote.submit(Sequential(prompt="a", max_tokens=2, temperature=0.5)))
            assert api.requests[-1].get("top_p") == (None if refuses else 1)


async def test_fields_of_ones_own_leave_vllm_vllm():
    async with served({"extra_body": {"top_k": 7}}) as (remote, api, _):
        assert remote.engine.dialect.extensions and api.requests[-1]["top_k"] == 7


async def test_stop_strings_close_the_stream():
    async with served({"tokenizer": "countdown"}) as (remote, api, _):
        result = await (await remote.submit(Sequential(prompt=f"seq {PROBLEM}", max_tokens=300, stop=["="])))
        assert result.finish_reason is Finish.STOP and "=" not in result.text
        await ended(api)


@pytest.mark.parametrize("flavour", ["vllm", "plain"])
async def test_a_stop_string_that_was_not_asked_for_is_no_text(flavour, monkeypatch):
    """Some servers tell by which name of theirs an answer ended."""
    async with served({"context_limit": 500}, flavour=flavour) as (remote, _, _):
        answering(monkeypatch, event("The answer is 4."), event("", "stop", stop_reason="end_turn"))
        result = await (await remote.submit(Sequential(prompt="q", max_tokens=20, stop=["="])))
        assert (result.text, result.finish_reason) == ("The answer is 4.", Finish.EOS)
        answering(monkeypatch, event("The answer is 4."), event("", "stop", stop_reason="="))
        result = await (await remote.submit(Sequential(prompt="q", max_tokens=20, stop=["="])))
        assert (result.text, result.finish_reason) == ("The answer is 4.", Finish.STOP)


async def test_chat_gets_messages_and_continues_none():
    async with served({"api": "chat", "context_limit": 500}) as (remote, api, _):
        messages = [{"role": "system", "content": "seq"}, {"role": "user", "content": PROBLEM}]
        result = await (await remote.submit(Sequential(prompt=messages, max_tokens=20)))
        assert result.text and api.requests[-1]["messages"] == messages
        branch = remote.engine.open(remote.engine.tokenizer.encode(PROBLEM))
        await branch.generate(SamplingParams(max_tokens=4))
        assert api.requests[-1]["messages"] == [{"role": "user", "content": PROBLEM}]
        with pytest.raises(UnsupportedByEngine, match="completions"):
            await branch.generate(SamplingParams(max_tokens=4))


async def test_sampling_reaches_the_server_or_is_refused():
    async with served({"tokenizer": "countdown"}) as (remote, api, _):
        branches = remote.engine.open([1, 5], seed=7).fork(2)
        for branch in branches:
            done = await branch.generate(SamplingParams(max_tokens=3, temperature=0.5, top_k=4, logprobs=0))
        assert done.logprobs == [-0.25] * 3
        first, second = api.requests[-2:]
        assert first["temperature"] == 0.5 and first["top_k"] == 4 and first["seed"] != second["seed"]
        assert done.prefilled_tokens == 2 and remote.engine.usage.prompt_tokens == 4
    async with served(flavour="plain") as (remote, _, _):
        with pytest.raises(UnsupportedByEngine, match="top_k"):
            remote.engine.open([20]).generate(SamplingParams(top_k=4))


@pytest.mark.parametrize("fault", ["429", "503", "hang", "drop", "garbage", "abort", "error"])
async def test_faults_that_pass_change_nothing(fault):
    async with served({"tokenizer": "countdown"}) as (remote, api, native):
        branch, twin = (rt.engine.open(rt.engine.tokenizer.encode(f"seq {PROBLEM}")) for rt in (remote, native))
        api.faults = [fault]
        params = SamplingParams(max_tokens=30)
        assert (await branch.generate(params)).token_ids == (await twin.generate(params)).token_ids
        branch.close(), twin.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "failed \\(500\\)"),
        ("hang", "cannot be reached"),
        ("drop", "broke off"),
        ("abort", "broke off its answer: finish_reason abort"),
        ("error", "broke off its answer: finish_reason error"),
        ("content_filter", "withholds .*content_filter"),
    ],
)
async def test_faults_that_stay_are_one_clear_error(fault, said):
    options = {"tokenizer": "countdown", "max_retries": 0, "timeout": 0.3}
    async with served(options) as (remote, api, _):
        api.faults = [fault] * 9
        method = Sequential(prompt=f"seq {PROBLEM}", max_tokens=30)
        with pytest.raises(ServerFailed, match=said):
            await (await remote.submit(method))


@pytest.mark.parametrize("end", [{"usage": {"prompt_tokens": 3}}, {"error": {"message": "lost"}}])
async def test_who_ends_every_answer_without_a_finish_reason_is_not_asked_without_end(end, monkeypatch):
    async def unfinished(self, body, tokens, fault):
        yield self._event(body, "The answer is 4. ", None)
        yield f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"

    async with served({"context_limit": 500}, flavour="plain") as (remote, api, _):
        monkeypatch.setattr(ApiServer, "_stream", unfinished)
        before = len(api.requests)
        with pytest.raises(ServerFailed, match="broke off its answer"):
            await (await remote.submit(Sequential(prompt="q", max_tokens=100)))
        assert len(api.requests) == before + 1 + 2


async def test_a_server_that_says_no_more_is_waited_for_shortly(monkeypatch):
    async def silent(self, body, tokens, fault):
        yield self._event(body, " a" * body["max_tokens"], None)
        await asyncio.sleep(0.6)
        yield self._event(body, "", None, "length")

    monkeypatch.setattr(engine, "_SECONDS", 0.05)
    async with served({"context_limit": 500}, flavour="plain") as (remote, _, _):
        monkeypatch.setattr(ApiServer, "_stream", silent)
        async with asyncio.timeout(0.5):
            result = await (await remote.submit(Sequential(prompt="q", max_tokens=5)))
        assert result.text == " a" * 5 and result.finish_reason == Finish.LENGTH


async def test_a_server_without_a_list_of_models_is_asked_for_the_one_that_is_named(monkeypatch):
    async def missing(self, request: Request):
        return JSONResponse({"error": {"message": "Cannot GET /v1/models"}}, 404)

    monkeypatch.setattr(ApiServer, "_models", missing)
    async with served({"context_limit": 500}, model="#countdown") as (remote, _, _):
        assert remote.engine.model == "countdown"


@pytest.mark.parametrize("answer", [HTMLResponse("<html>hi</html>"), JSONResponse({"choices": [{"text": "hi"}]})])
async def test_what_is_no_stream_is_no_api(answer, monkeypatch):
    async def page(self, request: Request):
        return answer

    monkeypatch.setattr(ApiServer, "_completions", page)
    with pytest.raises(ServerFailed, match=f"sends no completions: it answers with {answer.media_type}"):
        async with served({"context_limit": 500}):
            pass


async def test_a_proxy_that_cannot_be_used_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:1080")
    with pytest.raises(InvalidInput, match="no client for http://localhost:1/v1 in this environment"):
        async with Runtime("openai:http://localhost:1/v1"):
            pass


@pytest.mark.parametrize("fault", LATE)
@pytest.mark.parametrize("api", ["completions", "chat"])
async def test_an_answer_that_has_ended_is_whole_whatever_comes_then(api, fault):
    async with served({"api": api, "context_limit": 500, "logprobs": False}) as (remote, server, _):
        expected = await (await remote.submit(Sequential(prompt=f"seq {PROBLEM}", max_tokens=300)))
        before = len(server.requests)
        server.faults = [fault]
        result = await (await remote.submit(Sequential(prompt=f"seq {PROBLEM}", max_tokens=300)))
        assert (result.text, result.finish_reason) == (expected.text, Finish.EOS) and len(server.requests) == before + 1


async def test_an_empty_finish_reason_is_none(monkeypatch):
    async with served({"max_retries": 0}, flavour="plain") as (remote, _, _):
        answering(monkeypatch, event("half an ans", ""), event("", "abort"))
        with pytest.raises(ServerFailed, match="finish_reason abort"):
            await (await remote.submit(Sequential(prompt="q", max_tokens=20)))


@pytest.mark.parametrize("fault", LATE)
async def test_what_a_server_is_asked_first_may_end_oddly_too(fault):
    async with Runtime("countdown") as native, ApiServer(native.engine, flavour="plain").serve() as api:
        api.faults = [fault] * 9
        async with Runtime(f"openai:{api.url}") as remote:
            assert remote.engine.dialect.path == "/completions"


def test_what_a_server_does_not_count_is_counted_here():
    total = ServerUsage()
    with Account(total, 9) as account:
        account.said = read_chunk({"choices": None, "usage": {"prompt_tokens": None, "completion_tokens": None}}).usage
        account.written = 4
    assert (total.prompt_tokens, total.cached_tokens, total.generated_tokens) == (9, 0, 4)


async def test_a_wrong_key_is_one_clear_error_without_the_key(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(ServerFailed, match="refuses access .401., and OPENAI_API_KEY holds") as caught:
        async with served(key=KEY):
            pass
    assert "sk-secret" not in str(caught.value) + caplog.text
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with served(key=KEY) as (remote, _, _):
        assert KEY not in remote.engine.name


async def test_white_space_around_a_key_is_no_part_of_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    async with served(key=KEY) as (remote, _, _):
        assert remote.engine.model == "countdown"


@pytest.mark.parametrize("key", ["sk-sec\nret", "sk-sec\x7fret", "sk-secr\u00e9t"])
async def test_a_key_that_no_header_holds_is_refused_by_its_variable(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(InvalidInput, match="MY_KEY holds characters") as caught:
        async with Runtime("openai:http://localhost:1/v1#a", api_key_env="MY_KEY"):
            pass
    assert "sk-sec" not in str(caught.value)


async def test_a_key_is_masked_where_it_is_quoted_too(monkeypatch):
    key = "sk-sec\\ret"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server = Server(ServerOptions(url="http://localhost:1/v1"))
    assert server._clean(f"{key!r} {key}") == "'***' ***"
    await server.close()


async def test_unknown_models_and_long_prompts():
    with pytest.raises(UnknownModel, match="other"):
        async with served(model="#other"):
            pass
    async with served({"tokenizer": "countdown", "context_limit": 100_000}) as (remote, _, _):
        with pytest.raises(PromptTooLong, match="context_limit"):
            await remote.engine.open([1] * 9000).generate(SamplingParams(max_tokens=1))


SHAPE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
PRICE = {"input": 2.0, "output": 10.0}


async def test_what_is_billed_is_counted():
    """By the server where it says so, by what was seen where a request was cut off, and nothing for refused ones."""
    async with served({"tokenizer": "countdown", "price": PRICE}) as (remote, api, _):
        engine = remote.engine
        probe = (engine.usage.prompt_tokens, engine.usage.generated_tokens)
        assert probe == (0, 0) and engine.cost == 0
        branch = engine.open([5] * 100)
        await branch.generate(SamplingParams(max_tokens=7, forced=(6, 7, 8), ignore_eos=True))
        assert (engine.usage.prompt_tokens, engine.usage.generated_tokens) == (103, 4)
        assert engine.cost == pytest.approx((103 * 2 + 4 * 10) / 1e6)
        generation = engine.open([5] * 50).generate(SamplingParams(max_tokens=1000, ignore_eos=True))
        async with contextlib.aclosing(generation):
            async for _ in generation:
                break
        assert engine.usage.prompt_tokens == 153 and engine.usage.generated_tokens >= 5
        before = engine.cost
        api.faults = ["503", "503", "503"]
        with pytest.raises(ServerFailed):
            await engine.open([5] * 50).generate(SamplingParams(max_tokens=5))
        assert engine.cost == before
        # A stream that breaks is asked for again behind what it gave: both are billed.
        api.faults = ["drop"]
        done = await engine.open([5] * 50).generate(SamplingParams(max_tokens=10, ignore_eos=True))
        assert len(done.token_ids) == 10 and engine.usage.prompt_tokens == 153 + 50 + 53
        assert engine.cost == pytest.approx(before + (103 * 2 + 10 * 10) / 1e6)
    async with served({"tokenizer": "countdown"}) as (remote, _, _):
        assert remote.engine.cost is None


async def test_the_servers_count_of_a_whole_answer_holds(monkeypatch):
    """Pieces of text are no tokens of its model."""
    async with served(flavour="plain") as (remote, _, _):
        text = event("internationalization antidisestablishmentarianism")
        usage = counted(prompt_tokens=3, completion_tokens=4)
        for events in ((text, event("", "stop"), usage), (text, usage | event("", "stop"))):
            before = remote.engine.usage.generated_tokens
            answering(monkeypatch, *events)
            result = await (await remote.submit(Sequential(prompt="q", max_tokens=20)))
            assert result.usage.generated_tokens > 4 and remote.engine.usage.generated_tokens == before + 4
        # The last count that came before an answer was cut off is not that of all of it.
        before = remote.engine.usage.generated_tokens
        answering(monkeypatch, usage | text, event(" one two three"), event("", "stop"))
        result = await (await remote.submit(Sequential(prompt="q", max_tokens=20)))
        assert remote.engine.usage.generated_tokens > before + 4


async def test_what_was_cached_is_never_more_than_the_prompt(monkeypatch):
    async with served({"price": {**PRICE, "cached": 1.0}}, flavour="plain") as (remote, _, _):
        engine, before = remote.engine, remote.engine.cost
        usage = counted(prompt_tokens=10, completion_tokens=1, prompt_tokens_details={"cached_tokens": 3000})
        answering(monkeypatch, event("A"), event("", "stop"), usage)
        done = await engine.open(engine.tokenizer.encode("q")).generate(SamplingParams(max_tokens=20))
        assert (done.prefilled_tokens, done.reused_tokens) == (0, 3000)
        assert engine.cost - before == pytest.approx((3000 * 1 + 1 * 10) / 1e6)


@pytest.mark.parametrize("price", [{"input": -1, "output": 1}, {"input": 1}, 3, {"input": float("nan"), "output": 1}])
def test_a_bad_price_is_one_error(price):
    with pytest.raises(InvalidInput, match="price|input|output"):
        load_engine("openai:http://localhost:1/v1", {"price": price})


async def test_cancelling_closes_the_stream():
    async with served({"tokenizer": "countdown"}) as (remote, api, _):
        job = await remote.submit(METHODS["sequential"])
        await until(lambda: api.running)
        job.cancel()
        await job.wait()
        await ended(api)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("openai:localhost", {}),
        ("openai:http://me:secret@host/v1", {}),
        ("openai:http://host/v1", {"api_key": "secret"}),
        ("openai:http://host/v1#a", {"model": "b"}),
        ("openai:http://host/v1", {"max_concurrency": 0}),
        ("openai:http://host/v1", {"nonsense": 1}),
        ("openai:http://host/v1", {"extra_body": {"n": 2}}),
    ],
)
def test_bad_options_are_one_clear_error(model, options):
    with pytest.raises(InvalidInput) as caught:
        load_engine(model, options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"choices": 3},
        {"choices": [{"text": 4}]},
        {"choices": [{"token_ids": ["a"]}]},
        {"choices": [{"token_ids": [-1]}]},
        {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": 10**400}]}}]},
        {"choices": [{"logprobs": {"token_logprobs": [10**400]}}]},
        {"usage": {"completion_tokens": -1}},
        {"usage": {"completion_tokens": 10**400}},
        {"usage": {"prompt_tokens_details": {"cached_tokens": -1}}},
    ],
)
def test_odd_chunks_are_malformed(data):
    with pytest.raises(Malformed):
        read_chunk(data)


def test_of_several_choices_the_first_is_read():
    assert read_chunk({"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]}).text == "a"
    assert read_chunk({"choices": [{"index": 1, "text": "b", "finish_reason": "stop"}]}).finish is None
    assert read_chunk({"choices": [{"text": "a"}]}).text == "a"


@pytest.mark.parametrize("data", [5, "text", {"id": "a"}, None])
async def test_a_list_of_models_of_another_form_lists_nothing(data, monkeypatch):
    async def get(path, **_):
        return {"data": data}

    server = Server(ServerOptions(url="http://localhost:1/v1"))
    monkeypatch.setattr(server._client, "get", get)
    assert await server.models() == []
    await server.close()


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["a\ud83d", "\ude00 b"], ["a", "\U0001f600 b"]),
        (["\ud83d", "", "\ude00"], ["", "", "\U0001f600"]),
        (["\ud83d\ude00", "c"], ["\U0001f600", "c"]),
        (["a\ude00", "\ud83db"], ["a\ufffd", "\ufffdb"]),
        (["\ud83d", "\ud83d", "\ude00"], ["", "\ufffd", "\U0001f600"]),
        (["a", "b\ud83d", None], ["a", "b", "\ufffd"]),
    ],
)
def test_halves_of_characters_are_joined_or_replaced(texts, whole):
    taker, found = Whole(), []
    for sent in texts:
        finish = "stop" if sent is None else None
        taken = taker.take(Chunk(sent or "", None, [sent], [-1.0], [{}], finish, None, None))
        assert (taken.logprobs is None) == (taken.text != (sent or ""))
        found.append(taken.text)
    assert found == whole


@pytest.mark.parametrize("flavour", ["vllm", "plain"])
@pytest.mark.parametrize("api", ["completions", "chat"])
async def test_a_character_that_comes_in_halves_is_one(api, flavour, monkeypatch):
    async def halves(self, body, tokens, fault):
        for text, finish in ((" hi \ud83d", None), ("\ude00 bye\ud83d", None), ("", "stop")):
            yield self._event(body, text, None, finish)
        yield "data: [DONE]\n\n"

    async with served(options={"api": api, "context_limit": 2000}, flavour=flavour) as (remote, _, _):
        monkeypatch.setattr(ApiServer, "_stream", halves)
        result = await (await remote.submit(Sequential(prompt="q", max_tokens=20)))
    assert result.text == " hi \U0001f600 bye\ufffd"


@given(st.text())
def test_text_tokens_are_the_same_everywhere_and_lossless(text):
    first, second = TextTokenizer(), TextTokenizer()
    assert first.decode(first.encode(text)) == text and first.encode(text) == second.encode(text)


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": st.text(min_size=1)})))
def test_a_chat_is_read_from_its_tokens(messages):
    tokenizer = TextTokenizer(is_chat=True)
    assert tokenizer.messages(tokenizer.chat(messages)) == [*messages, {"role": "assistant", "content": ""}]


async def test_nothing_is_asked_for_what_is_forced_or_only_read():
    async with served({"tokenizer": "countdown"}) as (remote, api, _):
        branch, before = remote.engine.open([1, 5]), len(api.requests)
        assert (await branch.generate(SamplingParams(max_tokens=0))).token_ids == []
        assert (await branch.generate(SamplingParams(max_tokens=2, forced=(7, 8, 9)))).token_ids == [7, 8]
        assert len(api.requests) == before


async def test_merged_branches_end_at_the_window_of_the_server():
    async with served({"tokenizer": "countdown", "context_limit": 64}) as (remote, api, _):
        root = remote.engine.open([5] * 10)
        paths = root.fork(2)
        for path in paths:
            path.extend([6] * 25)
        root.merge(paths)
        done = await root.generate(SamplingParams(max_tokens=20, ignore_eos=True))
        assert (len(done.token_ids), done.finish_reason) == (4, FinishReason.CONTEXT)
        assert api.requests[-1]["max_tokens"] == 4


async def test_no_more_requests_at_once_than_allowed():
    async with served({"tokenizer": "countdown", "max_concurrency": 2}) as (remote, api, _):
        await (await remote.submit(SelfConsistency(prompt=f"seq {PROBLEM}", n=6, max_tokens=20)))
        assert len(api.requests) == 8 and api.peak == 2


LLAMA = {"flavour": "llama_cpp"}
SEQ = Sequential(prompt=f"seq {PROBLEM}", max_tokens=40, temperature=0.0)


async def test_llama_cpp_is_told_to_change_nothing_by_itself():
    """It would take away some tokens, and penalise what is there already, in greedy texts too."""
    async with served(**LLAMA) as (remote, api, native):
        engine = remote.engine
        assert engine.dialect.flavour == "llama_cpp" and engine.context_limit == 2048
        here, there = [await (await runtime.submit(SEQ)) for runtime in (native, remote)]
        asked = api.requests[-1]
        assert (asked["top_k"], asked["top_p"], asked["min_p"], asked["repeat_penalty"]) == (0, 1, 0, 1)
        # With log-probabilities it would lose characters of several tokens.
        assert "logprobs" not in asked and not engine.capabilities.logprobs and there.text == here.text
        assert there.usage.generated_tokens == here.usage.generated_tokens
        await (await remote.submit(Sequential(prompt="seq", max_tokens=2, top_k=5, min_p=0.1, top_p=0.5)))
        asked = api.requests[-1]
        assert (asked["top_k"], asked["top_p"], asked["min_p"]) == (5, 0.5, 0.1)
        for fields in ({"ignore_eos": True}, {"repetition_penalty": 2.0}, {"stop_token_ids": (20,)}):
            with pytest.raises(UnsupportedByEngine, match=next(iter(fields))):
                engine.open([20]).generate(SamplingParams(**fields))


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 4, "max_retries": 3}])
async def test_llama_cpp_answers_one_after_another(options):
    """A request breaks off the answer before it: they wait here, or answers are taken up where they were broken off."""
    method = SelfConsistency(prompt=SEQ.prompt, max_tokens=10, temperature=0.0, n=3)
    async with served(options, **LLAMA) as (remote, api, native):
        here, there = [await (await runtime.submit(method)) for runtime in (native, remote)]
        assert there.text == here.text and there.details["votes"] == here.details["votes"]
        assert (len(api.requests) > 4) is bool(options) and api.peak == 1


async def test_llama_cpp_fails_late():
    async with served({"max_retries": 1, "context_limit": 9000}, **LLAMA) as (remote, _, native):
        with pytest.raises(ServerFailed, match="broke off its answer.*context_limit"):
            await remote.engine.open(remote.engine.tokenizer.encode("8 " * 4200)).generate(SamplingParams(max_tokens=1))
        with pytest.raises(UnsupportedByEngine, match="by choices and, with api=chat, by JSON"):
            await remote.submit(Sequential(prompt="x", constraint=JsonConstraint()))
    async with Runtime("countdown") as native, ApiServer(native.engine, **LLAMA).serve() as api:
        with pytest.raises(UnknownModel, match="'other'; there: countdown"):
            async with Runtime(f"openai:{api.url}#other"):
                pass
        api.logits_all = False
        for chat in ({}, {"api": "chat"}):
            async with Runtime(f"openai:{api.url}", logprobs=True, **chat) as remote:
                assert not remote.engine.capabilities.logprobs
                assert (await (await remote.submit(SEQ))).usage.generated_tokens == 40


@pytest.mark.parametrize("options", [{}, {"api": "chat"}])
async def test_llama_cpp_gives_log_probabilities_where_they_are_wanted(options):
    params = SamplingParams(max_tokens=4, logprobs=0)
    async with served({"logprobs": True, **options}, **LLAMA) as (remote, api, _):
        branch = remote.engine.open(remote.engine.tokenizer.encode(PROBLEM))
        done = await branch.generate(params)
        assert api.requests[-1]["repeat_penalty"] == 1 and done.logprobs == [-0.25] * 4
    async with served(options, **LLAMA) as (remote, _, _):
        with pytest.raises(UnsupportedByEngine, match="logprobs"):
            remote.engine.open([20]).generate(params)


async def test_log_probabilities_can_be_left_out():
    async with served({"tokenizer": "countdown", "logprobs": False}) as (remote, api, _):
        assert remote.engine.dialect.gives_ids and not remote.engine.capabilities.logprobs
        await (await remote.submit(SEQ))
        assert "logprobs" not in api.requests[-1]


@pytest.mark.parametrize("api", ["completions", "chat"])
async def test_numbers_that_come_too_late_are_not_asked_for(api):
    """Our own server sends those of a whole text at its end, where they are of no token any more."""
    async with serving() as server, Runtime(f"openai:{server.url}/v1#countdown", api=api) as remote:
        result = await (await remote.submit(Sequential(prompt=f"seq {PROBLEM}", max_tokens=9, temperature=2.0)))
        assert not remote.engine.capabilities.logprobs
    assert result.usage.generated_tokens and not any(p.logprobs for s in result.trace.segments for p in s.pieces)


async def test_of_a_token_that_the_server_does_not_send_no_number_is_told():
    async with served(options={"context_limit": 2000}) as (remote, _, _):
        branch = remote.engine.open(remote.engine.tokenizer.encode(f"seq {PROBLEM}"))
        done = await branch.generate(SamplingParams(max_tokens=400, logprobs=1))
        assert done.finish_reason.value == "eos" and len(done.top_logprobs) == len(done.token_ids)
        assert set(done.logprobs[:-1]) == {-0.25} and math.isnan(done.logprobs[-1])
        result = await (await remote.submit(Sequential(prompt=f"seq {PROBLEM}", max_tokens=400, temperature=0.0)))
    assert result.trace.for_training()[0].logprobs[-2:] == [-0.25, None]


PIECES = st.lists(st.sampled_from(["ab", " c", "\ufffd", "12"]), max_size=3)


@given(st.lists(st.tuples(PIECES, st.sampled_from(["", "\u00e9", " and more"]), st.booleans())))
def test_numbers_stay_with_their_tokens(parts):
    """Whatever a server holds back, sends late or cuts otherwise: one number per token, and none of another token."""
    engine = load_engine("openai:http://localhost:1/v1", {})
    branch, sample, tokens, numbers = engine.open([20]), _Sample(), [], {}
    for pieces, more, tells in parts:
        values = [-1.0 - len(numbers) - i for i in range(len(pieces))]
        numbers |= dict(zip(values, pieces, strict=True))
        top = [{piece: value} for piece, value in zip(pieces, values, strict=True)]
        text = "".join(pieces) + more
        chunk = Chunk(text, None, pieces, values if tells else None, top if tells else None, None, None, None)
        tokens += (found := engine._tokens(chunk, branch, sample))
        assert engine.tokenizer.decode(found) == text
        # What fits is told.
        assert not tells or more or sample.logprobs[len(sample.logprobs) - len(values) :] == values
    assert len(sample.logprobs) == len(sample.top_logprobs) == len(tokens)
    for token, value, top in zip(tokens, sample.logprobs, sample.top_logprobs, strict=True):
        assert math.isnan(value) or numbers[value] == engine.tokenizer.decode([token])
        assert set(top) <= {token}


def test_a_number_that_is_null_is_not_told():
    columns = {"tokens": ["a"], "token_logprobs": [None]}
    chat = {"content": [{"token": "a", "logprob": None}]}
    for logprobs in (columns, chat):
        (value,) = read_chunk({"choices": [{"text": "a", "logprobs": logprobs}]}).logprobs
        assert math.isnan(value)
