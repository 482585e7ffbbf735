"""Contexts: documents or examples that a prompt comes with, and how they are laid out around it.

    prefix (beginning of sequence, chat header, instruction) | contexts | query (the rest of the prompt)

*Sequential* encoding puts the parts one behind another. *Parallel* encoding is APE's (Adaptive Parallel Encoding,
arXiv 2502.05431): every context is encoded on its own behind the prefix, all at the same positions; the query stands
behind the longest of them and sees them all as one group with a temperature and a scale. Both work on the same token
ids, so that with one context and temperature = scale = 1 they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..engine import Engine, Tokenizer
from ..errors import InvalidInput, OutOfBlocks, PromptTooLong, UnsupportedByEngine
from ..jobs.context import ParallelContexts
from ..spec import Several
from .place import find_place
from .prompt import Prompt

Encoding = Literal["auto", "parallel", "sequential"]

SEPARATOR = "\n\n"
"""Put behind a context that is text, and in front of contexts that would stand at the very beginning."""

TokenId = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A prompt with its contexts, as tokens."""

    tokens: list[int]
    """What the branch reads as its own text; with sequential encoding the contexts too."""
    parallel: ParallelContexts | None
    details: dict[str, Any]
    """What became of the contexts, for the result."""

    @property
    def positions(self) -> int:
        """That it takes: parallel contexts count as the longest of them."""
        longest = max(map(len, self.parallel.texts)) if self.parallel else 0
        return len(self.tokens) + longest

    @property
    def lengths(self) -> list[int]:
        """Tokens of the parts that an engine holds apart: prefix, contexts and query, or all in one."""
        if self.parallel is None:
            return [len(self.tokens)]
        at = self.parallel.at
        return [at, *map(len, self.parallel.texts), len(self.tokens) - at]


class Example(BaseModel):
    """A solved task to learn from in context."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    question: str
    """What was asked."""
    answer: str
    """What is right; it stands on a line of its own."""


class WithContexts(BaseModel):
    """The fields, for methods with a prompt."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    contexts: Several[str | tuple[TokenId, ...] | Example] = ()
    """Documents or examples: text (a blank line is put behind it), an object with `question` and `answer`, or token ids
    as they are. Empty ones are left out. In parallel encoding their order means nothing, and one that is given twice
    counts once."""
    segment_tokens: int | None = Field(default=None, ge=1)
    """Cut a context that is longer into as few equal segments as this allows, each a context of its own: one long
    document (7500 in the paper, section 5.3). None: as they are."""
    encoding: Encoding = "auto"
    """`parallel`: each on its own (APE); refused for an engine that cannot do that. `sequential`: one behind another,
    in the order given. `auto`: parallel for several contexts where the engine can, else sequential;
    `Result.details["contexts"]` says which."""
    instruction: str = ""
    """Text in front of the contexts, part of the prefix that all share. In a chat it begins the first user message;
    everything before that belongs to the prefix too."""
    context_temperature: float | None = Field(default=None, ge=0.05, le=1e6)
    """APE's T, which sharpens attention inside the contexts. None: what the model was calibrated for (`plait
    calibrate-ape`), what was published for its family, else 0.9; for a single context 1, which reads it plainly."""
    context_scale: float | None = Field(default=None, ge=0, le=1e6)
    """APE's S, which weighs all contexts against the rest. None: as for the temperature."""
    context_bias: float = Field(default=0.0, ge=-100, le=100)
    """Added to the log of all contexts' weight: log 0.7 leaves them 0.7 of it. Not in the paper, but in its authors'
    experiments; with S = 1 it does what S does and does not depend on how large scores are."""

    def lay_out(
        self,
        prompt: Prompt,
        tokens: Sequence[int],
        engine: Engine,
        messages: Sequence[dict[str, str]] = (),
    ) -> Layout:
        """Lay out a prompt: `tokens` are those of `prompt`, with whatever the method has put around it; `messages` are
        those of a chat. Raises `InvalidInput` for a prompt that asks nothing, and `UnsupportedByEngine`."""
        tokenizer, capabilities = engine.tokenizer, engine.capabilities
        if not self.contexts and not self.instruction:
            return Layout(tokens=list(tokens), parallel=None, details={"encoding": "none", "count": 0})
        place = find_place(messages, tokens, tokenizer)
        if messages:
            # Contexts begin with the lead, as the message would, if they are text and nothing else stands in front.
            are_texts = not any(isinstance(context, tuple) for context in self.contexts)
            lead = place.lead if place.head and are_texts and not self.instruction else ""
            opening = "" if lead else place.lead + self.instruction
            prefix = [*place.head, *tokenizer.encode_continuation(place.head, opening)]
        else:
            lead = ""
            prefix = tokenizer.encode(self.instruction) if self.instruction else place.head

        def query(before: Sequence[int]) -> list[int]:
            """The rest of the prompt, behind these tokens; ids that were given stay as they are."""
            if isinstance(prompt, list) and not messages:
                return list(tokens[len(place.head) :])
            return [*tokenizer.encode_continuation(before, place.question), *place.tail]

        given = self._texts(prefix, lead, tokenizer)
        empty = sum(not self._encode(context, prefix, lead, tokenizer) for context in self.contexts)
        details: dict[str, Any] = {"count": len(given), "empty": empty}
        if not given:
            whole = [*prefix, *query(prefix)] if self.instruction else list(tokens)
            return Layout(tokens=whole, parallel=None, details={**details, "encoding": "none"})
        if len(tokens) == len(place.head):
            raise InvalidInput("the prompt ends where the contexts come in: it must ask something behind them")
        if not prefix:
            prefix = tokenizer.encode(SEPARATOR)
            given = self._texts(prefix, lead, tokenizer)
        can = capabilities.parallel_contexts
        if self.encoding == "parallel" and not can:
            raise UnsupportedByEngine(
                f"engine {engine.name} has no parallel contexts; the native engine has them. encoding='sequential' "
                f"puts contexts one behind another on any engine"
            )
        if self.encoding == "sequential" or not can or (self.encoding == "auto" and len(given) == 1):
            details["encoding"] = "sequential"
            before = list(prefix)
            for context in self.contexts:
                first = lead if len(before) == len(prefix) else ""
                before += self._encode(context, before, first, tokenizer)
            return Layout(tokens=[*before, *query(before)], parallel=None, details=details)
        # Sorted, so that results do not depend on the order given, not even by rounding.
        unique = tuple(sorted(set(given)))
        own = (capabilities.context_temperature, capabilities.context_scale) if len(unique) > 1 else (1.0, 1.0)
        temperature = own[0] if self.context_temperature is None else self.context_temperature
        scale = own[1] if self.context_scale is None else self.context_scale
        lengths = [len(text) for text in unique]
        details |= {
            "encoding": "parallel",
            "duplicates": len(given) - len(unique),
            "temperature": temperature,
            "scale": scale,
            **({"bias": self.context_bias} if self.context_bias else {}),
            "shortest": min(lengths),
            "longest": max(lengths),
        }
        parallel = ParallelContexts(
            at=len(prefix), texts=unique, temperature=temperature, scale=scale, bias=self.context_bias
        )
        return Layout(tokens=[*prefix, *query([*prefix, *given[0]])], parallel=parallel, details=details)

    def _texts(self, prefix: Sequence[int], lead: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
        """The contexts behind the prefix, each on its own, without empty ones."""
        whole = [self._encode(context, prefix, lead, tokenizer) for context in self.contexts]
        return [segment for text in whole for segment in segments(text, self.segment_tokens)]

    @staticmethod
    def _encode(
        context: str | tuple[int, ...] | Example, before: Sequence[int], lead: str, tokenizer: Tokenizer
    ) -> tuple[int, ...]:
        if isinstance(context, tuple):
            return context
        if isinstance(context, Example):
            context = f"{context.question}\n{context.answer}"
        return tuple(tokenizer.encode_continuation(before, lead + context + SEPARATOR)) if context.strip() else ()


def segments(text: tuple[int, ...], size: int | None) -> list[tuple[int, ...]]:
    """A text in as few equal parts as are no longer than `size` tokens; None: whole. None of an empty one."""
    count = 1 if size is None else -(-len(text) // size)
    ends = [i * len(text) // count for i in range(count + 1)] if text else []
    return [text[a:b] for a, b in pairwise(ends)]


def check_room(layout: Layout, limit: int, engine: Engine) -> None:
    """Raise `PromptTooLong` if the layout leaves no position for a new token, and `OutOfBlocks` if the engine's whole
    KV store, where it tells of one, could not hold it."""
    if layout.positions >= limit:
        raise PromptTooLong(_too_long(layout, limit, engine))
    kv = engine.block_usage()
    need = sum(-(-length // kv.block_size) for length in layout.lengths)
    if kv.total and need > kv.total:
        what, advice = "the prompt and its contexts have", "leave some out"
        if layout.details["encoding"] == "none":
            what, advice = "the prompt has", "shorten it"
        raise OutOfBlocks(
            f"{what} {sum(layout.lengths)} tokens, which need {need} KV blocks of {kv.block_size}, and the store has "
            f"{kv.total}: {advice}, or raise kv_tokens"
        )


def _too_long(layout: Layout, limit: int, engine: Engine) -> str:
    if layout.details["encoding"] == "none":
        what, advice = f"the prompt has {layout.positions} tokens", "shorten it"
    elif layout.parallel is None:
        what = f"the prompt and its contexts have {layout.positions} tokens"
        advice = "encode them in parallel" if engine.capabilities.parallel_contexts else "leave some out"
    else:
        what, advice = (
            f"the prompt and its longest context have {layout.positions} tokens",
            "split that context (segment_tokens)",
        )
    return (
        f"{what} and the context window {limit}: {advice}, or raise context_limit (engine {engine.name}: "
        f"{engine.context_limit})"
    )
