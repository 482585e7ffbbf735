"""Samples of texts: JSON Lines of Multiverse texts, chats, and prompts with completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..runtime.engines.native.tokenizer import HFTokenizer
from ..runtime.errors import InvalidInput
from ..runtime.methods.multiverse.dialects import DIALECTS, MULTIVERSE, Dialect, Positions
from ..runtime.methods.prompt import chat_messages, prompt_tokens
from ..runtime.trace.record import Piece
from ..runtime.trace.trace import Trace
from .chats import Message, check_tools, read_messages, read_tools, said
from .config import DataConfig
from .curate.excerpts import excerpts
from .lines import files, folders, read_lines
from .masks import text_mask, trace_mask
from .own_tokens import check_ids, check_spelling
from .samples import Sample, saved_samples, trace_samples
from .turn_end import turn_end


def text_sample(
    tokenizer: HFTokenizer,
    prompt: Sequence[int],
    text: str,
    positions: Positions = "train",
    dialect: Dialect = MULTIVERSE,
) -> Sample:
    """What the model is to write behind a prompt, blocks in parallel, and the end of its turn."""
    encode = partial(tokenizer.encode_continuation, ())
    return Sample.of(text_mask(text, encode, positions, prompt=prompt, end=turn_end(tokenizer), dialect=dialect))


def chat_samples(
    tokenizer: HFTokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> list[Sample]:
    """Every turn of the assistant as it would be written: behind the template of what was before, with `tools`, and
    ended by the token that ends turns.

    They are one sequence as far as a turn's prompt begins with the sequence before it; templates that rewrite earlier
    turns give several. Raises `InvalidInput` for a chat without such a turn, or one that the template refuses.
    """
    sequences: list[list[Piece]] = []
    tokens: list[int] = []
    for number, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        prompt = tokenizer.chat(messages[:number], tools)
        if not sequences or prompt[: len(tokens)] != tokens:
            sequences.append([])
            tokens = []
        text = said(tokenizer, messages[:number], message, tools)
        written = [*tokenizer.encode_continuation(prompt, text), *turn_end(tokenizer)]
        sequences[-1].append(Piece(kind="prompt", token_ids=prompt[len(tokens) :], text=""))
        sequences[-1].append(Piece(kind="sampled", token_ids=written, text=""))
        tokens = [*prompt, *written]
    if not sequences:
        raise InvalidInput("a chat in which the assistant says nothing")
    return [_causal(pieces) for pieces in sequences]


def _causal(pieces: Sequence[Piece]) -> Sample:
    trace = Trace()
    trace.new_segment("0", 0, ()).pieces += pieces
    return Sample.of(trace_mask(trace))


class Samples:
    """Samples as they are shown: with blocks, and the same told without, which is the same one where there is none."""

    def __init__(self) -> None:
        self.parallel: list[Sample] = []
        self.sequential: list[Sample] = []
        self.origins: list[str] = []
        """What each is made of: samples of one chat, trace or block with what is in it say the same things."""
        self.dropped = 0
        """That were too long, or of which nothing to learn was left."""

    def __len__(self) -> int:
        return len(self.parallel)

    def add(self, parallel: Sample, sequential: Sample | None, origin: str, max_tokens: int, too_long: str) -> None:
        pair = (parallel, parallel if sequential is None else sequential)
        if too_long == "cut":
            pair = (pair[0].cut(max_tokens), pair[1].cut(max_tokens))
        if max(map(len, pair)) > max_tokens or not all(sample.is_trained.any() for sample in pair):
            self.dropped += 1
            return
        self.parallel.append(pair[0])
        self.sequential.append(pair[1])
        self.origins.append(origin)

    def split(self, held_out: int) -> tuple[Samples, Samples]:
        """All but the last ones, and these, with all of the first one's origin."""
        at = len(self) - min(held_out, len(self))
        while 0 < at < len(self) and self.origins[at - 1] == self.origins[at]:
            at -= 1
        first, last = Samples(), Samples()
        for part, some in ((first, slice(at)), (last, slice(at, None))):
            part.parallel, part.sequential = self.parallel[some], self.sequential[some]
            part.origins = self.origins[some]
        first.dropped = self.dropped
        return first, last


_Read = tuple[Sample, Sample | None, int]
"""A sample with blocks, the same without, and the place in the line of what they are made of."""


def read_samples(
    config: DataConfig, tokenizer: HFTokenizer, max_tokens: int, size: int | None = None, places: int | None = None
) -> Samples:
    """All samples of a source. `size`: rows of the model's embedding, if there are more than the tokenizer has tokens.
    `places`: positions that the model was made for. Raises `InvalidInput` naming the file, or the line, that is
    wrong."""
    found = Samples()
    if config.kind in ("traces", "samples"):
        is_trace = config.kind == "traces"
        for path in (files if is_trace else folders)(config.paths):
            trace = Trace.load(path) if is_trace else None
            try:
                for number, (whole, sample) in enumerate(
                    saved_samples(path, tokenizer) if trace is None else _own_samples(trace, tokenizer)
                ):
                    _check_fits(sample, number, size or tokenizer.vocab_size, places)
                    found.add(sample, None, f"{path}: {whole}", max_tokens, config.too_long)
            except InvalidInput as error:
                raise InvalidInput(f"{path}: {error}") from None
        return found
    read: Callable[[DataConfig, HFTokenizer, dict[str, Any]], list[_Read]]
    read = {"texts": _texts, "chat": _chat, "excerpts": _excerpts}[config.kind]
    for path in files(config.paths):
        for where, data in read_lines(path):
            try:
                for parallel, sequential, place in read(config, tokenizer, data):
                    found.add(parallel, sequential, f"{where}: {place}", max_tokens, config.too_long)
            except InvalidInput as error:
                raise InvalidInput(f"{where}: {error}") from None
    return found


def _check_fits(sample: Sample, number: int, size: int, places: int | None) -> None:
    """Raises `InvalidInput` for tokens that the model has not, and positions that neither it has nor a text so long."""
    try:
        check_ids(sample.mask.token_ids, size)
        last = int(sample.mask.positions.max(initial=0))
        if places is not None and last >= max(places, len(sample)):
            raise InvalidInput(f"position {last:,} is none of the model's {places:,}")
    except InvalidInput as error:
        raise InvalidInput(f"sample {number}: {error}") from None


def _own_samples(trace: Trace, tokenizer: HFTokenizer) -> list[tuple[str, Sample]]:
    """As `saved_samples`: all are of one trace."""
    check_spelling(trace, tokenizer)
    return [("", sample) for sample in trace_samples(trace)]


def _texts(config: DataConfig, tokenizer: HFTokenizer, data: dict[str, Any], place: int = 0) -> list[_Read]:
    text, sequential = _string(data, "text"), data.get("sequential")
    if sequential is not None and not isinstance(sequential, str):
        raise InvalidInput("`sequential` is no text")
    asked = _prompt(config, tokenizer, data, config.suffix)
    whole = text_sample(tokenizer, asked, text, config.positions, DIALECTS[config.dialect])
    if sequential is None:
        return [(whole, None, place)]
    plain = text_sample(tokenizer, _prompt(config, tokenizer, data, config.sequential_suffix), sequential)
    return [(whole, plain, place)]


def _excerpts(config: DataConfig, tokenizer: HFTokenizer, data: dict[str, Any]) -> list[_Read]:
    found: list[_Read] = []
    for one in excerpts(_string(data, "text")):
        row = {"prompt": one.prompt, "text": one.text, "sequential": one.sequential}
        found += _texts(config, tokenizer, row, one.outermost)
    return found


def _chat(config: DataConfig, tokenizer: HFTokenizer, data: dict[str, Any]) -> list[_Read]:
    if "messages" in data:
        messages, tools = read_messages(data["messages"]), read_tools(data.get("tools"))
        if messages is None:
            raise InvalidInput("`messages` is no list of objects with `role` and `content`")
        check_tools(tokenizer, messages, tools)
        return [(sample, None, 0) for sample in chat_samples(tokenizer, messages, tools)]
    prompt = _prompt(config, tokenizer, data, config.suffix)
    written = [*tokenizer.encode_continuation(prompt, _string(data, "completion")), *turn_end(tokenizer)]
    pieces = [Piece(kind="prompt", token_ids=prompt, text=""), Piece(kind="sampled", token_ids=written, text="")]
    return [(_causal(pieces), None, 0)]


def _prompt(config: DataConfig, tokenizer: HFTokenizer, data: dict[str, Any], suffix: str) -> list[int]:
    prompt, tools = data.get("prompt", ""), read_tools(data.get("tools"))
    if prompt and (messages := read_messages(prompt)):
        check_tools(tokenizer, messages, tools)
        return tokenizer.chat(messages, tools)
    if not isinstance(prompt, str):
        raise InvalidInput("`prompt` is neither text nor messages")
    text = prompt + suffix
    if config.chat and text:
        try:
            check_tools(tokenizer, chat_messages(text, chat=True), tools)
            return prompt_tokens(text, tokenizer, chat=True, tools=tools)
        except InvalidInput as error:
            if tools or "no chat template" not in str(error):
                raise
    return prompt_tokens(text, tokenizer, tools=tools)


def _string(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"no `{name}`")
    return value
