"""What vLLM is asked for: `SamplingParams` as it has them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from ...engine import SamplingParams
from ...errors import InvalidInput
from .constrained import arguments

if TYPE_CHECKING:
    from vllm import SamplingParams as VllmParams

MAX_TEMPERATURE = 2.0
MIN_TEMPERATURE = 0.01
"""vLLM refuses higher temperatures and raises lower ones to this one."""


def check(params: SamplingParams) -> None:
    """Raise `InvalidInput` for what vLLM does not do."""
    if params.temperature > MAX_TEMPERATURE or 0 < params.temperature < MIN_TEMPERATURE:
        raise InvalidInput(
            f"vLLM samples at temperatures from {MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}, or greedily at 0, not at "
            f"{params.temperature!r}; the native engine does"
        )


def request(
    params: SamplingParams, *, max_tokens: int, seed: int, eos_ids: tuple[int, ...], scores_prompt: bool,
    written: Sequence[int] = (),
) -> VllmParams:  # fmt: skip
    """`scores_prompt`: the prompt's log-probabilities too. `written`: tokens of the new text that are in the prompt.
    Stop strings are the caller's matter: here are no texts."""
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind

    # Made directly, and not from a request to a server, biases are taken as they are, without bounds.
    bias = {**params.logit_bias, **dict.fromkeys(params.forbidden_ids, -inf)}
    ends = (*params.stop_token_ids, *(() if params.ignore_eos else eos_ids))
    return VllmParams(
        max_tokens=max_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        seed=seed if params.temperature > 0 else None,
        logit_bias=bias or None,
        stop_token_ids=list(ends),
        ignore_eos=True,
        logprobs=params.logprobs,
        prompt_logprobs=params.logprobs if scores_prompt else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        extra_args=arguments(params, written, ends),
    )
