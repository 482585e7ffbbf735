"""`Dialect`: what of the API a server knows, and requests in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...engine import Constraint, SamplingParams
from ...errors import UnsupportedByEngine
from .constrained import constrained

Way = Literal["response_format", "structured_outputs", "guided", "llama_cpp"]
EXTENSIONS = ("top_k", "min_p", "repetition_penalty", "ignore_eos")
"""Fields that vLLM has beyond the API."""
WHOLE_STOPS = "include_stop_str_in_output"
LLAMA_CPP = "me"
PLAIT = "plait"
"""Who owns the models of llama.cpp's Python server and of ours, by their own word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a server understands beyond text in and text out."""

    is_chat: bool = False
    takes_ids: bool = False
    """A prompt may be token ids."""
    gives_ids: bool = False
    """It says which tokens it sampled (`return_token_ids`, as vLLM has it)."""
    flavour: Literal["openai", "vllm", "plait", "llama_cpp"] = "openai"
    """Whose fields beyond the API it has: vLLM's (`EXTENSIONS`; SGLang has them too), plait's (the first three), or
    those of llama.cpp's Python server (`top_k`, `min_p`, `grammar`)."""
    whole_stops: bool = False
    """It can leave in the stop string that it ends at (`include_stop_str_in_output`, as vLLM has it). Others are told
    of none."""
    takes_any_top_p: bool = True
    """Some refuse one beside a temperature."""
    logprobs: bool = False
    limit: str = "max_tokens"
    """The name of the field."""
    constraints: Way = "response_format"
    """See `ServerOptions.constraints`."""

    @property
    def path(self) -> str:
        return "/chat/completions" if self.is_chat else "/completions"

    @property
    def extensions(self) -> bool:
        """Has it all of `EXTENSIONS`?"""
        return self.flavour == "vllm"

    @property
    def sends_tokens(self) -> bool:
        """Is what it sends at a time one token, or the few that make one character?"""
        return self.flavour == "llama_cpp"

    def check(self, params: SamplingParams) -> None:
        """Raise `UnsupportedByEngine` for what cannot be asked for."""
        wanted = {
            "top_k": params.top_k and self.flavour == "openai",
            "min_p": params.min_p and self.flavour == "openai",
            "repetition_penalty": params.repetition_penalty != 1 and self.flavour not in ("vllm", "plait"),
            "ignore_eos": params.ignore_eos and not self.extensions,
            "logit_bias": params.logit_bias and not self.gives_ids,
            "forbidden_ids": params.forbidden_ids and not self.gives_ids,
            "stop_token_ids": params.stop_token_ids and not self.gives_ids,
            "logprobs": params.logprobs is not None and not self.logprobs,
            "constraints that go on from another text": params.constrained or (params.constraint and params.forced),
            "forced with logprobs": params.forced and params.logprobs is not None,
        }
        if missing := [name for name, is_wanted in wanted.items() if is_wanted]:
            raise UnsupportedByEngine(f"this server does not do {', '.join(missing)}; the native engine does")

    def check_constraint(self, constraint: Constraint) -> None:
        """Raise `UnsupportedByEngine` for a kind that the server does not have."""
        if self.constraints == "response_format" and constraint.kind != "json":
            raise UnsupportedByEngine(
                f"this server has constraints by JSON schemas alone, not by {constraint.kind}; if it is a vLLM server, "
                "set constraints=structured_outputs"
            )
        kinds = ("choice", "json") if self.is_chat else ("choice",)
        if self.constraints == "llama_cpp" and constraint.kind not in kinds:
            raise UnsupportedByEngine(
                "llama.cpp's Python server has constraints by choices and, with api=chat, by JSON schemas, not by "
                f"{constraint.kind}{'' if self.is_chat else ' here'}"
            )

    def body(self, params: SamplingParams, *, max_tokens: int, seed: int) -> dict[str, Any]:
        """Everything but the prompt and the model."""
        body: dict[str, Any] = {self.limit: max_tokens, "temperature": params.temperature, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if params.temperature > 0:
            body["seed"] = seed
        # What is left out is not off: servers have defaults of their own, or those of the model's makers.
        if self.takes_any_top_p or params.top_p < 1:
            body["top_p"] = params.top_p
        if self.flavour != "openai":
            body |= {"top_k": params.top_k, "min_p": params.min_p}
            body["repeat_penalty" if self.flavour == "llama_cpp" else "repetition_penalty"] = params.repetition_penalty
        bias = {str(token): value for token, value in params.logit_bias.items()}
        bias |= {str(token): -100.0 for token in params.forbidden_ids}
        if bias:
            body["logit_bias"] = bias
        if params.logprobs is not None or (self.logprobs and not self.gives_ids and not self.sends_tokens):
            # Without ids the texts of the tokens are there, and nowhere else.
            count = params.logprobs or 0
            body |= {"logprobs": True, "top_logprobs": count} if self.is_chat else {"logprobs": count}
        if params.constraint is not None:
            body |= constrained(params.constraint, self.constraints)
        if self.gives_ids:
            body |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        if self.extensions:
            body |= {"top_k": params.top_k or -1, "ignore_eos": params.ignore_eos}
            body |= {"skip_special_tokens": not self.gives_ids}
        if self.whole_stops and params.stop:
            body |= {"stop": list(params.stop), WHOLE_STOPS: True}
        return body


def candidates(
    *, is_chat: bool, has_tokenizer: bool, logprobs: bool | None = None, owner: object = None
) -> Sequence[Dialect]:
    """What to try, the richest first. `logprobs`: as `ServerOptions.logprobs`; `owner`: of the model, as the server
    lists it."""
    if owner == LLAMA_CPP:
        # It fails (500) at the fields of others, so there is nothing else to try.
        plain = Dialect(is_chat=is_chat, flavour="llama_cpp")
        return [replace(plain, logprobs=True), plain] if logprobs else [plain]
    found = _candidates(is_chat=is_chat, has_tokenizer=has_tokenizer)
    if owner == PLAIT:
        found = [replace(one, flavour="plait") for one in found if not one.extensions]
    return [one for one in found if logprobs is not False or not one.logprobs]


def _candidates(*, is_chat: bool, has_tokenizer: bool) -> Sequence[Dialect]:
    full = Dialect(is_chat=is_chat, flavour="vllm", logprobs=True)
    if is_chat:
        plain = Dialect(is_chat=True)
        both = (plain, replace(plain, limit="max_completion_tokens"))
        known = [full, replace(full, logprobs=False), *(replace(one, logprobs=True) for one in both), *both]
        return [*known, *(replace(one, takes_any_top_p=False) for one in both)]
    if has_tokenizer:
        full = replace(full, takes_ids=True, gives_ids=True)
        bare = replace(full, logprobs=False)
        return [full, bare, replace(bare, gives_ids=False), Dialect(takes_ids=True), Dialect()]
    return [full, replace(full, logprobs=False), Dialect(logprobs=True), Dialect()]
