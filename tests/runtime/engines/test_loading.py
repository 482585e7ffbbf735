"""Loading in a thread: the event loop goes on, a cancellation leaves nothing, who asks together loads once."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import threading
import time

import pytest

from plait import InvalidInput, Runtime, ScriptedEngine, Sequential, register_scheme
from plait.runtime.engines.loading import LoadingStopped, load_in_thread, loading, stop_check
from plait.runtime.engines.registry import _schemes, find_model, last_part
from plait.runtime.jobs.companions import Companions
from plait.tests.runtime.engines.native.helpers import tiny


class Loader:
    """An engine scheme that takes its time, and counts."""

    def __init__(self):
        self.started = self.stopped = 0
        self.engines = []
        self.seconds = 0.3
        self.listens = False
        self.error = None

    def __call__(self, rest, options):
        self.started += 1
        check = stop_check()
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            time.sleep(0.01)
            if self.listens:
                try:
                    check()
                except LoadingStopped:
                    self.stopped += 1
                    raise
        if self.error:
            raise self.error
        engine = Closing(["answer"] * 9)
        self.engines.append(engine)
        return engine


class Closing(ScriptedEngine):
    is_closed = False

    async def close(self):
        self.is_closed = True
        await super().close()


@pytest.fixture
def loader(monkeypatch):
    loader = Loader()
    monkeypatch.setattr(_schemes, "_things", dict(_schemes._things))
    register_scheme("slow", loader)
    return loader


async def ticks(seconds):
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.01)
        count += 1
    return count


async def test_the_event_loop_goes_on(loader):
    counting = asyncio.create_task(ticks(0.25))
    threads = threading.active_count()
    async with Runtime("slow:x") as runtime:
        assert await counting > 8
        assert (await (await runtime.submit(Sequential(prompt="q")))).text == "answer"
        assert threading.active_count() == threads
    assert loader.engines[0].is_closed


@pytest.mark.parametrize("listens", [True, False])
async def test_cancelled_while_loading(loader, listens):
    loader.listens = listens
    threads = threading.active_count()

    async def work():
        async with Runtime("slow:x"):
            raise AssertionError("not reached")

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    began = time.monotonic()
    task.cancel("enough")
    await asyncio.sleep(0.01)
    task.cancel("really")  # also while it waits for the thread
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loader.stopped == listens
    assert all(engine.is_closed for engine in loader.engines) and len(loader.engines) == (not listens)
    assert threading.active_count() == threads
    assert time.monotonic() - began < (0.15 if listens else 5)


async def test_a_weight_file_is_left_halfway(monkeypatch, tmp_path):
    """The native loader looks between tensors."""
    from plait.runtime.engines.native import checkpoint

    _, folder = tiny("llama")
    read = checkpoint.Folder._stored
    done = []
    began = threading.Event()

    def slow(self, name):
        done.append(name)
        if len(done) == 2:
            began.set()
        time.sleep(0.05)
        return read(self, name)

    monkeypatch.setattr(checkpoint.Folder, "_stored", slow)
    shutil.copy(_tokenizer(), folder / "tokenizer.json")
    task = asyncio.create_task(Runtime(folder).__aenter__())
    assert await asyncio.to_thread(began.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(done) < 5


def _tokenizer():
    from plait.runtime.engines.registry import MODELS

    return MODELS / "countdown" / "tokenizer.json"


async def test_what_loading_raises_comes_out(loader):
    loader.error = InvalidInput("broken")
    with pytest.raises(InvalidInput, match="broken"):
        async with Runtime("slow:x"):
            pass
    task = asyncio.create_task(load_in_thread(lambda: loader("", {})))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):  # the mistake of a model that nobody wants any more
        await task


async def test_companions_asked_for_together_load_once(loader):
    companions = Companions()
    began = time.monotonic()
    engines = await asyncio.gather(*(companions.get("slow:x") for _ in range(3)), companions.get("slow:y"))
    assert loader.started == 2 and engines[0] is engines[1] is engines[2] is not engines[3]
    assert time.monotonic() - began < 0.55  # two models at the same time
    assert await companions.get("slow:x") is engines[0]
    await companions.close()
    assert all(engine.is_closed for engine in loader.engines)


async def test_a_companion_that_one_gives_up_is_loaded_for_the_other(loader):
    loader.listens = True
    companions = Companions()
    first = asyncio.create_task(companions.get("slow:x"))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(companions.get("slow:x"))
    await asyncio.sleep(0.05)
    first.cancel()
    engine = await second
    assert first.cancelled() and loader.started == 2 and not engine.is_closed
    await companions.close()
    assert engine.is_closed


async def test_a_companion_that_cannot_be_loaded_is_tried_again(loader):
    companions = Companions()
    loader.error = InvalidInput("broken")
    with pytest.raises(InvalidInput, match="broken"):
        await companions.get("slow:x")
    loader.error = None
    assert await companions.get("slow:x") is loader.engines[0]
    await companions.close()


def test_companions_are_asked_for_together_in_one_event_loop_after_another(loader):
    loader.seconds = 0.01
    companions = Companions()

    async def use():
        await asyncio.gather(*(companions.get("slow:x") for _ in range(2)))
        await companions.close()

    for _ in range(2):
        asyncio.run(use())
    assert loader.started == 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_for_a_terminal_that_has_to_wait(shown, monkeypatch):
    screen = Terminal() if shown else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("plait.runtime.engines.loading.PATIENCE", 0.05)
    with loading("loading big.gguf", 10) as step:
        for _ in range(12):  # their number is not known to the last one
            step()
            time.sleep(0.03)
    assert ("loading big.gguf" in screen.getvalue()) is ("10/10" in screen.getvalue()) is shown
    assert "11/10" not in screen.getvalue()
    quick = Terminal() if shown else io.StringIO()
    monkeypatch.setattr(sys, "stderr", quick)
    with loading("loading small.gguf", 3) as step:
        for _ in range(3):
            step()
    assert quick.getvalue() == ""


@pytest.mark.parametrize(("path", "name"), [(".", "inner"), ("..", "model"), ("../.", "model"), ("deep/..", "inner")])
def test_a_folder_without_a_name_in_its_path_has_its_own(path, name, tmp_path, monkeypatch):
    (tmp_path / "model" / "inner" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model" / "inner")
    assert find_model(path).name == last_part(path) == name


def test_a_model_whose_name_is_not_utf_8_has_one_that_can_be_written():
    assert last_part(os.fsdecode(b"models/caf\xe9")) == "caf?"
