"""`Notes`: what is known of a branch beside its tokens: scores, states, the use of tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

from ..errors import InvalidInput, told
from ..events import Scored, StateEntered, ToolFinished, ToolStarted
from ..plain import as_kept
from ..trace.record import BranchRecord, StateRecord, ToolRecord
from .scope import Scope, check_text


class Notes:
    """Recorded in the trace, and announced."""

    def __init__(self, scope: Scope, record: BranchRecord) -> None:
        self.scope = scope
        self.record = record

    @property
    def id(self) -> str:
        """The path as text: `0.1.2`."""
        return self.record.id

    def score(self, value: SupportsFloat) -> None:
        """Note a reward: a number, or what is one to `float`. Raises `InvalidInput`."""
        if isinstance(value, (str, bytes)):
            raise InvalidInput(f"a score is a number, not {value!r:.200}")
        try:
            score = float(value)
        except Exception as error:  # whatever somebody's number raises
            raise InvalidInput(f"a score is a number, not {value!r:.200}: {error}") from None
        self.record.scores.append(score)
        self.scope.emit(Scored, branch=self.id, score=score)

    def enter(self, state: str) -> None:
        """Note that what the branch belongs to, a state machine, goes over into another state. Raises `InvalidInput` if
        that is no text."""
        check_text("a state", state)
        self.scope.state.trace.states.append(
            StateRecord(branch=self.id, state=state, time=self.scope.state.seconds, step=self.scope.now)
        )
        self.scope.emit(StateEntered, branch=self.id, state=state)

    @contextmanager
    def tool(self, tool: str, **arguments: Any) -> Iterator[ToolRecord]:
        """Use a tool inside: fill in `ok` and `output`. Both ends are announced and recorded; left by an exception, it
        has failed. Arguments that are no JSON are noted as text, NumPy numbers as numbers. Raises `InvalidInput` for an
        output that is no text."""
        scope = self.scope
        check_text("the name of a tool", tool)
        try:
            arguments = as_kept(arguments)
        except ValueError as error:
            raise InvalidInput(f"the arguments of tool {tool!r:.200}: {error}") from None
        record = ToolRecord(branch=self.id, tool=tool, arguments=arguments, began=scope.state.seconds, step=scope.now)
        scope.state.trace.tools.append(record)
        scope.emit(ToolStarted, branch=self.id, tool=tool, arguments=arguments)
        try:
            yield record
            check_text("the output of a tool", record.output)
            record.ok = bool(record.ok)
            record.ended = scope.state.seconds
        except BaseException as error:
            record.ok, record.output = False, told(error)
            raise
        finally:
            scope.emit(ToolFinished, branch=self.id, tool=tool, ok=record.ok, output=record.output)
