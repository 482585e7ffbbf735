"""Bodies of OpenAI's two completion endpoints, and the jobs they ask for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import MaxLen
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from ..budget import Budget
from ..engine import Tokenizer
from ..errors import InvalidInput
from ..job_spec import JobSpec
from ..methods.base import Method
from ..methods.constraints import AnyConstraint
from ..methods.registry import METHODS, parse_method
from ..methods.words import method_of
from .bodies import Given
from .problems import Refused
from .sampled import Sampled
from .structured import ResponseFormat, StructuredOutputs
from .tools import Message, NamedTool, ToolBody, chosen_tool, with_results_in_order

Fields = dict[str, Any]


def _prompt(value: object) -> Any:
    """By hand: a union of lists is tried item by item, kind by kind, and may be of a megabyte."""
    is_text = isinstance(value, str)
    if isinstance(value, list) and value:
        kind = type(value[0])
        lists = value if kind is list else [value]
        is_text = kind in (str, int) and all(type(part) is kind for part in value)
        is_text = is_text or (kind is list and all(type(part) is list for part in lists))
        is_text = is_text and (kind is not list or all(type(id) is int for part in lists for id in part))
    if not is_text:
        raise ValueError("a prompt is a text, a list of texts, a list of token ids, or a list of such lists")
    return value


_IDS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
Prompts = Annotated[
    str | list[str] | list[int] | list[list[int]],
    PlainValidator(_prompt),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}),
]


def _no_penalty(value: float) -> float:
    if value != 0:
        raise ValueError("it is not supported: leave it out, or give repetition_penalty")
    return value


NoPenalty = Annotated[
    float, AfterValidator(_no_penalty), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 0})
]


def _no_bias(value: Fields) -> Fields:
    if value:
        raise ValueError("it is not supported: leave it out")
    return value


NoBias = Annotated[Fields, AfterValidator(_no_bias), WithJsonSchema({"type": "object", "maxProperties": 0})]


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number of tokens; true and false are what chats take")
    return value


class StreamOptions(Given):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Body(Given):
    """What both endpoints take. Fields that are not known, and those of OpenAI's that would change the answer and are
    not supported, are refused."""

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)

    model: str
    """The model's name, or name and method: `countdown:sc8`, `countdown:apr:dialect=compact`."""
    method: Fields | str | None = None
    """How to reason, instead of in the model's name: a method's fields, or a word as there."""
    budget: Fields | None = None
    """What the job may spend (`Budget`)."""
    n: int | None = Field(default=None, ge=1, le=128)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    """None: the model's own, as for `top_p`, `top_k` and `min_p`."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    stop: str | Annotated[list[str], MaxLen(16)] | None = None
    seed: int | None = None
    """None: a new one each time; the answer says which."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    """As vLLM has it."""
    presence_penalty: NoPenalty | None = None
    frequency_penalty: NoPenalty | None = None
    logit_bias: NoBias | None = None
    user: str | None = None
    metadata: Fields | None = None
    store: bool | None = None
    service_tier: str | None = None

    @property
    def top(self) -> int | None:
        """As `Sampled.top`."""
        raise NotImplementedError

    def prompts(self, tokenizer: Tokenizer, *, is_plain: bool) -> list[Any]:
        """One prompt of a job each. `is_plain`: no method is asked for. Raises `Refused` and `InvalidInput`."""
        raise NotImplementedError

    def limit(self, *, is_plain: bool) -> int | None:
        """Tokens of a text at most. Raises `Refused`."""
        return self.max_tokens

    def constraint(self) -> AnyConstraint | None:
        """What the text must look like. Raises `Refused` and `InvalidInput`."""
        given = [one for one in (self.response_format, self.structured_outputs) if one is not None]
        found = [constraint for one in given if (constraint := one.constraint()) is not None]
        if len(found) > 1:
            raise Refused(400, "response_format and structured_outputs: give one of them", param="structured_outputs")
        return found[0] if found else None

    def tool_fields(self, tokenizer: Tokenizer) -> Fields:
        """Fields of `Sampled` for tools."""
        return {}

    def extra(self) -> Fields:
        """Fields of `Sampled` that this endpoint alone has."""
        return {}

    def specs(self, model: str, tokenizer: Tokenizer, allow: Callable[[object], None]) -> list[JobSpec]:
        """The jobs that are asked for, in the order of their choices. `allow` raises for JSON of methods that clients
        may not use. Raises `Refused` and `InvalidInput`."""
        chosen = self.choose(model)
        if chosen is not None:
            allow(chosen)
        given = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        given |= {"max_tokens": self.limit(is_plain=chosen is None), "stop": tuple(stop) if stop else None}
        given["constraint"] = self.constraint()
        fields = {name: value for name, value in given.items() if value is not None}
        budget = Budget(**(self.budget or {}))
        tools = self.tool_fields(tokenizer)
        if tools and chosen is not None:
            raise Refused(400, "tools are there without a method only", param="tools")
        seed = secrets.randbelow(1 << 31) if self.seed is None else self.seed
        specs = []
        for prompt in self.prompts(tokenizer, is_plain=chosen is None):
            if chosen is None:
                method: Method = Sampled(prompt=prompt, n=self.n or 1, top=self.top, **fields, **tools, **self.extra())
                specs.append(JobSpec(method=method, budget=budget, seed=seed, metadata=self.metadata or {}))
                continue
            if self.top is not None:
                raise Refused(400, "log-probabilities are there without a method only", param="logprobs")
            said = {"prompt": prompt, **fields}
            left = {name: value for name, value in said.items() if chosen.get(name) is None}
            method = parse_method({**chosen, **left})
            for name, value in said.items():
                if name not in left and getattr(method, name) != value:
                    raise Refused(400, f"the method has another {name} than the body: leave it out", param="method")
            for number in range(self.n or 1):
                spec = JobSpec(method=method, budget=budget, seed=seed + number, metadata=self.metadata or {})
                specs.append(spec)
        return specs

    def choose(self, model: str) -> Fields | None:
        """The method's fields; None: none is asked for. Raises `Refused` for a model that is not served."""
        name, colon, suffix = self.model.removeprefix(model).partition(":")
        if not self.model.startswith(model) or name:
            raise Refused(404, f"the model {self.model!r} is not served here: it is {model!r}", code="model_not_found")
        if colon and self.method is not None:
            raise Refused(400, "there are two methods, in the model's name and in `method`: give one", param="method")
        if isinstance(self.method, dict):
            return self.method
        word = suffix if colon else self.method
        if word is None:
            return None
        fields = method_of(word)
        if METHODS.find(fields["method"]) is None:
            param = "model" if colon else "method"
            raise Refused(404, METHODS.unknown(fields["method"]), code="model_not_found", param=param)
        return fields


class CompletionBody(Body):
    """The body of `/v1/completions`."""

    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=20), BeforeValidator(_no_truth)] | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    echo: bool | None = None
    """The prompt in front of each text; with `logprobs`, with those of its tokens."""
    best_of: int | None = None

    @property
    def top(self) -> int | None:
        return self.logprobs

    def limit(self, *, is_plain: bool) -> int | None:
        return 16 if self.max_tokens is None and is_plain else self.max_tokens

    def extra(self) -> Fields:
        return {"echo": bool(self.echo)}

    def prompts(self, tokenizer: Tokenizer, *, is_plain: bool) -> list[Any]:
        if self.echo and (self.stream or not is_plain):
            raise Refused(400, "echo is there without a method and without stream only", param="echo")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise Refused(400, "best_of is not supported: use n, or a method", param="best_of")
        several = isinstance(self.prompt, list) and bool(self.prompt) and not isinstance(self.prompt[0], int)
        found = list(self.prompt) if several else [self.prompt]
        if len(found) > 128:
            raise Refused(400, f"{len(found)} prompts in one request: 128 at most", param="prompt")
        return found


class ChatBody(Body):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1), FailFast()]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[ToolBody] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    @property
    def top(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise Refused(400, "top_logprobs needs logprobs", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def limit(self, *, is_plain: bool) -> int | None:
        limits = {self.max_completion_tokens, self.max_tokens} - {None}
        if len(limits) > 1:
            raise Refused(400, "max_tokens and max_completion_tokens differ: give one of them", param="max_tokens")
        return next(iter(limits), None)

    def tool_fields(self, tokenizer: Tokenizer) -> Fields:
        if not self.tools:
            if self.tool_choice not in (None, "none"):
                raise Refused(400, "tool_choice is given, and there are no tools", param="tool_choice")
            return {}
        return {
            "tools": tuple(tool.tool() for tool in self.tools),
            "tool_choice": chosen_tool(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "marks": tokenizer.tool_marks,
        }

    def prompts(self, tokenizer: Tokenizer, *, is_plain: bool) -> list[Any]:
        marks = tokenizer.tool_marks
        messages = [message.given(marks) for message in with_results_in_order(self.messages)]
        if messages == [{"role": "user", "content": messages[0]["content"]}] and not _chats(tokenizer):
            return [messages[0]["content"]]  # A model without a chat template continues texts.
        return [messages]


def _chats(tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.chat([{"role": "user", "content": "?"}])
    except InvalidInput:
        return False
    return True
