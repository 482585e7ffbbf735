"""A trace in the terminal: the tree of its branches, each text and each child where it came in."""

from __future__ import annotations

import json
from collections import Counter

from rich.console import Console
from rich.text import Text as Line
from rich.tree import Tree

from ..printable import printable
from .record import BranchRecord, JoinRecord, Piece, StateRecord, ToolRecord
from .timeline import Timeline
from .trace import Trace

MAX_DEPTH = 50
"""Branches drawn one below another, less where the terminal has no room; what is below them is counted."""
GUIDE = 4
"""Columns that a level takes."""
MIN_COLUMNS = 20
"""For the text of the last one."""
MAX_VALUE = 60
"""Characters of a tool's argument that are shown."""
OUTPUT_LINES = 12
"""Lines of a tool's output that are shown, from its end, where the result stands."""

_KINDS = {"prompt": "dim", "injected": "yellow", "sampled": ""}
_OUTCOMES = {"ok": "green", "failed": "red", "interrupted": "yellow"}

_Part = Piece | BranchRecord | JoinRecord | ToolRecord | StateRecord


def show(trace: Trace, console: Console) -> None:
    """Print a trace: header, the tree of branches with their texts, and how it ended."""
    console.print(_header(trace))
    drawing = _Drawing(trace, depth=max(1, min(MAX_DEPTH, (console.width - MIN_COLUMNS) // GUIDE)))
    for root in trace.children_of(None):
        console.print(drawing.tree(root))
    end = trace.end or {"finish": "unfinished"}
    answer = end.get("answer")
    console.print(Line(printable(f"{end['finish']}: {'no answer' if answer is None else answer}"), style="bold"))
    if error := end.get("error"):
        console.print(Line(printable(error), style="red"))


def _header(trace: Trace) -> Line:
    usage = (trace.end or {}).get("usage") or {}
    line = Line(printable(str((trace.header["method"] or {}).get("method"))), style="bold")
    line.append(printable(f" on {trace.header['model']}"), style="not bold")
    if usage:
        figures = f"{len(trace.branches):,} branches, {_tools(trace)}{usage.get('total_tokens', 0):,} tokens, "
        figures += f"{usage.get('critical_tokens', 0):,} on the critical path, {usage.get('seconds', 0.0):.2f} s"
        line.append(f"  {figures}", style="not bold dim")
    return line


def _tools(trace: Trace) -> str:
    if not trace.tools:
        return ""
    counts = Counter(tool.outcome for tool in trace.tools)
    bad = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in ("failed", "interrupted") if counts[outcome])
    calls = f"{len(trace.tools):,} tool {'call' if len(trace.tools) == 1 else 'calls'}"
    return f"{calls}{f' ({bad})' if bad else ''}, "


def _time(part: _Part) -> float | None:
    match part:
        case Piece() | ToolRecord():
            return part.began
        case BranchRecord():
            return part.opened
        case _:
            return part.time


class _Drawing:
    def __init__(self, trace: Trace, depth: int) -> None:
        self._trace = trace
        self._depth = depth
        self._found = {name for join in trace.joins for name in join.found}
        self._joined = {name for join in trace.joins for name in join.children}
        self._timeline = Timeline(trace)
        self._parts: dict[str, list[tuple[int, _Part]]] = {name: [] for name in trace.branches}
        """Of each branch: what came into it or out of it, by the running number of the segment with which it did."""
        self._collect()
        self._notes: dict[str, list[ToolRecord | StateRecord]] = {name: [] for name in trace.branches}
        for state in trace.states:
            self._notes[state.branch].append(state)
        for tool in trace.tools:
            self._notes[tool.branch].append(tool)

    def tree(self, record: BranchRecord, depth: int = 1) -> Tree:
        """The branch, its text and its children, in the order in which they were written."""
        tree = Tree(self._title(record), guide_style="dim")
        for part in self._in_order(record.id):
            if isinstance(part, Piece):
                line = Line(f"{part.kind} {len(part.token_ids)} ", style="dim")
                tree.add(line.append(printable(part.text), style=f"not dim {_KINDS[part.kind]}"))
            elif isinstance(part, JoinRecord):
                name = "merge" if part.segment is None else "join"
                results = f"{name} of {len(part.children)}, {len(part.found)} with a result"
                tree.add(Line(results, style="green" if part.found else "dim"))
            elif isinstance(part, StateRecord):
                line = Line(printable(part.state), style="bold cyan")
                tree.add(line.append(f"  at {part.time:.2f} s", style="not bold dim"))
            elif isinstance(part, ToolRecord):
                self._tool(tree, part)
            elif depth < self._depth:
                tree.add(self.tree(part, depth + 1))
        if depth == self._depth and (hidden := self._below(record)):
            tree.add(Line(f"... {hidden:,} more below", style="dim"))
        return tree

    def _below(self, record: BranchRecord) -> int:
        """Branches of the subtree, without the branch itself."""
        waiting = [record]
        for branch in waiting:
            waiting += [part for _, part in self._parts[branch.id] if isinstance(part, BranchRecord)]
        return len(waiting) - 1

    def _in_order(self, branch: str) -> list[_Part]:
        """What the branch consists of, by the clock; what has no time stays behind what was written before it."""
        timed: list[tuple[float, _Part]] = []
        for _, part in sorted(self._parts[branch], key=lambda part: part[0]):
            time = _time(part)
            timed.append((time if time is not None else timed[-1][0] if timed else 0.0, part))
        timed += [(_time(note) or 0.0, note) for note in self._notes[branch]]
        return [part for _, part in sorted(timed, key=lambda item: item[0])]

    def _tool(self, tree: Tree, tool: ToolRecord) -> None:
        line = Line(f"tool {printable(tool.tool)}", style="bold")
        line.append(f"  {tool.outcome}", style=f"not bold {_OUTCOMES[tool.outcome]}")
        line.append(f"  {self._timeline.tool_end(tool) - tool.began:.2f} s", style="not bold dim")
        for name, value in tool.arguments.items():
            text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
            shown = text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."
            line.append(f"  {printable(f'{name}={shown}')}", style="not bold")
        lines = tool.output.rstrip().splitlines()
        node = tree.add(line)
        if len(lines) > OUTPUT_LINES:
            node.add(Line(f"... {len(lines) - OUTPUT_LINES:,} lines before", style="dim"))
        if lines:
            node.add(Line(printable("\n".join(lines[-OUTPUT_LINES:])), style="dim"))

    def _collect(self) -> None:
        first: dict[str, int] = {}
        for segment in self._trace.segments:
            first.setdefault(segment.branch, segment.id)
            self._parts[segment.branch] += [(segment.id, piece) for piece in segment.pieces]
        end = len(self._trace.segments)
        for record in self._trace.branches.values():
            if record.parent is not None:
                self._parts[record.parent].append((first.get(record.id, end), record))
        for join in self._trace.joins:
            segments = [s.id for s in self._trace.segments_of(join.branch)]
            after = max((first.get(name, 0) for name in join.children), default=0)
            number = join.segment if join.segment is not None else min((s for s in segments if s > after), default=end)
            self._parts[join.branch].insert(0, (number, join))

    def _title(self, record: BranchRecord) -> Line:
        line = Line(printable(record.label or record.id), style="bold")
        if record.label:
            line.append(printable(f"  {record.id}"), style="not bold dim")
        if record.error is not None:
            line.append(f"  failed: {printable(record.error)}", style="not bold red")
        elif record.pruned is not None:
            line.append(f"  pruned: {printable(record.pruned)}", style="not bold red")
        elif record.id in self._joined:
            is_found = record.id in self._found
            line.append("  found" if is_found else "  no result", style=f"not bold {'green' if is_found else 'dim'}")
        if record.finish is not None:
            line.append(printable(f"  {record.finish}"), style="not bold dim")
        if record.scores:
            line.append(f"  score {', '.join(f'{score:.4g}' for score in record.scores)}", style="not bold cyan")
        return line
