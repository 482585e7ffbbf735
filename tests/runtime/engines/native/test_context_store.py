"""Contexts on disk: reused across engines and processes, and never wrong, whatever happens to the files."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import plait
from plait.runtime.engines.native import context_files, ops
from plait.runtime.engines.native import engine as native_engine
from plait.runtime.engines.native.context_files import ContextFiles
from plait.runtime.engines.native.context_tier import ContextTier
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.kernels import BFLOAT16, FLOAT32_HALVED
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.registry import MODELS
from plait.runtime.errors import InvalidInput
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.test_contexts import Numbers, ask, assert_all_blocks_came_back, logprobs, text

FOLDER = tiny("qwen3", vocab_size=61)[1]
OTHER = tiny("qwen3", vocab_size=61, seed=1)[1]
CONTEXTS = [text(seed, 20 + 7 * seed) for seed in range(3)]
# For what writes files only: to compute, a fork would wait for the threads that its parent had.
FORK = multiprocessing.get_context("fork")
TOTAL = sum(map(len, CONTEXTS))


async def run(store: Path, *methods: plait.Method, folder: Path = FOLDER, **options) -> list[plait.Result]:
    """Jobs on a new engine that keeps contexts in `store`; all are written when it returns."""
    chosen = NativeOptions(**{"kv_tokens": 4096, "contexts": store, **options})
    model = load_model(folder, weight_type=chosen.weights, dtype=chosen.dtype, impl=chosen.impl)
    engine = NativeEngine(model, Numbers(61), chosen, name="tiny", source=folder)
    async with plait.Runtime(engine=engine) as runtime:
        results = [await (await runtime.submit(method)) for method in methods]
        assert_all_blocks_came_back(engine)
    return results


def files(store: Path) -> list[Path]:
    return sorted(store.glob("*/*.safetensors"))


async def test_another_engine_takes_them_from_disk(tmp_path):
    (cold,) = await run(tmp_path, ask(CONTEXTS))
    assert (cold.usage.prefilled_tokens, cold.usage.reused_tokens) == (4 + TOTAL, 0)
    assert len(files(tmp_path)) == 3
    written = [path.stat().st_mtime_ns for path in files(tmp_path)]
    warm, memory = await run(tmp_path, ask(CONTEXTS[::-1]), ask(CONTEXTS))
    for result in (warm, memory):
        assert (result.usage.prefilled_tokens, result.usage.reused_tokens) == (4, TOTAL)
        assert (result.text, logprobs(result)) == (cold.text, logprobs(cold))
    assert all(path.stat().st_mtime_ns > before for path, before in zip(files(tmp_path), written, strict=True))


async def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await run(tmp_path, ask(CONTEXTS), contexts=None)
    assert not list(tmp_path.iterdir())


FIRST = """
import asyncio, json, sys
from pathlib import Path
from plait.tests.runtime.engines.native.test_context_store import CONTEXTS, ask, logprobs, run
(result,) = asyncio.run(run(Path(sys.argv[1]), ask(CONTEXTS)))
print(json.dumps([result.usage.reused_tokens, logprobs(result)]))
"""


async def test_another_process_takes_them_from_disk(tmp_path):
    command = [sys.executable, "-c", FIRST, tmp_path]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    reused, expected = json.loads(done.stdout)
    assert reused == 0
    (warm,) = await run(tmp_path, ask(CONTEXTS))
    assert warm.usage.reused_tokens == TOTAL
    assert logprobs(warm) == expected


async def test_other_weights_dtypes_and_prefixes_find_nothing(tmp_path):
    await run(tmp_path, ask(CONTEXTS))
    (weights,) = await run(tmp_path, ask(CONTEXTS), folder=OTHER)
    (prefix,) = await run(tmp_path, ask(CONTEXTS, instruction="7."))
    (blocks,) = await run(tmp_path, ask(CONTEXTS), block_size=32)
    rounded = [(await run(tmp_path, ask(CONTEXTS), weights=kind))[0] for kind in ("int8", "int4")]
    assert [r.usage.reused_tokens for r in (weights, prefix, blocks, *rounded)] == [0] * 5
    (again,) = await run(tmp_path, ask(CONTEXTS), weights="int8")
    assert again.usage.reused_tokens == TOTAL and logprobs(again) == logprobs(rounded[0])


@pytest.mark.parametrize("other", ["plain torch", "another product", "another build"])
async def test_other_arithmetic_finds_nothing(tmp_path, monkeypatch, other):
    """As on another processor, or without the kernels: last bits of keys and values are not the same."""
    monkeypatch.setattr(ops, "fastest", lambda library: BFLOAT16)
    (expected,) = await run(tmp_path, ask(CONTEXTS), dtype=torch.bfloat16)
    if other == "another product":
        monkeypatch.setattr(ops, "fastest", lambda library: FLOAT32_HALVED)
    impl = "torch" if other == "plain torch" else "auto"
    with monkeypatch.context() as patch:
        if other == "another build":
            patch.setattr(ops, "build_key", lambda library: "another")
        (result,) = await run(tmp_path, ask(CONTEXTS), dtype=torch.bfloat16, impl=impl)
    assert result.usage.reused_tokens == 0
    monkeypatch.setattr(ops, "fastest", lambda library: BFLOAT16)
    (again,) = await run(tmp_path, ask(CONTEXTS), dtype=torch.bfloat16)
    assert again.usage.reused_tokens == TOTAL and logprobs(again) == logprobs(expected)


async def test_files_that_changed_since_the_model_was_loaded_switch_contexts_on_disk_off(tmp_path, caplog):
    """Keys and values of the weights in memory are never filed under those on disk, nor jobs hurt."""
    folder, store = tmp_path / "model", tmp_path / "contexts"
    (expected,) = await run(tmp_path / "others", ask(CONTEXTS), folder=OTHER)
    chosen = NativeOptions(kv_tokens=4096, contexts=store)
    for change in ("replaced", "removed", "written to", "joined by another"):
        shutil.copytree(FOLDER, folder)
        engine = NativeEngine(load_model(folder), Numbers(61), chosen, name="tiny", source=folder)
        weights = folder / "model.safetensors"
        async with plait.Runtime(engine=engine) as runtime:
            match change:
                case "replaced":
                    shutil.copy(OTHER / weights.name, folder / "new").replace(weights)
                case "removed":
                    weights.unlink()
                case "written to":
                    weights.write_bytes((OTHER / weights.name).read_bytes())
                case "joined by another":
                    shutil.copy(weights, folder / "more.safetensors")
            with caplog.at_level(logging.WARNING, "plait.runtime.engines.native.context_tier"):
                await (await runtime.submit(ask(CONTEXTS)))
        assert caplog.text.count("have changed since") == 1, change
        assert not files(store), change
        caplog.clear()
        shutil.rmtree(folder)
    (result,) = await run(store, ask(CONTEXTS), folder=OTHER)
    assert logprobs(result) == logprobs(expected)


def test_files_are_noted_before_they_are_read(tmp_path, monkeypatch):
    """What is put in place while a model is loaded is not what was loaded."""
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "recall", folder)

    def load_and_change(*args: object, **options: Any) -> Any:
        model = load_model(folder, num_threads=1)
        shutil.copy(MODELS / "recall" / "model.safetensors", folder)
        return model

    monkeypatch.setattr(native_engine, "load_model", load_and_change)
    engine = NativeEngine.load(folder, kv_tokens=1024, contexts=tmp_path / "contexts")
    assert engine.contexts is not None and engine.contexts.fingerprint is None


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


def _exchange(path: Path) -> None:
    """Two words of the keys or values."""
    data = bytearray(path.read_bytes())
    data[-16:-8], data[-8:] = data[-8:], data[-16:-8]
    path.write_bytes(data)


def _another_text(path: Path) -> None:
    others = [other for other in path.parent.glob("*.safetensors") if other != path]
    path.write_bytes(others[0].read_bytes())


DAMAGE = {
    "truncated": _truncate,
    "bit": _flip,
    "order": _exchange,
    "text": _another_text,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff" * 1000),
    "directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damaged_files_are_ignored_with_a_warning_and_replaced(damage, tmp_path, caplog):
    (cold,) = await run(tmp_path, ask(CONTEXTS))
    victim = files(tmp_path)[0]
    DAMAGE[damage](victim)
    with caplog.at_level(logging.WARNING, "plait.runtime.engines.native.context_files"):
        (result,) = await run(tmp_path, ask(CONTEXTS))
        assert victim.name in caplog.text
        assert 0 < result.usage.reused_tokens < TOTAL
        assert result.text == cold.text
        assert logprobs(result) == pytest.approx(logprobs(cold), abs=1e-5)
        caplog.clear()
        (again,) = await run(tmp_path, ask(CONTEXTS))
    is_sound = victim.is_file()  # a folder is nothing that a file could replace
    assert (again.usage.reused_tokens == TOTAL) == is_sound == (victim.name not in caplog.text)


async def test_files_of_another_format_are_replaced_quietly(tmp_path, caplog, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(context_files, "FORMAT", "1")
        (cold,) = await run(tmp_path, ask(CONTEXTS))
    found = [await run(tmp_path, ask(CONTEXTS)) for _ in range(2)]
    assert [result.usage.reused_tokens for (result,) in found] == [0, TOTAL]
    assert all(logprobs(result) == logprobs(cold) for (result,) in found)
    assert len(files(tmp_path)) == 3 and not caplog.records


async def test_files_of_another_model_are_ignored_with_a_warning(tmp_path, caplog):
    await run(tmp_path / "a", ask(CONTEXTS))
    (right,) = await run(tmp_path / "b", ask(CONTEXTS), folder=OTHER)
    for ours, theirs in zip(files(tmp_path / "a"), files(tmp_path / "b"), strict=True):
        theirs.write_bytes(ours.read_bytes())
    with caplog.at_level(logging.WARNING, "plait.runtime.engines.native.context_files"):
        (result,) = await run(tmp_path / "b", ask(CONTEXTS), folder=OTHER)
    assert caplog.text.count("another model") == 3
    assert (result.text, result.usage.reused_tokens) == (right.text, 0)


async def test_the_least_recently_used_go_first(tmp_path):
    await run(tmp_path, *(ask([text(seed, 30), text(100, 30)]) for seed in range(4)))
    size = files(tmp_path)[0].stat().st_size
    assert len(files(tmp_path)) == 5
    for path in files(tmp_path):
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)  # whatever the clock does meanwhile
    await run(tmp_path, ask([text(0, 30), text(100, 30)]))
    await run(tmp_path, ask([text(7, 30), text(8, 30)]), context_bytes=4 * size + 100)
    (kept,) = await run(tmp_path, ask([text(0, 30), text(100, 30)]))
    (gone,) = await run(tmp_path, ask([text(1, 30), text(2, 30)]))
    assert (kept.usage.reused_tokens, gone.usage.reused_tokens) == (60, 0)


# -- faults ------------------------------------------------------------------------------------------------------------

KEYS, VALUES = torch.randn(2, 3, 2, 8, 16), torch.randn(2, 3, 2, 16, 8)
TOKENS = list(range(40))


def write(store: Path, name: bytes, scale: int = 1) -> bool:
    pair = KEYS * scale, VALUES * scale
    return ContextFiles(store).write("f", name, TOKENS, *pair, model="m", text="t")


def assert_sound(store: Path, name: bytes) -> None:
    found = ContextFiles(store).read("f", name, TOKENS)
    assert found is not None
    assert torch.equal(found[0], KEYS) and torch.equal(found[1], VALUES)


def _killed_in_a_write(store: Path) -> None:
    def half(tensors, path, metadata):
        Path(path).write_bytes(b"\x00" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)

    context_files.save_file = half  # type: ignore[assignment, attr-defined]
    write(store, b"2")


def test_a_writer_that_is_killed_leaves_nothing_wrong(tmp_path):
    assert write(tmp_path, b"1")
    process = FORK.Process(target=_killed_in_a_write, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*/.*.part"))) == 1
    assert_sound(tmp_path, b"1")
    assert ContextFiles(tmp_path).read("f", b"2", TOKENS) is None
    assert write(tmp_path, b"2")
    assert_sound(tmp_path, b"2")
    assert not list(tmp_path.glob("*/.*.part"))


def _write_for_ever(store: Path) -> None:
    for number in range(10**9):
        write(store, b"%d" % (number % 50))


def test_writers_killed_at_any_moment_leave_whole_files(tmp_path, caplog):
    rng = random.Random(0)
    for _ in range(6):
        process = FORK.Process(target=_write_for_ever, args=(tmp_path,))
        process.start()
        time.sleep(0.03 + 0.1 * rng.random())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    names = [bytes.fromhex(path.stem) for path in files(tmp_path)]
    assert names
    for name in names:
        assert_sound(tmp_path, name)
    assert not caplog.records


def _write_often(store: Path) -> None:
    for _ in range(30):
        write(store, b"x")


def test_two_writers_of_one_context_and_a_reader(tmp_path, caplog):
    write(tmp_path, b"x")
    writers = [FORK.Process(target=_write_often, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert_sound(tmp_path, b"x")
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(files(tmp_path)) == 1 and not list(tmp_path.glob("*/.*.part"))
    assert not caplog.records


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_keeps_what_is_there_and_the_job_going(small_disk, caplog):
    contexts = [text(seed, 40) for seed in range(8)]
    (roomy,) = await run(small_disk, ask(contexts), contexts=None)
    with caplog.at_level(logging.WARNING, "plait.runtime.engines.native.context_files"):
        (cold,) = await run(small_disk, ask(contexts))
    assert "could not be written" in caplog.text
    assert logprobs(cold) == logprobs(roomy)
    kept = len(files(small_disk))
    assert 0 < kept < 8 and not list(small_disk.glob("*/.*.part"))
    (warm,) = await run(small_disk, ask(contexts))
    assert warm.usage.reused_tokens == 40 * kept
    assert logprobs(warm) == pytest.approx(logprobs(roomy), abs=1e-5)


def test_any_error_of_the_disk_is_a_warning(tmp_path, caplog, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(context_files, "save_file", full)
    assert not write(tmp_path, b"1")
    assert "No space left" in caplog.text
    assert ContextFiles(tmp_path, max_bytes=10).write("f", b"1", TOKENS, KEYS, VALUES, model="", text="") is False
    assert not files(tmp_path)


@pytest.mark.parametrize("place", ["\0", "\ud800", "a" * 5000, "/dev/null", "/dev/null/below"])
def test_a_place_that_cannot_be_a_folder_is_refused_at_once(place):
    with pytest.raises(InvalidInput, match="contexts: .* cannot be a folder") as caught:
        NativeEngine.load(MODELS / "countdown", kv_tokens=1024, contexts=place)
    str(caught.value).encode()
    with pytest.raises(InvalidInput, match="context_bytes must not be negative"):
        NativeOptions(context_bytes=-1)


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


async def test_a_folder_that_can_only_be_read_is_used(tmp_path, monkeypatch, caplog):
    (cold,) = await run(tmp_path, ask(CONTEXTS))
    monkeypatch.setattr(os, "utime", _denied)
    (warm,) = await run(tmp_path, ask(CONTEXTS))
    assert warm.usage.reused_tokens == TOTAL and logprobs(warm) == logprobs(cold)
    assert not caplog.records


async def test_a_folder_that_cannot_be_looked_into_costs_no_job(tmp_path, monkeypatch, caplog):
    (expected,) = await run(tmp_path, ask(CONTEXTS), contexts=None)
    monkeypatch.setattr(Path, "exists", _denied)
    monkeypatch.setattr(context_files, "safe_open", _denied)
    monkeypatch.setattr(context_files, "save_file", _denied)
    with caplog.at_level(logging.WARNING, "plait.runtime.engines.native.context_files"):
        (result,) = await run(tmp_path, ask(CONTEXTS))
    assert logprobs(result) == logprobs(expected)
    assert caplog.text.count("is ignored") == caplog.text.count("could not be written") == 3


async def test_whatever_a_write_raises_nobody_waits_for_it_for_ever(tmp_path, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(ContextTier, "_copy", broken)
    with caplog.at_level(logging.WARNING, "plait.runtime.engines.native.context_tier"):
        await run(tmp_path, ask(CONTEXTS))
    assert caplog.text.count("a defect") == 3
