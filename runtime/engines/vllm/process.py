"""The processes of vLLM: starting them without holding up the event loop, and leaving none behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from ...errors import PlaitError
from ..loading import in_thread
from .options import message

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

SETTINGS = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    # Forked processes would share this one's threads' locks.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""Environment variables for vLLM, where they are not set."""

_NAME = "EngineCore"
"""What the names of its processes begin with."""
ANSWER = 120.0
"""Seconds that an engine which has started has for its first answer."""
GRACE = 30.0
"""Seconds that its processes have to end by themselves, before they are killed."""
Workers: TypeAlias = "list[Any]"
"""Processes as psutil, which comes with vLLM, has them: they are known by when they began as well."""
_starting = threading.Lock()
"""One engine starts at a time, so that each knows its own processes."""


def settle() -> None:
    """Set what vLLM reads as it is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


async def start(config: VllmConfig, *, log_stats: bool) -> tuple[AsyncLLM, Workers]:
    """An engine that runs in processes of its own, and those among them that are its processes' children. Raises
    `PlaitError`; cancelled, it ends them."""
    ended = threading.Event()
    before: set[BaseProcess] | None = None
    killed: Workers = []

    def work() -> tuple[AsyncLLM, Workers] | None:
        from vllm.v1.engine.async_llm import AsyncLLM

        nonlocal before
        with _starting:
            if ended.is_set():
                return None
            before = _processes()
            try:
                llm = AsyncLLM.from_vllm_config(config, disable_log_stats=not log_stats)
            except Exception as error:  # Whatever any part of it raises.
                _end(killed)
                raise PlaitError(
                    f"vLLM cannot start with {config.model_config.model}: {message(error)} (its own messages, further "
                    f"up, may say why; VLLM_LOGGING_LEVEL=INFO shows more)"
                ) from error
            return llm, _workers(_processes() - before)

    def stop() -> None:
        import psutil

        ended.set()
        if before is not None:
            own = _processes() - before
            killed.extend(_workers(own))
            for process in (*killed, *own):
                with suppress(ProcessLookupError, psutil.NoSuchProcess):
                    process.kill()

    async def drop(late: tuple[AsyncLLM, Workers] | None) -> None:
        if late is not None:
            await shut_down(*late)

    started = await in_thread(work, stop=stop, drop=drop)
    assert started is not None, "whoever was cancelled does not come here"
    llm, workers = started
    try:
        # The first request would ask, and wait for ever if the processes ended before they answered.
        async with asyncio.timeout(ANSWER):
            await llm.get_supported_tasks()
    except BaseException as error:
        await shut_down(llm, workers)
        if isinstance(error, TimeoutError):
            raise PlaitError(f"vLLM has started with {config.model_config.model} and does not answer") from None
        raise
    return llm, workers


async def shut_down(llm: AsyncLLM, workers: Workers) -> None:
    """End its processes and tasks, and wait for them."""
    resources = llm.engine_core.resources
    held = (llm.output_handler, resources.output_queue_task, resources.stats_update_task)
    tasks = [task for task in held if task is not None]
    # With Ray there are actors instead, which vLLM ends itself.
    processes: list[BaseProcess] = list(getattr(resources.engine_manager, "processes", ()))

    def work() -> None:
        llm.shutdown(timeout=GRACE)
        for process in processes:
            process.join()
        # Whoever is left has lost its parent.
        _end(workers)

    async def done(_: None) -> None:
        pass

    try:
        await in_thread(work, stop=lambda: None, drop=done)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        resources.ctx.destroy(linger=0)


def _workers(processes: Iterable[BaseProcess]) -> Workers:
    """Their children, and the children of these."""
    import psutil

    found: Workers = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += psutil.Process(process.pid).children(recursive=True)
    return found


def _end(workers: Workers) -> None:
    import psutil

    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    psutil.wait_procs(workers)


def _processes() -> set[BaseProcess]:
    return {process for process in multiprocessing.active_children() if process.name.startswith(_NAME)}
