"""Answers of OpenAI's two completion endpoints, whole and in parts."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ..plain import json_text
from ..result import Finish, Result
from .json_text import in_pieces
from .problems import as_refusal
from .problems import body as error_body
from .sampled import Sampled
from .work import Work

Json = dict[str, Any]


class Answer(ABC):
    """The answer to one request, made of the choices of its jobs."""

    prefix: str
    whole: str
    """Name of the whole answer's object."""
    part: str

    def __init__(self, model: str, works: Sequence[Work]) -> None:
        self.works = works
        self.head = {
            "id": self.prefix + works[0].id.removeprefix("job-"),
            "created": int(time.time()),
            "model": model,
        }
        sizes = [work.spec.method.n if isinstance(work.spec.method, Sampled) else 1 for work in works]
        self.first = dict(zip((work.id for work in works), [0, *accumulate(sizes)], strict=False))
        """Job -> index of its first choice."""

    @abstractmethod
    def choice(self, text: str, tokens: list[str] | None, calls: Sequence[Json] = ()) -> Json:
        """A choice's text, its log-probabilities (`tokens` as in `Sampled`), and the tools that it calls."""

    def call_delta(self, number: int, call: Json) -> Json:
        """A part of a choice: its tool call of this number."""
        raise NotImplementedError

    @abstractmethod
    def delta(self, text: str | None, tokens: list[str] | None = None, *, begins: bool = False) -> Json:
        """A part of a choice."""

    def complete(self) -> str:
        """The whole answer; all jobs are done. One choice after another becomes text, as all their log-probabilities
        may be hundreds of thousands of objects."""
        head = json_text({**self.head, "object": self.whole})
        choices = ",".join(
            in_pieces({**self.choice(choice["text"], choice.get("tokens"), choice.get("calls") or ()), **tail}, 3)
            for work in self.works
            for choice, tail in self.choices(work)
        )
        return f'{head[:-1]},"choices":[{choices}],"usage":{json_text(self.usage())}}}'

    def choices(self, work: Work) -> list[tuple[Json, Json]]:
        """Of a job that is done: text, finish and tokens of each choice, and what every answer says of it."""
        result = work.result
        assert result is not None
        found = [{"text": result.text, "finish": result.finish_reason.value}]
        if isinstance(work.spec.method, Sampled):
            found = result.details["choices"]
        return [
            (choice, {"index": self.first[work.id] + n, **_tail(work, result, choice)})
            for n, choice in enumerate(found)
        ]

    def chunk(self, index: int, delta: Json, tail: Json | None = None) -> Json:
        """A part of a stream."""
        choice = {"index": index, **delta, **(tail or {"finish_reason": None})}
        return {**self.head, "object": self.part, "choices": [choice]}

    def last(self) -> Json:
        """The part that only tells the usage."""
        return {**self.head, "object": self.part, "choices": [], "usage": self.usage()}

    def usage(self) -> Json:
        """Tokens as OpenAI counts them, and under `plait` what else the jobs cost."""
        results = [work.result for work in self.works if work.result]
        usages = [result.usage for result in results]
        # Of a prompt that was scored, the first token was read again, and the others taken as if they were new.
        scored = [n for result in results if (n := result.details.get("scored", 0))]
        prompt = sum(usage.prompt_tokens for usage in usages) - len(scored)
        spent = sum(usage.total_tokens for usage in usages) - sum(scored)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": spent,
            "total_tokens": prompt + spent,
            "prompt_tokens_details": {"cached_tokens": sum(min(u.reused_tokens, u.prompt_tokens) for u in usages)},
            "plait": {
                "critical_tokens": max((usage.critical_tokens for usage in usages), default=0),
                "injected_tokens": sum(usage.injected_tokens for usage in usages),
                "rolled_back_tokens": sum(usage.rolled_back_tokens for usage in usages),
                "branches": sum(usage.branches for usage in usages),
                "preemptions": sum(usage.preemptions for usage in usages),
                "peak_kv_blocks": sum(usage.peak_kv_blocks for usage in usages),
                "mean_kv_blocks": round(sum(usage.mean_kv_blocks for usage in usages), 3),
                "seconds": max((usage.seconds for usage in usages), default=0.0),
            },
        }


class ChatAnswer(Answer):
    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def choice(self, text: str, tokens: list[str] | None, calls: Sequence[Json] = ()) -> Json:
        message: Json = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
        if calls:
            message["tool_calls"] = [self.call(call) for call in calls]
        return {"message": message, "logprobs": _content(tokens)}

    @staticmethod
    def call(call: Json) -> Json:
        """The call of a tool; its id is a new one."""
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}

    def call_delta(self, number: int, call: Json) -> Json:
        """A part of a choice: its tool call of this number."""
        return {"delta": {"tool_calls": [{"index": number, **self.call(call)}]}, "logprobs": None}

    def delta(self, text: str | None, tokens: list[str] | None = None, *, begins: bool = False) -> Json:
        role = {"role": "assistant"} if begins else {}
        return {"delta": role | ({} if text is None else {"content": text}), "logprobs": _content(tokens)}


class TextAnswer(Answer):
    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def choice(self, text: str, tokens: list[str] | None, calls: Sequence[Json] = ()) -> Json:
        return {"text": text, "logprobs": _columns(tokens)}

    def delta(self, text: str | None, tokens: list[str] | None = None, *, begins: bool = False) -> Json:
        return self.choice(text or "", tokens)


def failure(work: Work) -> tuple[int, Json]:
    """What is answered for a job that has no result."""
    if work.error is None:
        return 503, error_body(503, "the job was cancelled", code="cancelled")
    refusal = as_refusal(work.error)
    return refusal.status, error_body(refusal.status, str(refusal), code=refusal.code)


def _tail(work: Work, result: Result, choice: Json) -> Json:
    finish = choice["finish"]
    ended = "tool_calls" if choice.get("calls") else "stop"
    told = {"job": work.id, "seed": work.spec.seed, "finish": finish, "answer": result.answer}
    return {"finish_reason": "length" if Finish(finish).is_truncated else ended, "plait": told}


def _content(given: list[str] | None) -> Json | None:
    """Log-probabilities as chats have them."""
    if given is None:
        return None
    tokens = map(json.loads, given)
    return {
        "content": [
            {**{name: t[name] for name in ("token", "logprob", "bytes")}, "top_logprobs": t["top"]} for t in tokens
        ],
        "refusal": None,
    }


def _columns(given: list[str] | None) -> Json | None:
    """Log-probabilities as completions have them."""
    if given is None:
        return None
    tokens = [json.loads(token) for token in given]
    texts = [token["token"] for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [token["logprob"] for token in tokens],
        # Of tokens that read alike, the likeliest.
        "top_logprobs": [
            None if (top := token["top"]) is None else {one["token"]: one["logprob"] for one in reversed(top)}
            for token in tokens
        ],
        "text_offset": [token["offset"] for token in tokens],
    }
