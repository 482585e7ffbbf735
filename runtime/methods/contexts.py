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
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..engine import Capabilities, Tokenizer
from ..errors import InvalidInput, PromptTooLong
from ..jobs.context import ParallelContexts
from .prompt import Prompt, prefix_length

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


class WithContexts(BaseModel):
    """The fields, for methods with a prompt."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    contexts: tuple[str | tuple[TokenId, ...], ...] = ()
    """Documents or examples: text (a blank line is put behind it), or token ids as they are. Empty ones are left out.
    In parallel encoding their order means nothing, and one that is given twice counts once."""
    encoding: Encoding = "auto"
    """`parallel`: each on its own (APE); an engine that cannot do that encodes them sequentially, and
    `Result.details["contexts"]` says so. `sequential`: one behind another, in the order given. `auto`: parallel for
    several contexts where the engine can, else sequential."""
    instruction: str = ""
    """Text in front of the contexts, part of the prefix that all share. In a chat it begins the first user message;
    everything before that belongs to the prefix too."""
    context_temperature: float | None = Field(default=None, ge=0.05)
    """APE's T, which sharpens attention inside the contexts. None: what the model was calibrated for (`plait
    calibrate-ape`), else 0.9. A single context is always read plainly: T = S = 1."""
    context_scale: float | None = Field(default=None, ge=0)
    """APE's S, which weighs all contexts against the rest. None: as for the temperature."""

    def lay_out(
        self,
        prompt: Prompt,
        tokens: Sequence[int],
        tokenizer: Tokenizer,
        capabilities: Capabilities,
        messages: Sequence[dict[str, str]] = (),
    ) -> Layout:
        """Lay out a prompt: `tokens` are those of `prompt`, with whatever the method has put around it; `messages` are
        those of a chat."""
        if not self.contexts and not self.instruction:
            return Layout(tokens=list(tokens), parallel=None, details={"encoding": "none", "count": 0})
        head = list(tokens[: head_length(messages, tokens, tokenizer)])
        if messages:
            prefix = [*head, *tokenizer.encode_continuation(head, self.instruction)]
            question = tokenizer.decode(tokens)[len(tokenizer.decode(head)) :]
        else:
            prefix = tokenizer.encode(self.instruction) if self.instruction else head
            question = tokenizer.decode(tokens[len(head) :])

        def query(before: Sequence[int]) -> list[int]:
            """The rest of the prompt, behind these tokens; ids that were given stay as they are."""
            if isinstance(prompt, list) and not messages:
                return list(tokens[len(head) :])
            return tokenizer.encode_continuation(before, question)

        given = [text for context in self.contexts if (text := self._encode(context, prefix, tokenizer))]
        details: dict[str, Any] = {"count": len(given), "empty": len(self.contexts) - len(given)}
        if not given:
            whole = [*prefix, *query(prefix)]
            return Layout(tokens=whole, parallel=None, details={**details, "encoding": "none"})
        if len(tokens) == len(head):
            raise InvalidInput("the prompt ends where the contexts come in: it must ask something behind them")
        if not prefix:
            prefix = tokenizer.encode(SEPARATOR)
            given = [text for context in self.contexts if (text := self._encode(context, prefix, tokenizer))]
        can = capabilities.parallel_contexts
        if self.encoding == "sequential" or not can or (self.encoding == "auto" and len(given) == 1):
            details["encoding"] = "sequential"
            if self.encoding == "parallel":
                details["note"] = "the engine has no parallel contexts: they were encoded sequentially"
            before = list(prefix)
            for context in self.contexts:
                before += self._encode(context, before, tokenizer)
            return Layout(tokens=[*before, *query(before)], parallel=None, details=details)
        # Sorted, so that results do not depend on the order given, not even by rounding.
        unique = tuple(sorted(set(given)))
        temperature, scale = self.context_temperature, self.context_scale
        if len(unique) == 1:
            temperature = scale = 1.0
        temperature = capabilities.context_temperature if temperature is None else temperature
        scale = capabilities.context_scale if scale is None else scale
        lengths = [len(text) for text in unique]
        details |= {
            "encoding": "parallel",
            "duplicates": len(given) - len(unique),
            "temperature": temperature,
            "scale": scale,
            "shortest": min(lengths),
            "longest": max(lengths),
        }
        parallel = ParallelContexts(at=len(prefix), texts=unique, temperature=temperature, scale=scale)
        return Layout(tokens=[*prefix, *query([*prefix, *given[0]])], parallel=parallel, details=details)

    @staticmethod
    def _encode(context: str | tuple[int, ...], before: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
        if not isinstance(context, str):
            return context
        return tuple(tokenizer.encode_continuation(before, context + SEPARATOR)) if context.strip() else ()


def check_room(layout: Layout, limit: int, engine: str, engine_limit: int) -> None:
    """Raise `PromptTooLong` if the layout leaves no position for a new token."""
    if layout.positions < limit:
        return
    if layout.details["encoding"] == "none":
        what, advice = f"the prompt has {layout.positions} tokens", "shorten it"
    elif layout.parallel is None:
        what, advice = f"the prompt and its contexts have {layout.positions} tokens", "encode them in parallel"
    else:
        what, advice = f"the prompt and its longest context have {layout.positions} tokens", "split that context"
    raise PromptTooLong(
        f"{what} and the context window {limit}: {advice}, or raise context_limit (engine {engine}: {engine_limit})"
    )


def head_length(messages: Sequence[dict[str, str]], tokens: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many of the prompt's tokens stand in front of the text of the first user message.

    Without a chat that is what the tokenizer puts in front. The chat template is found by rendering it with other text
    in the message's place: what does not change is the head.
    """
    first = next((i for i, message in enumerate(messages) if message.get("role") == "user"), None)
    if first is not None:
        one, other = (
            tokenizer.chat([*messages[:first], {**messages[first], "content": text}, *messages[first + 1 :]])
            for text in ("a", "B")
        )
        head = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
        if list(tokens[:head]) == one[:head]:
            return head
    return prefix_length(tokens, tokenizer)
