"""The openai engine against servers of others: vLLM's, and llama.cpp's by its Python package."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest

from plait import (
    APR,
    ChoiceConstraint,
    Finish,
    GrammarConstraint,
    Hogwild,
    JsonConstraint,
    Multiverse,
    RegexConstraint,
    Runtime,
    SamplingParams,
    SelfConsistency,
    Sequential,
    ServerFailed,
    TreeSearch,
    UnknownModel,
    UnsupportedByEngine,
)
from plait.runtime.engines.constraints.matcher import accepts
from plait.runtime.engines.registry import MODELS
from plait.runtime.events import Text
from plait.tests import real
from plait.tests.runtime.engines.openai.api_server import until
from plait.tests.runtime.engines.tools import written

PROBLEM = "24 : 63 9 5 2 ;"
METHODS = {
    "sequential": Sequential(prompt=f"seq {PROBLEM}", max_tokens=300),
    "apr": APR(prompt=f"apr {PROBLEM}", dialect="compact", depth=2, context_limit=512),
}
PATIENCE = 400
"""Seconds for a server to start."""


@contextlib.contextmanager
def running(folder, *command, **settings):
    """A server's address, once it answers; its messages are in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **settings}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "log").read_text(errors="replace")[-4000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait()


def vllm_server(folder, model, *options):
    pytest.importorskip("vllm")
    # Its own command line asks for the metadata of a package called vllm, which the CPU build's is not.
    given = "--dtype float32 --enforce-eager --block-size 32 --kv-cache-memory-bytes 268435456 --max-model-len 2048"
    return running(
        folder, "vllm.entrypoints.openai.api_server", "--model", model, *given.split(), *options,
        VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_ENABLE_V1_MULTIPROCESSING="0", TORCHDYNAMO_DISABLE="1",
    )  # fmt: skip


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    options = ("--served-model-name", "countdown", "--enable-prompt-tokens-details")
    with vllm_server(tmp_path_factory.mktemp("vllm"), str(MODELS / "countdown"), *options) as address:
        yield address


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    if find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp.server is not installed")
    file = real.folder("smol135").with_suffix(".gguf")
    if not file.is_file():
        pytest.skip(f"there is no {file.name}")
    with running(tmp_path_factory.mktemp("llama"), "llama_cpp.server", "--model", str(file)) as address:
        yield address


def metric(address, name):
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("name", METHODS)
async def test_vllm_gives_the_native_engines_tokens(vllm, name):
    results = []
    for model, options in (("countdown", {"dtype": "float32"}), (f"openai:{vllm}/v1", {"tokenizer": "countdown"})):
        async with Runtime(model, **options) as rt:
            results.append(await (await rt.submit(METHODS[name])))
            if model != "countdown":
                assert rt.engine.dialect.gives_ids and rt.engine.dialect.extensions and rt.engine.context_limit == 2048
    here, there = results
    assert written(there) == written(here) and there.answer == here.answer


async def test_vllm_counts_scores_and_stops(vllm):
    params = SamplingParams(max_tokens=20, logprobs=2, stop=("=",))
    found = []
    for model, options in (("countdown", {"dtype": "float32"}), (f"openai:{vllm}/v1", {"tokenizer": "countdown"})):
        async with Runtime(model, **options) as rt:
            branch = rt.engine.open(rt.engine.tokenizer.encode(f"seq {PROBLEM}"))
            done = await branch.generate(params)
            found.append((done.token_ids, done.text, done.finish_reason))
            if model == "countdown":
                expected = done
                continue
            assert done.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
            for mine, yours in zip(done.top_logprobs, expected.top_logprobs, strict=True):
                assert mine == pytest.approx(yours, abs=1e-4)
            long = rt.engine.open([7, *range(10, 110)])
            counts = [await child.generate(SamplingParams(max_tokens=2)) for child in long.fork(2)]
            assert [one.reused_tokens for one in counts] == [0, 96] and counts[1].prefilled_tokens == 5
    assert found[0] == found[1]


async def test_vllm_frees_what_nobody_reads(vllm):
    async with Runtime(f"openai:{vllm}/v1", tokenizer="countdown") as rt:
        branch = rt.engine.open([5] * 20)
        generation = branch.generate(SamplingParams(max_tokens=2000, ignore_eos=True))
        async with contextlib.aclosing(generation):
            async for _ in generation:
                break
        assert branch.length < 2000
    await until(lambda: metric(vllm, "vllm:num_requests_running") == 0)


async def test_vllm_takes_texts_and_samples(vllm):
    async with Runtime(f"openai:{vllm}/v1") as rt:
        assert rt.engine.dialect.extensions and not rt.engine.dialect.takes_ids
        result = await (await rt.submit(METHODS["sequential"]))
        many = await (await rt.submit(SelfConsistency(prompt=f"seq {PROBLEM}", n=4, max_tokens=60, temperature=1.0)))
    async with Runtime("countdown", dtype="float32") as rt:
        assert result.text.split() == (await (await rt.submit(METHODS["sequential"]))).text.split()
    assert many.usage.generated_tokens > 100
    async with Runtime(f"openai:{vllm}/v1", tokenizer="countdown") as rt:
        joined = await (await rt.submit(Multiverse(prompt=f"mv {PROBLEM}", max_tokens=600)))
    assert joined.details["join"] == "text"


CONSTRAINTS = [
    ChoiceConstraint(choices=("Lyon", "Paris", "Nice")),
    RegexConstraint(pattern=r"[A-Z][a-z]{2,9} is in [A-Z][a-z]{2,9}\."),
    JsonConstraint(json_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    GrammarConstraint(grammar='start: "It is " ("Paris" | "Rome") "."'),
]


async def test_vllm_keeps_to_constraints(tmp_path):
    """A real model: vLLM's library does not know how the shipped one's tokens are spelled."""
    folder = str(real.folder("smol135"))
    with vllm_server(tmp_path, folder) as address:
        for options in ({}, {"tokenizer": folder}):
            async with Runtime(f"openai:{address}/v1", **options) as rt:
                for constraint in CONSTRAINTS:
                    method = Sequential(prompt="The capital of France is ", constraint=constraint, max_tokens=60)
                    result = await (await rt.submit(method))
                    assert accepts(constraint.plain(), result.text), (constraint, result.text)


async def test_llama_cpp_gives_the_native_engines_texts(llama):
    """Of the same file; its scores differ in the last bits."""
    file = str(real.folder("smol135").with_suffix(".gguf"))
    found = []
    for model in (file, f"openai:{llama}/v1"):
        async with Runtime(model, context_limit=1024, **({} if model == file else {"logprobs": True})) as rt:
            if model != file:
                assert rt.engine.dialect.flavour == "llama_cpp" and rt.engine.model == file
            texts = []
            for prompt in ("One, two, three, four,", "Once upon a time"):
                method = Sequential(prompt=prompt, max_tokens=16, temperature=0.0, logprobs=False)
                result = await (await rt.submit(method))
                texts.append((result.text, result.finish_reason, result.usage.generated_tokens))
            branch = rt.engine.open(rt.engine.tokenizer.encode("The capital of France is"))
            done = await branch.generate(SamplingParams(max_tokens=4, logprobs=2))
            found.append((texts, done))
    (here, mine), (there, yours) = found
    assert here == there and "five" in there[0][0] and mine.text == yours.text
    assert yours.logprobs == pytest.approx(mine.logprobs, abs=0.4) and len(yours.top_logprobs) == 4


async def test_llama_cpp_runs_methods(llama):
    async with Runtime(f"openai:{llama}/v1") as rt:
        stopped = await (
            await rt.submit(Sequential(prompt="One, two, three,", max_tokens=20, stop=["six"], temperature=0.0))
        )
        assert stopped.finish_reason is Finish.STOP and "six" not in stopped.text
        many = SelfConsistency(prompt="The best animal is", n=2, max_tokens=6)
        results = [await (await rt.submit(many, seed=seed)) for seed in (1, 1, 2)]
        assert results[0].details == results[1].details != results[2].details
        search = TreeSearch(
            prompt="Numbers: one, two,", delimiters=(",",), width=2, max_depth=2, step_tokens=8,
            reward=lambda prompt, steps: 0.5, strategy="rebase",
        )  # fmt: skip
        assert (await (await rt.submit(search))).text
        for method in (APR(prompt="Hello", dialect="compact", max_tokens=8), Multiverse(prompt="Hello", max_tokens=8)):
            assert (await (await rt.submit(method))).text
        with pytest.raises(UnsupportedByEngine):
            await rt.submit(Hogwild(prompt="Hello"))
        assert rt.engine.usage.generated_tokens > 50


async def test_llama_cpp_keeps_to_choices(llama):
    """Of characters of several tokens, too."""
    odd = ChoiceConstraint(choices=(' \u00e9\U0001f600\u65e5\u672c "a\\\n',))
    async with Runtime(f"openai:{llama}/v1") as rt:
        prompt = "The colour of the sky is"
        result = await (await rt.submit(Sequential(prompt=prompt, constraint=odd)))
        assert result.text == odd.choices[0] and result.finish_reason is Finish.EOS
        for constraint in (RegexConstraint(pattern="a"), JsonConstraint()):
            with pytest.raises(UnsupportedByEngine, match="by choices"):
                await rt.submit(Sequential(prompt=prompt, constraint=constraint))


async def test_llama_cpp_is_left_and_broken_off(llama):
    """Two clients, each of which breaks off the other's answers: they are taken up where they were."""
    story = SamplingParams(max_tokens=10)
    async with Runtime(f"openai:{llama}/v1") as rt, Runtime(f"openai:{llama}/v1") as other:
        job = await rt.submit(Sequential(prompt="Once upon a time", max_tokens=1500))
        async for event in job:
            if isinstance(event, Text):
                break
        job.cancel()
        await job.wait()
        branches = [one.engine.open(one.engine.tokenizer.encode("Once upon a time")) for one in (rt, other)]
        alone = await branches[0].fork(1)[0].generate(story)
        both = await asyncio.gather(*(branch.generate(story) for branch in branches))
    assert {done.text for done in both} == {alone.text}


async def test_llama_cpp_says_no_more_than_that_it_ended(llama):
    async with Runtime(f"openai:{llama}/v1", context_limit=9000, max_retries=0) as rt:
        with pytest.raises(ServerFailed, match="context_limit"):
            await (await rt.submit(Sequential(prompt="word " * 3000, max_tokens=2)))
    with pytest.raises(UnknownModel, match="'other'"):
        async with Runtime(f"openai:{llama}/v1#other"):
            pass


async def test_llama_cpp_chats(llama):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    async with Runtime(f"openai:{llama}/v1", api="chat", context_limit=1024) as rt:
        messages = [{"role": "user", "content": "What is the capital of Germany?"}]
        result = await (await rt.submit(Sequential(prompt=messages, max_tokens=24, temperature=0.0)))
        assert "Berlin" in result.text
        form = Sequential(prompt=messages, max_tokens=60, constraint=JsonConstraint(json_schema=schema))
        assert list(json.loads((await (await rt.submit(form))).text)) == ["city"]
