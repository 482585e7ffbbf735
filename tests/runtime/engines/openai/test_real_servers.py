"""The openai engine against servers of others: vLLM's, and llama.cpp's by its Python package."""

from __future__ import annotations

import contextlib
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
    GrammarConstraint,
    JsonConstraint,
    Multiverse,
    RegexConstraint,
    Runtime,
    SamplingParams,
    SelfConsistency,
    Sequential,
)
from plait.runtime.engines.constraints.matcher import accepts
from plait.runtime.engines.registry import MODELS
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


async def test_llama_cpp_goes_on_with_texts(llama):
    async with Runtime(f"openai:{llama}/v1", context_limit=1024) as rt:
        result = await (await rt.submit(Sequential(prompt="One, two, three, four,", max_tokens=12, temperature=0.0)))
        assert "five" in result.text
        stopped = await (await rt.submit(Sequential(prompt="One, two, three,", max_tokens=40, stop=["six"])))
        assert "five" in stopped.text and "six" not in stopped.text


async def test_llama_cpp_chats(llama):
    async with Runtime(f"openai:{llama}/v1", api="chat", context_limit=1024) as rt:
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        result = await (await rt.submit(Sequential(prompt=messages, max_tokens=24, temperature=0.0)))
    assert "Paris" in result.text
