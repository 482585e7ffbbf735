"""`TextTokenizer`: tokens of an engine whose model's own are not known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from ...errors import InvalidInput

EOS = 1
_PIECE = re.compile(r" ?[^\W\d_]{1,8}| ?\d{1,3}| ?[^\w\s]|\s|.", re.DOTALL)
_ROLES = ("system", "user", "assistant", "tool", "developer")
_FIRST_ROLE = 2
_FIRST_PIECE = 16


class TextTokenizer:
    """Pieces of text, about as long as a model's tokens, numbered by their hash: the same in every process. The end of
    a text is a token without text, and so is the beginning of a chat's message."""

    bos_id: int | None = None
    prefix_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = (EOS,)
    byte_ids: frozenset[int] = frozenset()
    vocab_size = 1 << 48
    tool_marks: tuple[str, str] | None = None

    def __init__(self, *, is_chat: bool = False) -> None:
        """`is_chat`: a whole text is what a user says, and a chat can be encoded."""
        self._is_chat = is_chat
        self._pieces: dict[int, str] = {}

    def encode(self, text: str) -> list[int]:
        if self._is_chat:
            return self.chat([{"role": "user", "content": text}])
        return self.encode_continuation((), text)

    def encode_continuation(self, before: Sequence[int], text: str) -> list[int]:
        return [self.token(piece) for piece in _PIECE.findall(text)]

    def token(self, piece: str) -> int:
        """The id of a piece, which may be any text."""
        id = int.from_bytes(blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=6).digest())
        id = max(id, _FIRST_PIECE)
        while self._pieces.setdefault(id, piece) != piece:
            id = max((id + 1) % self.vocab_size, _FIRST_PIECE)
        return id

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self._pieces.get(token, "") for token in token_ids)

    def chat(self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        if tools:
            raise InvalidInput("texts alone go to this server: set tokenizer= for a chat template with tools")
        if not self._is_chat:
            raise InvalidInput(
                "texts alone go to this server: set tokenizer= for the model's chat template, or api=chat"
            )
        tokens = []
        for message in messages:
            if message["role"] not in _ROLES:
                raise InvalidInput(f"unknown role {message['role']!r}; known: {', '.join(_ROLES)}")
            tokens.append(_FIRST_ROLE + _ROLES.index(message["role"]))
            tokens += self.encode_continuation((), message["content"])
        return [*tokens, _FIRST_ROLE + _ROLES.index("assistant")]

    def messages(self, token_ids: Sequence[int]) -> list[dict[str, str]]:
        """The chat that these tokens are; what comes before the first role is a user's."""
        found: list[tuple[str, list[int]]] = [("user", [])]
        for token in token_ids:
            if _FIRST_ROLE <= token < _FIRST_ROLE + len(_ROLES):
                found.append((_ROLES[token - _FIRST_ROLE], []))
            else:
                found[-1][1].append(token)
        said = [{"role": role, "content": self.decode(tokens)} for role, tokens in found]
        return said if said[0]["content"] else said[1:]
