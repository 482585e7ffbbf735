"""The processes of a split model come and go with their engine, however it goes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import plait
from plait.runtime.engine import Completion, Generation, SamplingParams
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.parallel import workers
from plait.runtime.engines.native.parallel.workers import Workers
from plait.runtime.errors import InvalidInput, WorkerLost

COUNTDOWN = Path(plait.__file__).parent / "models/countdown"


def children(parent: int | None = None) -> set[int]:
    """Rank processes that are alive, those of this process if no other is named."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, of = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            is_rank = b"parallel.worker" in (path / "cmdline").read_bytes()
            if is_rank and state != "Z" and int(of) == (parent or os.getpid()):
                found.add(int(path.name))
    return found


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition: Callable[[], object]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 10
        time.sleep(0.01)


async def _completion(generation: Generation) -> Completion:
    return await generation


async def test_an_option_of_the_runtime_and_nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('what is in the working folder is run')")
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    apr = plait.APR(prompt="apr 24 : 9 8 7 2 ;", dialect="compact")
    texts = []
    for size in (1, 2):
        async with plait.Runtime("countdown", kv_tokens=8192, tensor_parallel=size) as runtime:
            pids = children()
            assert len(pids) == size - 1
            result = await (await runtime.submit(apr, budget=plait.Budget(total_tokens=1500), seed=1))
            texts.append([[piece.token_ids for piece in segment.pieces] for segment in result.trace.segments])
    assert texts[0] == texts[1] and len(texts[0]) > 3
    assert not children() and not any(map(is_alive, pids))
    await asyncio.get_running_loop().shutdown_default_executor()
    assert threading.active_count() == threads


async def test_a_lost_process_is_one_clear_error_for_all_who_wait() -> None:
    engine = NativeEngine.load(COUNTDOWN, tensor_parallel=2, kv_tokens=8192)
    await engine.start()
    branches = [engine.open([i] * 20) for i in range(3)]
    endless = SamplingParams(max_tokens=100_000, ignore_eos=True)
    written = aiter(branches[0].generate(endless))
    await anext(written)
    waiting = [asyncio.ensure_future(_completion(branch.generate(endless))) for branch in branches[1:]]
    await anext(written)
    os.kill(children().pop(), signal.SIGKILL)
    began = time.monotonic()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(WorkerLost):
        async for _ in written:
            pass
    assert time.monotonic() - began < 5
    for error in errors:
        assert isinstance(error, WorkerLost)
        assert str(error) == "the process of rank 1 ended (exit status -9); the model has to be loaded again"
    for branch in branches:
        branch.close()
    with pytest.raises(WorkerLost, match="rank 1"):
        await engine.open([1, 2]).generate(SamplingParams(max_tokens=1))
    engine.store.check_integrity()
    await engine.close()
    assert not children()


async def test_a_pass_that_fails_here_ends_the_others_who_wait_for_it(monkeypatch) -> None:
    engine = NativeEngine.load(COUNTDOWN, tensor_parallel=2, kv_tokens=8192)
    await engine.start()
    monkeypatch.setattr(engine.model.ops, "head", None)
    monkeypatch.setattr(workers, "NOTICE", 0.2)
    with pytest.raises(TypeError, match="not callable"):
        await engine.open([1, 2]).generate(SamplingParams(max_tokens=1))
    monkeypatch.undo()
    await asyncio.to_thread(wait_for, lambda: not children())
    with pytest.raises(WorkerLost, match=r"rank 0 failed \(.*not callable\)"):
        await engine.open([1, 2]).generate(SamplingParams(max_tokens=1))
    await engine.close()


async def test_closing_does_not_wait_for_a_process_that_hangs() -> None:
    engine = NativeEngine.load(COUNTDOWN, tensor_parallel=2, kv_tokens=8192)
    await engine.start()
    written = aiter(engine.open([1, 2]).generate(SamplingParams(max_tokens=100_000, ignore_eos=True)))
    await anext(written)
    (pid,) = children()
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(0.05)
    await asyncio.wait_for(engine.close(), 10)
    assert not is_alive(pid)


def test_processes_end_with_that_of_the_engine() -> None:
    """Killed while it waits for work, and in the middle of it."""
    script = """
import asyncio, sys
import plait

async def main():
    async with plait.Runtime(sys.argv[1], tensor_parallel=2, kv_tokens=4096) as runtime:
        branch = runtime.engine.open([1, 2, 3])
        async for token in branch.generate(plait.SamplingParams(max_tokens=int(sys.argv[2]), ignore_eos=True)):
            print(token, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    commands = [[sys.executable, "-c", script, str(COUNTDOWN), max_tokens] for max_tokens in ("1", "100000")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    for process in both:
        with process:
            assert process.stdout is not None and process.stdout.readline()
            (pid,) = children(process.pid)
            process.kill()
            process.wait()
        wait_for(lambda: not is_alive(pid))  # noqa: B023 - called at once


async def test_loading_that_fails_or_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((COUNTDOWN / "config.json").read_bytes())
    (path,) = COUNTDOWN.glob("*.safetensors")
    stored = load_file(path)
    del stored["model.norm.weight"]
    save_file(stored, tmp_path / path.name)
    with pytest.raises(InvalidInput, match=r"lacks the tensor model\.norm\.weight"):
        NativeEngine.load(tmp_path, tensor_parallel=2)
    assert not children()
    stored["model.norm.weight"] = torch.ones(7)
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    stored["model.embed_tokens.weight"] = torch.ones(9, 192)
    save_file(stored, tmp_path / path.name)
    with pytest.raises(InvalidInput, match=r"embed_tokens\.weight has shape \(9, 192\), .* 1053 in dimension 0"):
        NativeEngine.load(tmp_path, tensor_parallel=2)
    assert not children()

    async def enter() -> None:
        async with plait.Runtime("countdown", tensor_parallel=2):
            pass

    entering = asyncio.create_task(enter())
    await asyncio.to_thread(wait_for, children)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert not children()


async def test_a_process_that_cannot_load_says_why(monkeypatch) -> None:
    """And an engine that cannot be made of what was loaded ends those who could."""

    def start(self, orders) -> None:
        (order,) = orders
        begin(self, [replace(order, path=Path("/nowhere"))])

    with monkeypatch.context() as patch:
        begin = Workers.start
        patch.setattr(Workers, "start", start)
        with pytest.raises(WorkerLost, match=r"rank 1 ended \(UnknownModel: no model folder /nowhere\)"):
            NativeEngine.load(COUNTDOWN, tensor_parallel=2)
    with pytest.raises(InvalidInput, match="kv_tokens must be positive"):
        NativeEngine.load(COUNTDOWN, tensor_parallel=2, kv_tokens=0)
    assert not children()
