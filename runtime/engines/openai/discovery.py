"""What a server is and can do: its model, by what it lists, and its dialect, by requests for one token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ...engine import SamplingParams
from ...errors import PlaitError, ServerFailed, UnknownModel
from .chunks import Chunk
from .dialect import EXTENSIONS, LLAMA_CPP, PLAIT, WHOLE_STOPS, Dialect, Way, candidates
from .options import ServerOptions
from .server import ConnectionLost, InternalError, Refused, Server, StreamBroken

DEFAULT_CONTEXT = 4096
LLAMA_CPP_CONTEXT = 2048
"""Of a server that was not told another one (`--n_ctx`)."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The model that is used, as the server lists it."""

    model: str
    owner: object
    limit: int | None
    """Tokens of its context; None: the server does not say."""

    @property
    def default_limit(self) -> int:
        """What is taken where the server does not say."""
        return LLAMA_CPP_CONTEXT if self.is_llama_cpp else DEFAULT_CONTEXT

    @property
    def is_llama_cpp(self) -> bool:
        return self.owner == LLAMA_CPP

    @property
    def way(self) -> Way:
        """How constraints go over."""
        if self.is_llama_cpp:
            return "llama_cpp"
        return "structured_outputs" if self.owner in ("vllm", PLAIT) else "response_format"


async def find_listed(server: Server, options: ServerOptions) -> Listed:
    """Raises `UnknownModel`."""
    listed = {one["id"]: one for one in await server.models()}
    there = ", ".join(sorted(listed)[:20])
    if not options.model and len(listed) != 1:
        raise UnknownModel(
            f"which model of {options.url}? openai:{options.url}#MODEL; there: {there or 'none that it lists'}"
        )
    model = options.model or next(iter(listed))
    entry = listed.get(model) or next(iter(listed.values()), {})
    limit = listed.get(model, {}).get("max_model_len")
    found = Listed(model, entry.get("owned_by"), limit if isinstance(limit, int) and limit > 0 else None)
    if found.is_llama_cpp and model not in listed:
        # It would answer with another one.
        raise UnknownModel(f"{options.url} has no model {model!r}; there: {there}")
    return found


async def probe(
    server: Server, options: ServerOptions, listed: Listed, *, has_tokenizer: bool,
    prompt: Callable[[Dialect], dict[str, Any]],
) -> Dialect:  # fmt: skip
    """The richest dialect that the server takes. `prompt`: some text, as a dialect sends it. Raises `PlaitError`."""
    refusal: PlaitError | None = None
    has_extensions: bool | None = None
    is_chat = options.api == "chat"

    def request(dialect: Dialect) -> dict[str, Any]:
        params = SamplingParams(stop=("\x00",), logprobs=0 if dialect.logprobs else None)
        return {**dialect.body(params, max_tokens=1, seed=0), "model": listed.model, **prompt(dialect)}

    for dialect in candidates(
        is_chat=is_chat, has_tokenizer=has_tokenizer, logprobs=options.logprobs, owner=listed.owner
    ):
        if dialect.extensions and has_extensions is False:
            continue
        try:
            async with aclosing(server.stream(dialect.path, request(dialect))) as stream:
                chunks = [chunk async for chunk in stream]
        except Refused as error:
            refusal = refusal or error
            continue
        except StreamBroken as error:
            # Some see too late that they cannot do what they have begun.
            refusal = refusal or ServerFailed(f"{options.url} sends no completions: {error}")
            continue
        if dialect.extensions and has_extensions is None:
            has_extensions = await _reads(server, dialect.path, request(dialect), *EXTENSIONS)
            if not has_extensions:
                continue
        if dialect.gives_ids and not any(chunk.ids for chunk in chunks):
            continue
        if dialect.logprobs and not _comes_with_logprobs(chunks):
            continue
        if dialect.extensions and WHOLE_STOPS not in options.extra_body:
            # Who refuses nonsense there may refuse any field that he does not know.
            whole = replace(dialect, whole_stops=True)
            body = request(whole)
            if await _reads(server, dialect.path, body, WHOLE_STOPS) and not await _refuses(server, dialect.path, body):
                dialect = whole
        return replace(dialect, constraints=listed.way if options.constraints == "auto" else options.constraints)
    assert refusal is not None, "the last dialect asks for nothing that could be missing"
    raise refusal


async def _reads(server: Server, path: str, body: dict[str, Any], *names: str) -> bool:
    """Does the server read these fields? Many take any field that they do not know, and ignore it: those who read it
    refuse nonsense there."""
    for name in names:
        if name not in server.options.extra_body and not await _refuses(server, path, {**body, name: "nonsense"}):
            return False
    return True


async def _refuses(server: Server, path: str, body: dict[str, Any]) -> bool:
    """Is the request wrong to the server? A 500 says so at once; other failures may pass, and are raised as
    `ServerFailed` when they stay."""
    try:
        return await _refuses_now(server, path, body, max_retries=0)
    except ServerFailed:
        return await _refuses_now(server, path, body)


async def _refuses_now(server: Server, path: str, body: dict[str, Any], *, max_retries: int | None = None) -> bool:
    try:
        async with aclosing(server.stream(path, body, max_retries=max_retries)) as stream:
            await anext(stream, None)
    except ConnectionLost as error:
        raise ServerFailed(f"{server.options.url} sends no completions: {error}") from None
    except (Refused, InternalError, StreamBroken):
        return True
    return False


def _comes_with_logprobs(chunks: Sequence[Chunk]) -> bool:
    """Does the token come with its log-probability? What follows when the text is out already, as the numbers of a
    whole text at its end, would be of tokens that nobody can tell apart any more."""
    first = next((chunk for chunk in chunks if chunk.text or chunk.logprobs), None)
    return first is not None and bool(first.logprobs)
