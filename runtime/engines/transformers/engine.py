"""`TransformersEngine`: any causal language model that transformers knows; slow, and an oracle for the others.

One forward pass at a time, in a thread. A branch's KV is a cache of its own; where its view was cut or put together
anew, what no longer fits is computed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from copy import deepcopy
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...engine import Capabilities, Completion, Constraint, SamplingParams, Tokenizer
from ...errors import InvalidInput, NonFiniteLogits, UnsupportedModel
from ..constraints.matcher import Compiler, dead_end
from ..native.generation_config import read_defaults
from ..native.sampling import branch_seed, certainty, uniform
from ..native.tokenizer import HFTokenizer
from ..registry import find_model
from ..token_branch import TokenBranch, TokenGeneration
from ..token_decoding import Scores, decode, text_room
from ..token_engine import TokenEngine
from .logits import shape

logger = logging.getLogger(__name__)

DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEPT = 8
"""Caches that are kept for branches to go on with, or to begin from."""


class TransformersEngine(TokenEngine):
    """See `engine.Engine`."""

    def __init__(self, model: Any, tokenizer: Tokenizer, *, name: str, context_limit: int, **options: Any) -> None:
        """`model`: what `AutoModelForCausalLM` loads."""
        super().__init__(
            name,
            tokenizer,
            context_limit=context_limit,
            capabilities=Capabilities(logprobs=True, constrained=True, certainty=True),
            **options,
        )
        self.model = model
        self._constraints = Compiler(tokenizer, name)
        self._turn: asyncio.Lock
        """Of the event loop in which the engine was started."""
        self._thread: ThreadPoolExecutor | None = None
        # Learned positions may begin at another number (RoBERTa's); the models count these themselves.
        is_rotary = bool(getattr(model.config.get_text_config(decoder=True), "rope_parameters", None))
        self._is_told_positions = is_rotary and "position_ids" in signature(model.forward).parameters
        self._caches: list[tuple[list[int], Any]] = []
        """Tokens and what was computed for them, those used last at the end."""

    async def start(self) -> None:
        await super().start()
        if self._thread is None:
            self._turn = asyncio.Lock()
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="plait-transformers")
            logger.warning("%s runs on transformers, one branch at a time: it is slow", self.name)

    async def close(self) -> None:
        await super().close()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            thread.shutdown()
        self._caches.clear()

    def check_constraint(self, constraint: Constraint) -> None:
        self._constraints.check(constraint)

    def check_params(self, params: SamplingParams) -> None:
        super().check_params(params)
        self._constraints.matcher(params)

    async def complete(self, generation: TokenGeneration) -> Completion:
        scores = Scores()
        async with aclosing(self._sample(generation, scores)) as tokens:
            done = await decode(generation, tokens, text_room(generation.branch))
        scores.write(done, generation.params)
        return done

    async def _sample(self, generation: TokenGeneration, scores: Scores) -> AsyncGenerator[int, None]:
        branch, params = generation.branch, generation.params
        assert isinstance(branch, TokenBranch)
        forced = list(params.forced)
        seed = branch_seed(branch.seed, branch.path)
        matcher = self._constraints.matcher(params)
        if not branch.tokens:
            raise InvalidInput("a branch without tokens has nothing to go on from")
        while True:
            tokens = branch.tokens
            logits = await self._forward(tokens)
            if not logits.isfinite().any() or logits.isnan().any():
                raise NonFiniteLogits(f"{self.name}: the model gave numbers that are not finite")
            plain = torch.log_softmax(logits, -1)
            chances = shape(logits, tokens, params, None if matcher is None else matcher.allowed(len(logits)))
            if forced:
                token = forced.pop(0)
            elif chances is None:
                assert matcher is not None
                raise InvalidInput(dead_end(branch.path, matcher))
            elif params.temperature == 0:
                token = int(chances.argmax())
            else:
                draw = uniform(seed, branch.num_written)
                token = min(int(np.searchsorted(chances.cumsum(-1).numpy(), draw)), len(chances) - 1)
                if chances[token] == 0:  # rounding at the very end of the distribution
                    token = int(chances.nonzero()[-1])
            if matcher is not None:
                matcher.advance(token)
            scores.logprobs.append(float(plain[token]))
            if params.logprobs:
                values, ids = plain.topk(params.logprobs)
                scores.top_logprobs.append(dict(zip(ids.tolist(), values.tolist(), strict=True)))
            if params.certainty:
                scores.certainty.append(certainty(logits))
            yield token

    async def _forward(self, tokens: list[int]) -> torch.Tensor:
        """Float32 logits behind the last token."""
        assert self._thread is not None, "the engine was not started"
        async with self._turn:
            work = asyncio.get_running_loop().run_in_executor(self._thread, partial(self._compute, tokens))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread is not free before its pass has ended.
                await asyncio.wait([work])
                raise

    @torch.inference_mode()
    def _compute(self, tokens: list[int]) -> torch.Tensor:
        known, cache = self._cache_for(tokens)
        ids = torch.tensor([tokens[known:]], device=self.model.device)
        more = {}
        if self._is_told_positions:  # else Bamba and MiniMax begin at 0 behind a cache, too
            more["position_ids"] = torch.arange(known, len(tokens), device=ids.device)[None]
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **more)
        if (cache := getattr(out, "past_key_values", None)) is not None:  # not all models give one
            self._caches.append((tokens, cache))
            del self._caches[:-KEPT]
        logits: torch.Tensor = out.logits[0, -1].float().cpu()
        return logits

    def _cache_for(self, tokens: list[int]) -> tuple[int, Any]:
        """The longest cache of a beginning of these tokens that leaves at least one, and just one to recurrent layers:
        many forget their state where they read more. It is taken, not copied, by the branch that is alone in going on
        from it."""
        held = [(len(known), i) for i, (known, _) in enumerate(self._caches) if tokens[: len(known)] == known]
        longest = len(tokens) - 1
        held = [(size, i) for size, i in held if size == longest or size < longest and not self._is_recurrent(i)]
        if not held:
            return 0, None
        size, i = max(held)
        known, cache = self._caches[i]
        if sum(branch.tokens[:size] == known for branch in self.branches if isinstance(branch, TokenBranch)) > 1:
            return size, deepcopy(cache)
        del self._caches[i]
        return size, cache

    def _is_recurrent(self, i: int) -> bool:
        """Whether a cache is that of recurrent layers; MiniMax says so by its cache alone."""
        return bool(self.model._is_stateful) or not getattr(self._caches[i][1], "is_croppable", True)


def load(rest: str, options: dict[str, Any]) -> TransformersEngine:
    """`transformers:MODEL`: a folder, a shipped model or one of the hub. Raises `UnknownModel`, `UnsupportedModel` or
    `InvalidInput`."""
    from transformers import AutoModelForCausalLM

    if unknown := set(options) - {"device", "dtype", "context_limit"}:
        raise InvalidInput(
            f"the transformers engine has no option {', '.join(sorted(unknown))}; known: context_limit, device, dtype"
        )
    dtype, device = options.get("dtype", "float32"), options.get("device", "cpu")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidInput(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    _check_device(device)
    limit = options.get("context_limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidInput(f"context_limit must be a whole number above 0, not {limit!r}")
    found = find_model(rest)
    path = Path(found.path)
    if not path.is_dir():
        raise InvalidInput(f"{path} is no folder; the native engine reads GGUF files")
    tokenizer = HFTokenizer.load(path)
    try:
        load_model: Any = AutoModelForCausalLM.from_pretrained  # whose types do not know of the second result
        model, keys = load_model(
            str(path), dtype=DTYPES[dtype], local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model = model.to(device).eval()
    except Exception as error:  # A damaged folder fails wherever its numbers are first used.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UnsupportedModel(f"transformers cannot load {path}: {reason}") from error
    _check_weights(keys, path)
    vocab_size = model.get_input_embeddings().num_embeddings
    tokenizer.check_fits(vocab_size, str(path))
    made_for = getattr(model.config, "max_position_embeddings", getattr(model.config, "n_positions", None))
    if made_for is not None and (type(made_for) is not int or made_for < 1):
        raise UnsupportedModel(f"{path}: max_position_embeddings is {made_for!r}")
    return TransformersEngine(
        model,
        tokenizer,
        name=f"transformers:{found.name}",
        vocab_size=vocab_size,
        context_limit=min(limit or made_for or 4096, made_for or limit or 4096),
        sampling_defaults=read_defaults(path),
    )


def _check_device(device: object) -> None:
    """Raise `InvalidInput` for what this machine has not."""
    try:
        if not isinstance(device, str):
            raise ValueError("it is no text")
        if torch.empty(0, device=device).is_meta:
            raise ValueError("it computes nothing")
    except Exception as error:  # torch has many for this, assertions among them
        raise InvalidInput(f"device {device!r}: {str(error).strip().partition(chr(10))[0]}") from None


def _check_weights(keys: dict[str, Any], path: Path) -> None:
    """Raise `UnsupportedModel` for weights that are not the model's: transformers draws those that are missing at
    random. What is tied to others, and what old files hold that the model computes itself, it does not name here."""
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found := sorted(map(str, keys[what])):
            raise UnsupportedModel(
                f"{path}: the weights are not those of config.json: {what.partition('_')[0]} {found[0]}"
                + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            )
