"""`plait chat`: talk with a model in the terminal.

    plait chat Qwen/Qwen2.5-0.5B-Instruct
    plait chat model.gguf --method sc8 --option weights=int4

Answers appear as they are written; a method with several threads shows its tree meanwhile and its answer in the end.
/reset forgets the conversation, /quit or the end of the input ends it, Ctrl-C stops an answer, SIGTERM both.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from ..engine import Tokenizer
from ..errors import InvalidInput, PlaitError
from ..events import Text
from ..jobs.job import Job
from ..methods.base import Method
from ..methods.prompt import Prompt
from ..methods.registry import parse_method
from ..methods.sequential import Sequential
from ..printable import printable
from ..runtime import Runtime
from .exit_status import is_terminated
from .live import watch
from .options import add_engine_options, engine_options, method_of, utf8

HELP = "/reset forgets the conversation, /quit ends it, Ctrl-C stops an answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a shipped model, a folder, a GGUF file, a name of the hub or scheme:rest")
    parser.add_argument(
        "--method", type=utf8, default="sequential", metavar="NAME[:FIELD=VALUE,...]", help="or sc8 (sequential)"
    )
    parser.add_argument("--system", type=utf8, help="a system message to begin with")
    parser.add_argument("--plain", action="store_true", help="no chat template: the model continues the text")
    parser.add_argument("--seed", type=int, default=0)
    add_engine_options(parser)


def run(options: argparse.Namespace) -> int:
    fields = method_of(options.method)
    if "prompt" in fields:
        raise InvalidInput("there is a prompt in --method: leave it out, what you type is the prompt")
    _method(fields, "?")  # what is wrong with it, before anything is loaded
    if options.plain and options.system is not None:
        raise InvalidInput("--system needs a chat template: leave out --plain")
    asyncio.run(_run(options, fields))
    return 0


class Conversation:
    """What was said so far, as the prompt of the next answer."""

    def __init__(self, system: str | None = None, *, plain: bool = False) -> None:
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._plain = plain
        self.reset()

    def reset(self) -> None:
        self._messages = list(self._system)
        self._text = ""

    def prompt(self, line: str) -> Prompt:
        """With this line behind it."""
        return self._text + line if self._plain else [*self._messages, {"role": "user", "content": line}]

    def add(self, line: str, answer: str) -> None:
        """Keep a line and its answer."""
        self._text += f"{line}{answer}\n"
        self._messages += [{"role": "user", "content": line}, {"role": "assistant", "content": answer}]


async def _run(options: argparse.Namespace, fields: dict[str, object]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, style="dim")
    conversation = Conversation(options.system, plain=options.plain)
    async with Runtime(options.model, **engine_options(options)) as runtime:
        if not options.plain:
            _check_chat(options.model, runtime.engine.tokenizer)
        if sys.stdin.isatty():
            notes.print(f"{runtime.engine.name}: {HELP}")
        for line in _lines(notes):
            command = line.strip()
            if command == "/reset":
                conversation.reset()
                notes.print("forgotten")
            elif command in ("/quit", "/exit"):
                return
            elif command.startswith("/"):
                notes.print(HELP)
            else:
                try:
                    method = _method(fields, conversation.prompt(line))
                    answer = await _answer(runtime, method, options.seed, console, notes)
                except PlaitError as error:
                    notes.print(f"{printable(str(error))} (/reset begins anew)", style="red")
                else:
                    if answer is not None:
                        conversation.add(line, answer)


async def _answer(runtime: Runtime, method: Method, seed: int, console: Console, notes: Console) -> str | None:
    """Answer on the terminal; returns what is to be remembered of it; None: it was stopped before anything came."""
    job = await runtime.submit(method, seed=seed)
    with _interruptible(job):
        if isinstance(method, Sequential):
            return await _stream(job, console, notes)
        await watch(aiter(job), console=notes)
        try:
            result = await job
        except asyncio.CancelledError:
            notes.print("(stopped)")
            return None
        _say(result.text + "\n", console)
        return result.text


async def _stream(job: Job, console: Console, notes: Console) -> str | None:
    said = ""
    async for event in job:
        if isinstance(event, Text):
            said += event.text
            _say(event.text, console)
    _say("\n", console)
    try:
        result = await job
    except asyncio.CancelledError:
        notes.print("(stopped)")
        return said or None
    if result.finish_reason.is_truncated:
        notes.print(f"(ended: {result.finish_reason})")
    return result.text


def _say(text: str, console: Console) -> None:
    """What a model wrote: for a person, or as it is for a program that reads it."""
    console.file.write(printable(text) if console.is_terminal else text)
    console.file.flush()


@contextmanager
def _interruptible(job: Job) -> Iterator[None]:
    """Ctrl-C cancels the job and nothing else; SIGTERM, which does the same, ends the conversation then."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, job.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if is_terminated():
            raise KeyboardInterrupt


def _lines(notes: Console) -> Iterator[str]:
    """What is typed or piped in, without empty lines. Nothing else goes on meanwhile, so waiting may block."""
    # asyncio's handler of the model's loading would wait for the line.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not sys.stdin.isatty():
        yield from _piped(notes)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  # lines can be edited and come back
    while True:
        try:
            line = input("> ")
            line.encode()  # readline has other bytes as lone surrogates
        except KeyboardInterrupt:
            if is_terminated():
                notes.print()
                raise
            notes.print("\n/quit ends the conversation")
            continue
        except UnicodeError as error:
            _pass_over(error, notes)
            continue
        except EOFError:
            notes.print()
            return
        if line.strip():
            yield line


def _piped(notes: Console) -> Iterator[str]:
    for data in sys.stdin.buffer:
        try:
            line = data.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            _pass_over(error, notes)
        else:
            if line.strip():
                yield line


def _pass_over(error: UnicodeError, notes: Console) -> None:
    notes.print(f"a line is passed over: {error}", style="red")


def _check_chat(model: str, tokenizer: Tokenizer) -> None:
    try:
        tokenizer.chat([{"role": "user", "content": "?"}])
    except InvalidInput as error:
        raise InvalidInput(f"{model} cannot chat: {error}; with --plain it continues your text") from None


def _method(fields: dict[str, object], prompt: Prompt) -> Method:
    return parse_method({"prompt": prompt, **fields})
