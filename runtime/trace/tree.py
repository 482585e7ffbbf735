"""A trace in the terminal: the tree of its branches, each text and each child where it came in."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text as Line
from rich.tree import Tree

from .record import BranchRecord, JoinRecord, Piece
from .trace import Trace

_KINDS = {"prompt": "dim", "injected": "yellow", "sampled": ""}


def show(trace: Trace, console: Console) -> None:
    """Print a trace: header, the tree of branches with their texts, and how it ended."""
    console.print(_header(trace))
    drawing = _Drawing(trace)
    for root in trace.children_of(None):
        console.print(drawing.tree(root))
    end = trace.end or {"finish": "unfinished"}
    answer = end.get("answer")
    console.print(Line(f"{end['finish']}: {'no answer' if answer is None else answer}", style="bold"))
    if error := end.get("error"):
        console.print(Line(error, style="red"))


def _header(trace: Trace) -> Line:
    usage = (trace.end or {}).get("usage") or {}
    line = Line(str((trace.header["method"] or {}).get("method")), style="bold")
    line.append(f" on {trace.header['model']}", style="not bold")
    if usage:
        figures = f"{len(trace.branches):,} branches, {usage['total_tokens']:,} tokens, "
        figures += f"{usage['critical_tokens']:,} on the critical path, {usage['seconds']:.2f} s"
        line.append(f"  {figures}", style="not bold dim")
    return line


class _Drawing:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._found = {name for join in trace.joins for name in join.found}
        self._joined = {name for join in trace.joins for name in join.children}
        self._parts: dict[str, list[tuple[int, Piece | BranchRecord | JoinRecord]]] = {
            name: [] for name in trace.branches
        }
        """Of each branch: what came into it or out of it, by the running number of the segment with which it did."""
        self._collect()

    def tree(self, record: BranchRecord) -> Tree:
        """The branch, its text and its children, in the order in which they were written."""
        tree = Tree(self._title(record), guide_style="dim")
        for _, part in sorted(self._parts[record.id], key=lambda part: part[0]):
            if isinstance(part, Piece):
                line = Line(f"{part.kind} {len(part.token_ids)} ", style="dim")
                tree.add(line.append(part.text, style=f"not dim {_KINDS[part.kind]}"))
            elif isinstance(part, JoinRecord):
                name = "merge" if part.segment is None else "join"
                results = f"{name} of {len(part.children)}, {len(part.found)} with a result"
                tree.add(Line(results, style="green" if part.found else "dim"))
            else:
                tree.add(self.tree(part))
        return tree

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
        line = Line(record.label or record.id, style="bold")
        if record.label:
            line.append(f"  {record.id}", style="not bold dim")
        if record.error is not None:
            line.append(f"  failed: {record.error}", style="not bold red")
        elif record.pruned is not None:
            line.append(f"  pruned: {record.pruned}", style="not bold red")
        elif record.id in self._joined:
            is_found = record.id in self._found
            line.append("  found" if is_found else "  no result", style=f"not bold {'green' if is_found else 'dim'}")
        if record.finish is not None:
            line.append(f"  {record.finish}", style="not bold dim")
        if record.scores:
            line.append(f"  score {', '.join(f'{score:.4g}' for score in record.scores)}", style="not bold cyan")
        return line
