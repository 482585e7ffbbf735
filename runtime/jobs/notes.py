"""`Notes`: what is known of a branch beside its tokens: scores, states, the use of tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import told
from ..events import Scored, StateEntered, ToolFinished, ToolStarted
from ..trace.record import BranchRecord, StateRecord, ToolRecord
from .scope import Scope


class Notes:
    """Recorded in the trace, and announced."""

    def __init__(self, scope: Scope, record: BranchRecord) -> None:
        self.scope = scope
        self.record = record

    @property
    def id(self) -> str:
        """The path as text: `0.1.2`."""
        return self.record.id

    def score(self, value: float) -> None:
        """Note a reward."""
        self.record.scores.append(value)
        self.scope.emit(Scored, branch=self.id, score=value)

    def enter(self, state: str) -> None:
        """Note that what the branch belongs to, a state machine, goes over into another state."""
        self.scope.state.trace.states.append(
            StateRecord(branch=self.id, state=state, time=self.scope.state.seconds, step=self.scope.now)
        )
        self.scope.emit(StateEntered, branch=self.id, state=state)

    @contextmanager
    def tool(self, tool: str, **arguments: Any) -> Iterator[ToolRecord]:
        """Use a tool inside: fill in `ok` and `output`. Both ends are announced and recorded; left by an exception, it
        has failed."""
        scope = self.scope
        record = ToolRecord(branch=self.id, tool=tool, arguments=arguments, began=scope.state.seconds, step=scope.now)
        scope.state.trace.tools.append(record)
        scope.emit(ToolStarted, branch=self.id, tool=tool, arguments=arguments)
        try:
            yield record
            record.ended = scope.state.seconds
        except BaseException as error:
            record.ok, record.output = False, told(error)
            raise
        finally:
            scope.emit(ToolFinished, branch=self.id, tool=tool, ok=record.ok, output=record.output)
