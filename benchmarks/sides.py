"""What `plait.benchmarks.engines` compares: engines that read a prompt and decode branches that share it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ..runtime.engine import Branch, Engine, SamplingParams


class Side(Protocol):
    async def prefill(self, prompt: Sequence[int]) -> None:
        """Read it, up to the logits of its last token."""
        ...

    async def prefill_all(self, prompts: Sequence[Sequence[int]]) -> None:
        """As `prefill`, of prompts of one length that come at the same time; nothing decodes behind them."""
        ...

    async def decode(self, branches: int, tokens: int) -> None:
        """So many new tokens of each of so many branches, greedily, behind the latest prompt."""
        ...


class EngineSide:
    """An engine of plait's: the native one, or vLLM's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._root: Branch | None = None

    async def prefill(self, prompt: Sequence[int]) -> None:
        self.close()
        self._root = self.engine.open(list(prompt))
        await self._root.generate(SamplingParams(max_tokens=1, ignore_eos=True))

    async def prefill_all(self, prompts: Sequence[Sequence[int]]) -> None:
        branches = [self.engine.open(list(prompt), job=str(i)) for i, prompt in enumerate(prompts)]
        params = SamplingParams(max_tokens=1, ignore_eos=True)
        await asyncio.gather(*(branch.generate(params) for branch in branches))
        for branch in branches:
            branch.close()

    async def decode(self, branches: int, tokens: int) -> None:
        assert self._root is not None
        children = self._root.fork(branches)
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        await asyncio.gather(*(child.generate(params) for child in children))
        for child in children:
            child.close()

    def close(self) -> None:
        if self._root is not None:
            self._root.close()
        self._root = None


class Transformers:
    """Its model's forward with its default cache, which is repeated for each branch; attention by torch's SDPA."""

    def __init__(self, folder: str, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        self._cache: Any = None
        self._next = torch.zeros(1, 1, dtype=torch.long)

    @property
    def length(self) -> int:
        """Tokens of the prompt that are in the cache."""
        return int(self._cache.get_seq_length())

    @torch.inference_mode()
    def _step(self, ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        found = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1].argmax(-1, keepdim=True), found.past_key_values

    async def prefill(self, prompt: Sequence[int]) -> None:
        self._cache = None
        self._next, self._cache = self._step(torch.tensor([list(prompt)]), None)

    async def prefill_all(self, prompts: Sequence[Sequence[int]]) -> None:
        self._step(torch.tensor([list(prompt) for prompt in prompts]), None)

    async def decode(self, branches: int, tokens: int) -> None:
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(branches)
        latest = self._next.expand(branches, 1)
        for _ in range(tokens):
            latest, cache = self._step(latest, cache)


class LlamaCpp:
    """Its own interface of batches, as its batched-bench does: the prompt's cells are shared with each sequence."""

    def __init__(self, path: str, *, context: int, sequences: int, threads: int) -> None:
        import llama_cpp

        self.api = api = llama_cpp
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, 2048, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch = sequences, threads, threads
        params.kv_unified = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise SystemExit(f"llama.cpp takes no context for {path}")
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(2048, 0, 1)
        self._length = 0
        self._next = 0

    def _run(self, tokens: Sequence[int], places: Sequence[int], owners: Sequence[int], wanted: Sequence[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, place, owner) in enumerate(zip(tokens, places, owners, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, place, 1
            batch.seq_id[i][0], batch.logits[i] = owner, 0
        for i in wanted:
            batch.logits[i] = 1
        if self.api.llama_decode(self._context, batch):
            raise SystemExit("llama.cpp refused a batch")

    def _likeliest(self, row: int) -> int:
        logits = self.api.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())

    async def prefill(self, prompt: Sequence[int]) -> None:
        self._next = self._read([prompt])
        self._length = len(prompt)

    async def prefill_all(self, prompts: Sequence[Sequence[int]]) -> None:
        self._read(prompts)

    def _read(self, prompts: Sequence[Sequence[int]]) -> int:
        """The prompts as sequences, one behind another in the batches; what comes after the last of them."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self._context), True)
        rows = [(owner, place) for owner, prompt in enumerate(prompts) for place in range(len(prompt))]
        for start in range(0, len(rows), 2048):
            part = rows[start : start + 2048]
            owners, places = zip(*part, strict=True)
            last = [i for i, (owner, place) in enumerate(part) if place == len(prompts[owner]) - 1]
            self._run([prompts[owner][place] for owner, place in part], places, owners, last)
        return self._likeliest(len(part) - 1)

    async def decode(self, branches: int, tokens: int) -> None:
        memory = self.api.llama_get_memory(self._context)
        for owner in range(1, branches):
            self.api.llama_memory_seq_cp(memory, 0, owner, 0, self._length)
        rows, latest = range(branches), [self._next] * branches
        for step in range(tokens):
            self._run(latest, [self._length + step] * branches, rows, rows)
            latest = [self._likeliest(row) for row in rows]
        for owner in rows:
            self.api.llama_memory_seq_rm(memory, owner, self._length, -1)
        for owner in range(1, branches):
            self.api.llama_memory_seq_rm(memory, owner, -1, -1)
