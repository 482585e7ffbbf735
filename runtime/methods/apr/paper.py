"""The Countdown language of the APR paper (arXiv 2504.15466), byte for byte.

    Moving to Node #0                                                       root prompt: these two lines
    Current State: 62:[59, 54, 93, 36], Operations: []
    Exploring Operation: 93-54=39, Resulting Numbers: [59, 36, 39]
    Generated Node #0,0: 62:[59, 36, 39] Operation: 93-54=39
    <Calling Sub Searches>
    <Start Sub Search 0 at level 1> Moving to Node #0,0
    <End Calling Sub Searches>

A thread that found the target says so twice: at the find, and at the end of the path it repeats; what it hands back is
that path. Numbers and operations are read by patterns and never evaluated, so any text is safe to parse.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import add, floordiv, mul, sub

from ..search_path import GOAL, INT, after_find
from .dialect import Child, Joined, Spawn

CALLING, END_CALLING = "<Calling Sub Searches>", "<End Calling Sub Searches>"
RESULTS, END_RESULTS = "<Sub Searches>", "<End Sub Searches>"
NO_SOLUTION = "No solution found."
"""The last line of a search that found none."""

_OPERATION = rf"({INT})([-+*/])({INT})=({INT})"
_NODE = r"#([0-9]+(?:,[0-9]+)*)"
_LIST = rf"\[((?:{INT}(?:, {INT})*)?)\]"
_QUOTED = rf"'{INT}[-+*/]{INT}={INT}'"

_moving = re.compile(rf"(?:(?:Sub Call|Token) Budget: {INT} )?Moving to Node {_NODE}")
_state = re.compile(rf"Current State: ({INT}):{_LIST}, Operations: \[((?:{_QUOTED}(?:, {_QUOTED})*)?)\]")
_generated = re.compile(rf"Generated Node {_NODE}: ({INT}):{_LIST} Operation: ({INT}[-+*/]{INT}={INT})")
_start = re.compile(rf"<Start Sub Search [0-9]+ at level [0-9]+> Moving to Node {_NODE}")
_any_start = re.compile(r"<Start Sub Search .*")
_exploring = re.compile(rf"Exploring Operation: {_OPERATION}, Resulting Numbers: {_LIST}")

_ARITHMETIC = {"+": add, "-": sub, "*": mul, "/": floordiv}


@dataclass(frozen=True, slots=True)
class _Node:
    target: int
    numbers: tuple[int, ...]
    operations: tuple[str, ...]


class PaperDialect:
    """See `dialect.Dialect`. `level` is the spawning thread's; its children are written one level deeper."""

    name = "paper"
    spawn_end = END_CALLING
    reserved = {RESULTS: CALLING}

    def root_prompt(self, nums: Sequence[int], target: int) -> str:
        """The root thread's context at birth."""
        return _prompt("0", _Node(target, tuple(nums), ()))

    def serial_prompt(self, nums: Sequence[int], target: int, token_budget: int | None = None) -> str:
        """What a search in one line (SoS+) starts from; `token_budget` tells the model how long it may get."""
        budget = "" if token_budget is None else f"Token Budget: {token_budget} "
        return f"{budget}{_state_line(_Node(target, tuple(nums), ()))}"

    def spawn(self, context: str, level: int) -> Spawn | None:
        text = context.removesuffix("\n")
        keep = text.rfind(CALLING)
        if END_CALLING not in text[text.rfind("\n") + 1 :] or keep < 0:
            return None
        nodes = _nodes(text)
        children = []
        for line in text[keep:].split("\n"):
            if start := _start.fullmatch(line):
                node = nodes.get(start[1])
                children.append(Child(label=start[1], prompt=_prompt(start[1], node) if node else None))
            elif _any_start.fullmatch(line):
                label = _moving.search(line)
                children.append(Child(label=label[1] if label else "?", prompt=None))
        return Spawn(keep=keep, children=tuple(children))

    def join(self, joined: Sequence[Joined], level: int) -> str:
        lines = [RESULTS]
        for i, entry in enumerate(joined):
            lines += _result_lines(i, entry, level + 1)
        return "\n".join([*lines, END_RESULTS, ""])

    def join_short(self, joined: Sequence[Joined], level: int) -> str:
        lines = [RESULTS]
        failures = sum(entry.result is None for entry in joined)
        if failures:
            lines.append(f"<No Solution in {failures} Sub Searches at level {level + 1}>")
        for i, entry in enumerate(joined):
            if entry.result is not None:
                lines += _result_lines(i, entry, level + 1)
        return "\n".join([*lines, END_RESULTS, ""])

    def result(self, context: str) -> str | None:
        return after_find(context)

    def verify(self, child: Child, result: str) -> bool:
        start = read_prompt(child.prompt or "")
        return start is not None and _solves(*start, result)


def read_prompt(text: str) -> tuple[tuple[int, ...], int] | None:
    """The numbers and the target of the first state in a text; None: there is none."""
    state = _state.search(text)
    return None if state is None else (tuple(_ints(state[2])), int(state[1]))


def _solves(numbers: Sequence[int], target: int, path: str) -> bool:
    """Replay the path's operations: operands at hand, arithmetic exact, lists right, only the target left."""
    held = Counter(numbers)
    for step in _exploring.finditer(path):
        a, op, b, c = int(step[1]), step[2], int(step[3]), int(step[4])
        need = Counter((a, b))
        exact = op != "/" or (b != 0 and a % b == 0)
        if need - held or not exact or _ARITHMETIC[op](a, b) != c:
            return False
        held = held - need + Counter((c,))
        if held != Counter(_ints(step[5])):
            return False
    return held == Counter((target,)) and GOAL in path


def _nodes(text: str) -> dict[str, _Node]:
    """Every node the text describes. As published: of several states the last one counts, and a node without a state
    is what it was first generated as."""
    nodes: dict[str, _Node] = {}
    lines = text.split("\n")
    for line, after in pairwise(lines):
        if (moving := _moving.fullmatch(line)) and (state := _state.fullmatch(after)):
            operations = tuple(state[3].replace("'", "").split(", ")) if state[3] else ()
            nodes[moving[1]] = _Node(int(state[1]), tuple(_ints(state[2])), operations)
    for line in lines:
        generated = _generated.fullmatch(line)
        if generated is None or generated[1] in nodes:
            continue
        parent = nodes.get(generated[1].rpartition(",")[0])
        if parent is not None:
            operations = (*parent.operations, generated[4])
            nodes[generated[1]] = _Node(int(generated[2]), tuple(_ints(generated[3])), operations)
    return nodes


def token_budget(tokens: int) -> int:
    """The budget that the published SoS+ models are told for a search of so many tokens: the next multiple of 512, at
    most their context."""
    return min(-(-tokens // 512) * 512, 4096)


def _prompt(name: str, node: _Node) -> str:
    return f"Moving to Node #{name}\n{_state_line(node)}"


def _state_line(node: _Node) -> str:
    return f"Current State: {node.target}:{list(node.numbers)}, Operations: {list(node.operations)}"


def _result_lines(index: int, entry: Joined, level: int) -> list[str]:
    where = f"in Sub Search {index} at level {level} at Node #{entry.child.label}>"
    if entry.result is None:
        return [f"<No Solution {where}"]
    return [f"<{GOAL} {where}", entry.result]


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(", ")] if text else []
