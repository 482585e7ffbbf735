"""`Machine`: a small explicit state machine around one conversation, saved after every transition."""

from __future__ import annotations

from abc import ABC
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from ...runtime.errors import InvalidInput
from ...runtime.result import Finish
from ..chat import Answer, Chat, Message
from ..executions import Executions
from ..folder import Folder

DONE, ATTEMPTS, CONTEXT, BUDGET, LATE, MEMORY = "done", "attempts", "context", "budget", "deadline", "memory"
ENDS = (DONE, ATTEMPTS, CONTEXT, BUDGET, LATE, MEMORY)
"""Terminal states: the machine ended by itself, or for want of calls, context, tokens, time or KV blocks."""

WANTS = (BUDGET, LATE, MEMORY)
"""Those that are the run's and not the machine's: with more of it, it goes on from where it was."""


class Step(BaseModel):
    """What one model call gave."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["test", "edit", "done", "choice", "misparse"]
    text: str = ""
    """The test, the edit's patch, the choice, or what was wrong."""


class Data(BaseModel):
    """All of a machine that is kept: it goes on from this."""

    state: str
    messages: list[Message] = []
    attempts: int = 0
    """Model calls so far, malformed answers included."""
    history: list[Step] = []
    """One for each of them."""
    states: list[str] = []
    """All that were entered."""
    about: str = ""
    """What it is about, where the job does not say it all."""

    @property
    def has_ended(self) -> bool:
        return self.state in ENDS


D = TypeVar("D", bound=Data)


class Machine(ABC, Generic[D]):
    """A machine is its data, a conversation, and one coroutine for each state, which acts and names the next state."""

    first: ClassVar[str]
    """The state it begins in."""
    needs: ClassVar[Mapping[str, tuple[str, ...]]]
    """Every state in which it acts, and what of its data must be there then."""

    def __init__(
        self,
        record: type[D],
        name: str,
        chat: Chat,
        folder: Folder,
        executions: Executions,
        *,
        attempts: int,
        about: str = "",
    ) -> None:
        """`record`: the kind of its data. `name`: of its file. `attempts`: model calls at most. `about`: what it is
        about. It goes on with what the folder holds of it, if that is about the same; raises `InvalidInput` if it is
        damaged."""
        self.name = name
        self.chat = chat
        self.executions = executions
        self.attempts = attempts
        self._folder = folder
        kept = self.kept(record, folder, name)
        if kept is not None and not kept.has_ended:
            self._check(kept)
        self.data: D = kept if kept is not None and kept.about == about else record(state=self.first, about=about)
        if self.data.messages:
            chat.messages = list(self.data.messages)
        self._before = chat.messages
        """What had been said before the last call."""

    @staticmethod
    def kept(record: type[D], folder: Folder, name: str) -> D | None:
        """What the folder holds of a machine. Raises `InvalidInput` if that is damaged."""
        return folder.read_as(record, f"states/{name}")

    def _check(self, kept: D) -> None:
        where = f"{self._folder.path}: states/{self.name}.json is damaged"
        if kept.state not in self.needs:
            raise InvalidInput(f"{where}: there is no state {kept.state!r}")
        for field in self.needs[kept.state]:
            if getattr(kept, field) in (None, []):
                raise InvalidInput(f"{where}: in the state {kept.state!r} it has no {field}")

    async def run(self) -> D:
        """To the end, wherever it is."""
        if not self.data.states:
            self._enter(self.data.state)
        while not self.data.has_ended:
            state: Callable[[], Awaitable[str]] = getattr(self, self.data.state)
            self._enter(await state())
        return self.data

    def _enter(self, state: str) -> None:
        self.data.state = state
        self.data.states.append(state)
        self.data.messages = list(self.chat.messages)
        if state not in WANTS:
            self.chat.cost.save(self._folder)  # First: what a kill makes be asked again was paid all the same.
            self._folder.write(f"states/{self.name}", self.data.model_dump(mode="json"))
        self.chat.branch.enter(state)

    async def ask(self, text: str) -> Answer | str:
        """The model's answer, or the state in which the machine ends for want of something."""
        if self.data.attempts >= self.attempts:
            return ATTEMPTS
        self._before = self.chat.messages
        answer = await self.chat.ask(text)
        if not answer.text and (end := _end(answer.finish)):
            return self._unsaid(end)
        self.data.attempts += 1
        return answer

    def misread(self, answer: Answer, why: str, again: str) -> str:
        """The state behind an answer that could not be read: `again`, where it is said why. An answer that the run's
        end broke off is no mistake of the model's, and with more of it the same is asked again."""
        end = _end(answer.finish)
        if end in WANTS:
            self.data.attempts -= 1
            return self._unsaid(end)
        self.note("misparse", why)
        return again

    def _unsaid(self, end: str) -> str:
        """End as if the last thing had not been asked."""
        self.chat.messages = self._before
        return end

    def note(self, kind: Literal["test", "edit", "done", "choice", "misparse"], text: str = "") -> None:
        """What the last call gave."""
        self.data.history.append(Step(kind=kind, text=text))


def _end(finish: Finish) -> str | None:
    known: dict[Any, str] = {
        Finish.CONTEXT: CONTEXT,
        Finish.TOTAL_TOKENS: BUDGET,
        Finish.CRITICAL_TOKENS: BUDGET,
        Finish.DEADLINE: LATE,
        Finish.MEMORY: MEMORY,
    }
    return known.get(finish)
