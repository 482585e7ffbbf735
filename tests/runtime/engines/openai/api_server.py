"""A small server with the OpenAI API on the loopback interface, backed by an engine of ours; it can be made to fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from plait import Engine, SamplingParams
from plait.runtime.engines.openai.dialect import EXTENSIONS, WHOLE_STOPS

KEY = "key-for-tests"
LATE: dict[str, Any] = {
    "late nulls": {"choices": [], "usage": {"prompt_tokens": None, "completion_tokens": None}},
    "late null choices": {"choices": None, "usage": {"prompt_tokens": 3}},
    "late oddity": {"choices": 3},
    "late error": {"error": {"message": "late"}},
    "late drop": None,
}
"""Faults behind the finish reason, and what is sent there; None: the connection is lost."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class ApiServer:
    """`flavour`: "vllm" takes and gives token ids; "plain" texts alone, and refuses what is not in the API;
    "lenient" ignores it, and leaves out the stop string that it ends at; "sglang" does so too, but reads `EXTENSIONS`;
    "llama_cpp" is as llama.cpp's Python server
    (0.3.36) answers."""

    def __init__(self, engine: Engine, *, flavour: str = "vllm", key: str | None = None) -> None:
        self.engine, self.flavour, self.key = engine, flavour, key
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.faults: list[str] = []
        """What happens to the next streams, one each."""
        self.refused: list[str] = []
        """Fields of the API that it does not take."""
        self.nonsense: list[str] = []
        """What happens to the next requests with nonsense in a field, one each."""
        self.running = self.peak = self.waiting = 0
        self.logits_all = True
        self._turn = asyncio.Lock()
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/completions")(self._completions)
        self.app.post("/v1/chat/completions")(self._chat)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[ApiServer]:
        server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error", lifespan="off", ws="none"))
        task = asyncio.create_task(server._serve())
        await until(lambda: server.started)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.should_exit = server.force_exit = True
            await task

    def _refusal(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            given = request.headers.get("authorization")
            return JSONResponse({"error": {"message": f"wrong key: {given}"}}, 401)
        return None

    async def _models(self, request: Request) -> Response:
        limit = {"max_model_len": self.engine.context_limit} if self.flavour == "vllm" else {}
        owner = {"owned_by": "me", "permissions": []} if self.flavour == "llama_cpp" else {}
        return self._refusal(request) or JSONResponse({"data": [{"id": "countdown", **owner, **limit}]})

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        prompt, tokenizer = body["prompt"], self.engine.tokenizer
        if self.flavour == "llama_cpp" and (not isinstance(prompt, str) or body.get("top_k", 40) < 0):
            return JSONResponse({"error": {"message": "1 validation error"}}, 500)
        if self.flavour in ("plain", "lenient") and not isinstance(prompt, str):
            return JSONResponse({"error": {"message": "a prompt is a text"}}, 400)
        tokens = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return await self._answer(request, body, tokens)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        text = "\n".join(message["content"] for message in body["messages"])
        return await self._answer(request, body, self.engine.tokenizer.encode(text))

    async def _answer(self, request: Request, body: dict[str, Any], tokens: list[int]) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        more = (*EXTENSIONS, WHOLE_STOPS, "return_token_ids", "max_completion_tokens", *self.refused)
        known = {name: body[name] for name in more if name in body}
        refuses = self.flavour == "plain" or any(name in body for name in self.refused)
        wrong = [name for name, value in known.items() if value == "nonsense"]
        fault = self.nonsense.pop(0) if wrong and self.nonsense else ""
        reads = {"vllm": (*EXTENSIONS, WHOLE_STOPS), "sglang": EXTENSIONS}.get(self.flavour, ())
        if not fault and ((refuses and known) or any(name in reads for name in wrong)):
            return JSONResponse({"error": {"message": "fields that are unknown or wrong"}}, 400)
        self.requests.append(body)
        fault = fault or (self.faults.pop(0) if self.faults else "")
        if fault.isdigit():
            return JSONResponse({"error": {"message": f"fault {fault}"}}, int(fault), headers={"retry-after-ms": "1"})
        if body["model"] != "countdown":
            return JSONResponse({"error": {"message": f"The model `{body['model']}` does not exist"}}, 404)
        if self.flavour == "llama_cpp":
            return StreamingResponse(self._one_at_a_time(body, tokens), media_type="text/event-stream")
        if len(tokens) + body["max_tokens"] > self.engine.context_limit:
            return JSONResponse({"error": {"message": "beyond this model's maximum context length"}}, 400)
        if fault == "hang":
            while not await request.is_disconnected():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return Response(status_code=500)
        return StreamingResponse(self._stream(body, tokens, fault), media_type="text/event-stream")

    async def _one_at_a_time(self, body: dict[str, Any], tokens: list[int]) -> AsyncIterator[str]:
        """The answer, or as much of it as was there when another request came: then no finish reason, as there is none
        where it fails after it has begun."""
        if len(tokens) >= self.engine.context_limit or (body.get("logprobs") is not None and not self.logits_all):
            return
        self.waiting += 1
        async with self._turn:
            self.waiting -= 1
            names = ("max_tokens", "temperature", "seed", "messages", "logprobs")
            known = {name: body[name] for name in names if body.get(name) is not None}
            async with contextlib.aclosing(self._stream(known, tokens, "")) as events:
                async for event in events:
                    if '"usage"' in event:
                        break
                    yield event
                    if self.waiting:
                        break
            yield "data: [DONE]\n\n"

    async def _stream(self, body: dict[str, Any], tokens: list[int], fault: str) -> AsyncGenerator[str, None]:
        tokenizer = self.engine.tokenizer
        branch = self.engine.open(tokens, seed=body.get("seed", 0))
        params = SamplingParams(max_tokens=body["max_tokens"], temperature=body["temperature"], logprobs=0)
        generation, count, before, written = branch.generate(params), 0, list(tokens), ""
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            async for token in generation:
                count += 1
                if fault == "drop" and count == min(4, body["max_tokens"]):
                    raise ConnectionResetError
                if fault in ("abort", "error", "content_filter") and count == 4:
                    yield self._event(body, "", None, fault)
                    return
                if fault == "garbage" and count == 4:
                    yield "data: {this is no JSON\n\n"
                text = "" if token in tokenizer.eos_ids else self._text(before, token)
                before.append(token)
                written += text
                if self.flavour in ("lenient", "sglang") and any(stop in written for stop in body.get("stop", ())):
                    yield self._event(body, "", None, "stop")
                    return
                yield self._event(body, text, token)
                await asyncio.sleep(0.0005)
            done = await generation
            finish = "length" if done.finish_reason.value in ("length", "context") else "stop"
            yield self._event(body, "", None, finish)
            if fault in LATE:
                if LATE[fault] is None:
                    raise ConnectionResetError
                yield f"data: {json.dumps(LATE[fault])}\n\n"
            usage = {"prompt_tokens": len(tokens), "completion_tokens": count}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
        finally:
            self.running -= 1
            await generation.aclose()
            branch.close()

    def _text(self, before: list[int], token: int) -> str:
        decode = self.engine.tokenizer.decode
        return decode([*before, token])[len(decode(before)) :]

    def _event(self, body: dict[str, Any], text: str, token: int | None, finish: str | None = None) -> str:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"delta": {"content": text}} if "messages" in body else {"text": text}
        if body.get("return_token_ids"):
            choice["token_ids"] = [] if token is None else [token]
        if "logprobs" in body and token is not None and self.flavour == "llama_cpp" and "messages" in body:
            entry: dict[str, Any] = {"token": text, "bytes": None, "logprob": -0.25, "top_logprobs": []}
            choice["logprobs"] = {"content": [entry], "refusal": None}
        elif "logprobs" in body and token is not None and self.flavour != "plain":
            choice["logprobs"] = {"tokens": [text], "token_logprobs": [-0.25]}
        return f"data: {json.dumps({'choices': [choice]})}\n\n"
