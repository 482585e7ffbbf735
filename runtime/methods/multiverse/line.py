"""`Line`: one thread of Multiverse text, the root's or a path's, on the branch that decodes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...engines.text_stream import decode_behind, is_behind
from ...jobs.branch import TracedBranch
from ...result import Finish, Generated
from ..prompt import cut


@dataclass(slots=True, kw_only=True)
class Line:
    """Text from token `start` of a branch on, and what it may still cost."""

    branch: TracedBranch
    start: int
    """Tokens of the branch before this line's own text."""
    index: str = ""
    """Of the path; empty for the root."""
    opening: str = ""
    """What the runtime opens a path with."""
    level: int = 0
    """Blocks around it."""
    limit: int
    """Tokens it may take along its critical path."""
    paths: int = 0
    """Paths it may still open, with all that these open."""
    may_fork: bool = True
    position: int = 0
    """Of a path's first token."""
    used: int = 0
    """Tokens taken along the critical path."""
    end_position: int = 0
    """Of what follows a path's closing tag."""
    tokens: list[int] = field(default_factory=list)
    """A finished path's own."""

    @property
    def own(self) -> list[int]:
        """Its tokens so far, those of merged paths included."""
        return self.branch.tokens[self.start :]

    @property
    def text(self) -> str:
        return decode_behind(self.branch.scope.tokenizer, self.own, behind=self._behind)

    @property
    def _behind(self) -> bool:
        """Does it stand behind other text?"""
        return is_behind(self.branch.scope.tokenizer, self.branch, self.start)

    @property
    def room(self) -> int:
        """Tokens it may take now."""
        return max(min(self.branch.room, self.limit - self.used), 0)

    @property
    def shortage(self) -> Finish:
        """What sets `room`."""
        scope = self.branch.scope
        limits = (
            (self.limit - self.used, Finish.LENGTH),
            (self.branch.context_limit - self.branch.position, Finish.CONTEXT),
            (scope.ledger.left, Finish.TOTAL_TOKENS),
            (scope.critical_left, Finish.CRITICAL_TOKENS),
        )
        return min(((left, cause) for left, cause in limits if left is not None), key=lambda limit: limit[0])[1]

    def size(self, text: str) -> int:
        """Tokens that `text` takes."""
        return len(self._encode(text))

    def write(self, text: str) -> None:
        """Put text in; the caller has made sure of the room."""
        self.take(self._encode(text))

    def _encode(self, text: str) -> list[int]:
        return self.branch.scope.tokenizer.encode_continuation(self.branch.tokens, text)

    def take(self, tokens: list[int]) -> None:
        self.branch.extend(tokens)
        self.used += len(tokens)

    def seek(self, position: int) -> None:
        if position != self.branch.position:
            self.branch.seek(position)

    def drop_stop(self, call: Generated) -> None:
        """Take the token back that ended a generation: end of sequence, or one of the caller's stop tokens."""
        if isinstance(call.stop, int):
            self.branch.rewind(self.branch.length - 1)

    def keep(self, characters: int) -> bool:
        """Cut the text to so many characters. A token that reaches over the cut is replaced by others for its part
        before it; False: there was no room for them, and that part is gone too."""
        text = self.text
        if characters >= len(text):
            return True
        tokenizer = self.branch.scope.tokenizer
        kept, tokens = cut(self.own, text[:characters], "", tokenizer, behind=self._behind)
        self.branch.rewind(self.start + kept)
        if len(tokens) > self.room:
            return False
        if tokens:
            self.take(tokens)
        return True

    def restart(self) -> None:
        """Forget all of it."""
        self.branch.rewind(self.start)
