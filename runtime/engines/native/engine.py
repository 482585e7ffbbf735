"""`NativeEngine`: the embedded engine. A thread runs forward passes; the event loop edits views and gets tokens."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...engine import BlockUsage, Branch, Capabilities, Constraint, SamplingDefaults, Tokenizer
from ...errors import BranchBusy, EngineClosed, InvalidInput
from ..branch_checks import check_place
from ..constraints.matcher import Compiler
from ..registry import find_model, last_part
from .branch import NativeBranch
from .context_files import ContextFiles
from .context_scaling import read_scaling
from .context_tier import ContextTier
from .forks import check_process, is_forked
from .generation_config import read_defaults
from .gguf_tokenizer import load_tokenizer
from .loader import load_model
from .mailbox import Mailbox
from .model import AT_ONCE, Interrupted, Model
from .model_files import ModelFiles
from .opening import draft_rows, open_store, recomputes
from .options import NativeOptions
from .parallel.model import load_parallel
from .pressure import PATIENCE
from .scheduler import Scheduler
from .view import View


class NativeEngine:
    """Serves branches of one model in this process; see `runtime.engine.Engine` for the contract.

    Branch operations belong on the event loop's thread. `lock` guards store, scheduler and views: the engine's thread
    takes it to plan a step and to take over its results, never during the forward pass.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        options: NativeOptions | None = None,
        name: str = "",
        source: Path | None = None,
        files: ModelFiles | None = None,
    ) -> None:
        """`source`: the folder or file of the model. `files`: what is there, noted before the model was loaded from it;
        None: as it is now. Raises `InvalidInput` for contexts on disk without a source."""
        check_process()
        self.options = options = options or NativeOptions()
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.vocab_size = model.vocab_size
        self.constraints = Compiler(tokenizer, name or "native")
        longest = model.config.max_context
        self.context_limit = min(longest, options.context_limit or longest)
        self.pool, self.store = open_store(model, options, self.context_limit)
        self.block_size = self.store.block_size
        self.scheduler = Scheduler(
            self.store,
            max_rows=options.max_rows,
            slice_rows=options.slice_rows,
            prefill_chunk=options.prefill_chunk,
            max_steps=1 if model.stack is None or options.keep_logits else self.block_size,
            scores=model.scores,
            draft_rows=draft_rows(model, options.draft_rows),
            recomputes=recomputes(model),
        )
        self.singles = model.singles and not options.keep_logits
        self.lock = threading.RLock()
        self._work = threading.Condition(self.lock)
        self._branches: dict[str, set[NativeBranch]] = {}
        self._is_closed = False
        self._owns_model = False
        """Is it to be closed with the engine?"""
        self._mailbox: Mailbox | None = None
        """Of the loop that the engine works for."""
        self._thread: threading.Thread | None = None
        self._stopped = asyncio.Event()
        self.capabilities = Capabilities(
            kv_merge=True,
            live_views=True,
            parallel_contexts=True,
            logprobs=True,
            hidden_states=True,
            constrained=True,
            certainty=True,
            **({} if source is None else read_scaling(source)),
        )
        self.sampling_defaults = SamplingDefaults() if source is None else read_defaults(source)
        self.contexts: ContextTier | None = None
        """Of contexts on disk."""
        if options.contexts is not None:
            if source is None:
                raise InvalidInput("contexts are kept on disk for models loaded from disk only: their weights stay")
            store = ContextFiles(options.contexts, options.context_bytes).prepared()
            self.contexts = ContextTier(self, store, files or ModelFiles(source))

    @classmethod
    def load(cls, path: str | Path, *, name: str = "", **options: Any) -> NativeEngine:
        """From a Hugging Face folder or a GGUF file; `options` are those of `NativeOptions`. `name`: the engine's;
        empty: that of the folder or file.

        Raises `UnknownModel`, `UnsupportedModel` or `InvalidInput`.
        """
        check_process()
        chosen = NativeOptions.of(options)
        size = chosen.tensor_parallel
        load_one = partial(load_model, is_invariant=chosen.batch_invariant, weight_type=chosen.weights)
        load_it = load_one if size == 1 else partial(load_parallel, size=size)
        files = None if chosen.contexts is None else ModelFiles(Path(path))
        model = load_it(
            path,
            device=chosen.device,
            dtype=chosen.dtype,
            impl=chosen.impl,
            num_threads=chosen.num_threads,
            headless=chosen.headless,
            context_limit=chosen.context_limit,
        )
        try:
            tokenizer = load_tokenizer(path)
            tokenizer.chat_template_kwargs = chosen.chat_template_kwargs
            tokenizer.check_fits(model.vocab_size, str(path))
            engine = cls(model, tokenizer, chosen, name=name or last_part(path), source=Path(path), files=files)
        except BaseException:
            model.close()
            raise
        engine._owns_model = size > 1
        return engine

    # -- the Engine contract -----------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.mailbox.loop

    @property
    def mailbox(self) -> Mailbox:
        if self._mailbox is None:
            raise EngineClosed("the engine has not been started; use a Runtime or `await engine.start()`")
        return self._mailbox

    async def start(self) -> None:
        self.check_open()
        if self._thread is not None and self.loop is not asyncio.get_running_loop():
            raise EngineClosed("the engine was started in another event loop, and works for that one alone")
        if self._thread is None:
            self._mailbox = Mailbox(asyncio.get_running_loop())
            self._thread = threading.Thread(target=self._run, name="plait-engine", daemon=True)
            self._thread.start()
            atexit.register(self._abandon, self._thread)

    async def close(self) -> None:
        if is_forked():
            self._is_closed = True  # the rest is the parent's
            return
        with self.lock:
            self._is_closed = True
            for branch in [b for branches in self._branches.values() for b in branches]:
                branch.close()
            self._work.notify_all()
        if self._owns_model:
            # First, so that a forward pass that waits for another process, stuck as it may be, comes to an end.
            await asyncio.to_thread(self.model.close)
        thread, self._thread = self._thread, None
        if thread is not None:
            await self._stopped.wait()
            thread.join()
        if self.contexts is not None:
            await self.contexts.close()

    def open(
        self,
        tokens: Sequence[int] = (),
        *,
        path: tuple[int, ...] = (),
        seed: int = 0,
        context_limit: int | None = None,
        job: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> Branch:
        with self.lock:
            self.check_open()
            check_place(seed, priority, deadline, context_limit)
            limit = min(self.context_limit, context_limit or self.context_limit)
            branch = NativeBranch(
                self, View(self.store, job=job), path=path, seed=seed, context_limit=limit, job=job, priority=priority,
                deadline=deadline,
            )  # fmt: skip
            try:
                branch.extend(tokens)
            except BaseException:
                branch.close()
                raise
            return branch

    def refresh(self) -> None:
        """The parameters of the live model that this engine serves have changed in place: use them as they are now, and
        forget what was computed with the old ones. Raises `BranchBusy` while branches are open."""
        with self.lock:
            if self._branches:
                raise BranchBusy(f"{self.num_branches} branches are open: what they have read is of the old weights")
            self.model.refresh()
            self.store.evict_all()

    def check_constraint(self, constraint: Constraint) -> None:
        self.constraints.check(constraint)

    def block_usage(self, job: str | None = None) -> BlockUsage:
        with self.lock:
            return self.store.usage(job)

    # -- for branches ------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        check_process()
        if self._is_closed:
            raise EngineClosed("the engine is closed")

    def register(self, branch: NativeBranch) -> None:
        self._branches.setdefault(branch.job, set()).add(branch)

    def unregister(self, branch: NativeBranch) -> None:
        branches = self._branches[branch.job]
        branches.discard(branch)
        if not branches:
            del self._branches[branch.job]
            self.scheduler.pressure.forget_job(branch.job)
            self.store.by_job.forget(branch.job)

    def wake(self) -> None:
        """Something may have become runnable."""
        with self._work:
            self._work.notify()

    @property
    def num_branches(self) -> int:
        return sum(map(len, self._branches.values()))

    # -- the engine's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        mailbox = self.mailbox
        while not (self._is_closed or mailbox.is_orphaned):
            try:
                with contextlib.suppress(Interrupted):  # the next step is planned anew
                    self._step()
            except BaseException as error:  # a defect or a lost device: every waiting generation must hear of it
                with self.lock:
                    mailbox.put(self.scheduler.fail(error))
        self._is_closed = True
        mailbox.call(self._stopped.set)
        atexit.unregister(self._abandon)

    def _abandon(self, thread: threading.Thread) -> None:
        """The process ends and nobody has closed the engine, or waited for it: a thread that computes then would abort
        the process in the midst of its exit."""
        if is_forked():
            return
        with self.lock:
            self._is_closed = True
            self.scheduler.interrupt.value = AT_ONCE
            self._work.notify_all()
        if self._owns_model:
            self.model.close()  # as in `close`
        thread.join()

    def _step(self) -> None:
        """Plan, run and take over one forward pass, or a burst of them, or wait for work. A context is read from disk
        before it."""
        mailbox = self.mailbox
        if self.contexts is not None and self.contexts.has_loads:
            self.contexts.load_one()
        began = time.perf_counter()
        with self._work:
            step, deliveries = self.scheduler.plan()
            mailbox.put(deliveries)
            if not step.chunks:
                if not self._is_closed and not (self.contexts is not None and self.contexts.has_loads):
                    if not deliveries:
                        self._work.wait(PATIENCE if self.scheduler.pressure.is_stuck else None)
                return
            inputs = step.inputs(self.block_size)
        if step.num_steps > 1 or (self.singles and step.fits_burst(scores=self.scheduler.scores)):
            start = time.perf_counter()
            decoded = self.model.decode(
                inputs.tokens, inputs.positions, inputs.slots, inputs.plan, self.pool,
                steps=step.num_steps, stops=inputs.stops, interrupt=self.scheduler.interrupt, draws=step.draws(),
            )  # fmt: skip
            seconds = time.perf_counter() - start
            with self.lock:
                mailbox.put(self.scheduler.commit_burst(step, decoded))
            self.scheduler.note(step, len(decoded.tokens), seconds, time.perf_counter() - began)
            return
        numbers = (inputs.tokens, inputs.positions, inputs.slots, inputs.logit_rows)
        tokens, positions, slots, logit_rows = (tensor.to(self.model.device) for tensor in numbers)
        start = time.perf_counter()
        logits, hidden = self.model.forward(
            tokens, positions, slots, inputs.plan, self.pool, logit_rows, self.scheduler.interrupt
        )
        logits = logits.cpu()
        seconds = time.perf_counter() - start
        allowed = step.allowed(self.vocab_size)
        keep = self.options.keep_logits
        with self.lock:
            mailbox.put(self.scheduler.commit(step, logits, hidden, allowed=allowed, keep_logits=keep))
            finished, self.store.finished = self.store.finished, []
            if self.contexts is not None:
                self.contexts.save(finished)
        self.scheduler.note(step, 1, seconds, time.perf_counter() - began)


def load(rest: str, options: dict[str, Any]) -> NativeEngine:
    """`native:MODEL`: a shipped model, a folder, a GGUF file or a model of the hub."""
    found = find_model(rest)
    return NativeEngine.load(found.path, name=found.name, **options)
