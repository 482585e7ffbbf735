"""`Tokenizer`: from texts and chats to token ids and back, as far as methods need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """The part of a tokenizer that methods use."""

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts in front of every text: BOS for most models that have one, nothing for others."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The token that is called so, whether or not it is put in front; None: there is none."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def byte_ids(self) -> frozenset[int]:
        """Tokens that stand for one byte, whose text depends on the bytes that follow (byte fallback)."""
        ...

    def encode(self, text: str) -> list[int]:
        """A whole text: behind `prefix_ids`, but for a text that begins with what these stand for. The text of a
        special token becomes that token."""
        ...

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        """A text that goes on behind other tokens, as it would be encoded there; nothing is put in front. Without
        `before` it is a text in the midst of one that is not known."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text, special tokens included. It may lack a space in front that it has behind other text:
        `engines.text_stream.decode_behind`."""
        ...

    @property
    def tool_marks(self) -> tuple[str, str] | None:
        """What stands around the call of a tool, `{"name": ..., "arguments": {...}}`, in the texts of models whose chat
        template has tools (`<tool_call>`, `</tool_call>`); None: it has none, or calls of another form."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Token ids of the chat template with the generation prompt; `tools` as OpenAI's API describes them. Raises
        `InvalidInput` without a template, and for messages that it refuses or leaves out."""
        ...
