"""`Output`: what a command writes, in bounded memory."""

from __future__ import annotations

import codecs
from collections import deque


class Output:
    """The first and the last half of the characters that are kept; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, limit: int) -> None:
        """`limit`: characters."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._head_room = limit // 2
        self._head: list[str] = []
        self._tail_limit = limit - limit // 2
        self._tail: deque[str] = deque()
        self._tail_length = 0
        self._left_out = 0

    def add(self, data: bytes, *, final: bool = False) -> None:
        text = self._decoder.decode(data, final)
        if self._head_room:
            self._head.append(text[: self._head_room])
            text = text[self._head_room :]
            self._head_room -= len(self._head[-1])
        if text:
            self._tail.append(text)
            self._tail_length += len(text)
        while self._tail and self._tail_length - len(self._tail[0]) >= self._tail_limit:
            first = len(self._tail.popleft())
            self._tail_length -= first
            self._left_out += first

    def text(self) -> str:
        """All of it, or both ends with a line between them that says how much is missing."""
        head, tail = "".join(self._head), "".join(self._tail)
        left_out = self._left_out + max(0, len(tail) - self._tail_limit)
        if not left_out:
            return head + tail
        return f"{head}\n[{left_out} characters left out]\n{tail[-self._tail_limit :]}"
