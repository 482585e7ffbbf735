"""`ServerOptions`: which server, which model there, and how to talk to it."""

from __future__ import annotations

import os
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ...errors import InvalidInput
from ...price import Price
from ...spec import Spec

KEY = "OPENAI_API_KEY"


class ServerOptions(Spec):
    """How an `OpenAIEngine` talks to its server."""

    refusal = InvalidInput

    url: str
    """Of the API: `http://host:8000/v1`."""
    model: str | None = None
    """As the server calls it; None: the only one that the server lists."""
    api: Literal["completions", "chat"] = "completions"
    """`/completions`, which goes on with any text; or `/chat/completions`, which only answers messages."""
    tokenizer: str | None = None
    """Whose tokenizer to count and encode with: a folder, a GGUF file, a shipped model or one of the hub. None: texts
    go over as they are, and counts are of words."""
    context_limit: int | None = Field(default=None, ge=1)
    """Tokens one branch may span; None: what the server says, else 4096."""
    api_key_env: str = KEY
    """The environment variable that holds the key; none is sent if it is not set."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds without a byte from the server."""
    max_retries: int = Field(default=5, ge=0)
    """Times a request is sent again after a 408, 409, 429, 5xx, a timeout or a lost connection, or for an answer
    that the server broke off."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """Requests under way at most; more wait. None: 64, and 1 at llama.cpp's Python server, which answers one after
    another and breaks off an answer when the next request comes."""
    prefill: bool = False
    """The chat API goes on with a last message of the assistant's (`continue_final_message`, as vLLM has it)."""
    constraints: Literal["auto", "response_format", "structured_outputs", "guided", "llama_cpp"] = "auto"
    """How the server takes constraints: `response_format` (JSON alone; OpenAI), `structured_outputs` (all kinds; vLLM,
    plait), `guided` (`guided_json` and so on: vLLM before 0.12) or `llama_cpp` (its Python server: choices, and JSON
    with `api="chat"`). `auto`: by who owns the model, as the server lists it."""
    logprobs: bool | None = None
    """Ask for log-probabilities, if the server gives them with each token. None: yes, but not at llama.cpp's Python
    server, which loses characters of several tokens where it gives them, and takes many times as long."""
    price: Price | None = None
    """What `OpenAIEngine.cost` counts by."""
    extra_body: dict[str, Any] = {}
    """Put into every request as it is; it replaces what would be there. `n` is 1."""

    @field_validator("extra_body")
    @classmethod
    def _ask_for_one(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        if extra_body.get("n", 1) != 1:
            raise ValueError("n is 1: one answer is read of each request; SelfConsistency samples several")
        return extra_body

    @property
    def api_key(self) -> str | None:
        """Without the white space that files of keys end with. Raises `InvalidInput` for what no header holds."""
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise InvalidInput(f"{self.api_key_env} holds characters that no key has: line ends, control or not ASCII")
        return key or None


def read_options(rest: str, options: dict[str, Any]) -> ServerOptions:
    """`URL` or `URL#MODEL`, and options. Raises `InvalidInput`."""
    if "api_key" in options:
        raise InvalidInput(f"keys are no options, which are logged: set {KEY}, or name a variable with api_key_env")
    url, _, model = rest.partition("#")
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url:
        raise InvalidInput("after openai: goes the address of an API, as in openai:http://localhost:8000/v1#MODEL")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"the address of a server must not hold a password: put the key into {KEY}")
    if model and options.get("model", model) != model:
        raise InvalidInput(f"two models: {model} behind the address, and {options['model']}")
    if "url" in options:
        raise InvalidInput("the address is given twice")
    return ServerOptions(url=url, **{**({"model": model} if model else {}), **options})
