"""A job in the terminal: the tree of its threads while it runs.

`JobView` is fed events and knows nothing else, so it draws a local job, a remote one or a recorded stream alike.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text as Line
from rich.tree import Tree

from ..events import (
    AnyEvent,
    BranchStarted,
    BudgetUsed,
    Done,
    Failed,
    Joined,
    Merged,
    Pruned,
    Started,
    StateEntered,
    Stopped,
    Text,
    ToolFinished,
    ToolStarted,
)
from ..printable import printable
from ..trace.tree import MAX_DEPTH

REFRESH_SECONDS = 0.08
MAX_CHILDREN = 12
"""Children drawn under one thread, those with results first, then those at work; the others are counted in one line."""
MAX_LABEL = 28
MAX_DOING = 44
TAIL_CHARS = 200

_STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "tool": "magenta",
    "done": "",
    "found": "green",
    "no result": "dim",
    "pruned": "yellow",
}


@dataclass(slots=True)
class _Thread:
    id: str
    parent: str | None
    label: str
    status: str = "waiting"
    tokens: int = 0
    unfinished: int = 0
    """Tokens of the generation that goes on."""
    tail: str = ""
    state: str = ""
    """The last one entered."""
    tools: list[ToolStarted] = field(default_factory=list)
    """That run now."""
    children: list[_Thread] = field(default_factory=list)
    size: int = 1
    """Threads of its subtree."""

    @property
    def name(self) -> str:
        return printable(self.label or self.id)

    @property
    def phase(self) -> str:
        return "tool" if self.tools else self.status

    @property
    def doing(self) -> str:
        """State and running tools."""
        tools = [_call(tool) for tool in self.tools[:1]]
        if len(self.tools) > 1:
            tools.append(f"and {len(self.tools) - 1} more")
        return ": ".join(filter(None, [self.state, " ".join(tools)]))


class JobView:
    """The state of one job's tree, built from its events."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.total_tokens = 0
        self.critical_tokens = 0
        self.seconds = 0.0
        self.outcome = ""
        """Empty while the job runs."""
        self._threads: dict[str, _Thread] = {}
        self._roots: list[_Thread] = []

    def feed(self, event: AnyEvent) -> None:
        """Take in one event."""
        self.seconds = max(self.seconds, event.time)
        match event:
            case Started():
                self.title = self.title or event.method
                # A second one: the worker that ran the job is gone, and another one has begun it anew.
                self._threads.clear()
                self._roots.clear()
            case BranchStarted():
                thread = _Thread(event.branch, event.parent, event.label)
                self._threads[event.branch] = thread
                parent = self._threads.get(event.parent or "")
                (parent.children if parent else self._roots).append(thread)
                if parent:
                    parent.status = "waiting"
                while parent:
                    parent.size += 1
                    parent = self._threads.get(parent.parent or "")
            case Text():
                thread = self._thread(event.branch)
                thread.status = "running"
                thread.unfinished += event.tokens
                thread.tail = (thread.tail + event.text)[-TAIL_CHARS:]
            case Stopped():
                thread = self._thread(event.branch)
                thread.tokens, thread.unfinished = thread.tokens + event.tokens, 0
                thread.status = "done" if event.reason in ("eos", "stop") else event.reason
            case Joined() | Merged():
                found = event.found if isinstance(event, Joined) else event.children
                for child in event.children:
                    self._thread(child).status = "found" if child in found else "no result"
                self._thread(event.branch).status = "running"
            case Pruned():
                self._thread(event.branch).status = "pruned"
            case StateEntered():
                self._thread(event.branch).state = event.state
            case ToolStarted():
                self._thread(event.branch).tools.append(event)
            case ToolFinished():
                tools = self._thread(event.branch).tools
                # Which of several runs of one tool it was is not said; one that started unseen is in no list.
                first = next((tool for tool in tools if tool.tool == event.tool), None)
                if first is not None:
                    tools.remove(first)
            case BudgetUsed():
                self.total_tokens, self.critical_tokens = event.total_tokens, event.critical_tokens
            case Done():
                self.total_tokens, self.critical_tokens = event.total_tokens, event.critical_tokens
                self.outcome = printable(f"{event.reason}: {event.answer if event.answer is not None else 'no answer'}")
            case Failed():
                self.outcome = printable(f"failed: {event.error}")

    def _thread(self, branch: str) -> _Thread:
        # A reader that came late has not seen the thread start.
        if branch not in self._threads:
            self.feed(BranchStarted(job="", time=0.0, branch=branch, parent=None, label="", prompt_tokens=0))
        return self._threads[branch]

    def summary(self) -> str:
        """One line."""
        threads = len(self._threads)
        return (
            f"{self.title}  {threads:,} {'thread' if threads == 1 else 'threads'}  {self.total_tokens:,} tokens  "
            f"{self.critical_tokens:,} critical  {self.seconds:.1f} s  {self.outcome}".rstrip()
        )

    def render(self) -> RenderableType:
        """The tree as it is now."""
        trees = []
        for root in self._roots:
            tree = Tree(_line(root), guide_style="dim")
            _grow(tree, root)
            trees.append(tree)
        return Group(Line(self.summary(), style="bold"), *trees)


def _grow(tree: Tree, thread: _Thread, depth: int = 1) -> None:
    if depth == MAX_DEPTH:  # The thread's own line says how many are below.
        return
    shown, hidden = _chosen(thread.children)
    width = min(max((len(child.name) for child in shown), default=0), MAX_LABEL)
    for child in shown:
        branch = tree.add(_line(child, width))
        # Whoever has handed in a result, or none, has drawn its conclusion from its own children.
        if child.status not in ("found", "no result"):
            _grow(branch, child, depth + 1)
    if hidden:
        counts = Counter(child.phase for child in hidden)
        tree.add(Line(f"... {len(hidden)} more: {', '.join(f'{n} {name}' for name, n in counts.items())}", style="dim"))


def _chosen(children: Sequence[_Thread]) -> tuple[list[_Thread], list[_Thread]]:
    """Which to draw and which to count, both in their order."""
    ranks = {"found": 0, "running": 1, "tool": 1, "waiting": 1}
    best = sorted(children, key=lambda child: ranks.get(child.phase, 2))[:MAX_CHILDREN]
    ids = {child.id for child in best}
    return [c for c in children if c.id in ids], [c for c in children if c.id not in ids]


def _line(thread: _Thread, width: int = 0) -> Line:
    tail = printable(" ".join(thread.tail.split()))
    line = Line(no_wrap=True, overflow="ellipsis")
    name = thread.name if len(thread.name) <= MAX_LABEL else f"{thread.name[: MAX_LABEL - 3]}..."
    line.append(f"{name:<{width}}  ", style="bold")
    line.append(f"{thread.phase:<9}  ", style=_STYLES.get(thread.phase, "yellow"))
    tokens = thread.tokens + thread.unfinished
    line.append(f"{tokens:>6,} tokens  " if tokens else " " * 15, style="dim")
    if size := thread.size - 1:
        line.append(f"{size:,} below  ", style="dim")
    if doing := printable(" ".join(thread.doing.split())):
        line.append(f"{doing if len(doing) <= MAX_DOING else f'{doing[: MAX_DOING - 3]}...'}  ")
    line.append(tail[-60:].lstrip(), style="dim")
    return line


def _call(tool: ToolStarted) -> str:
    """The tool with those of its arguments that are short."""
    short = [f"{name}={value}" for name, value in tool.arguments.items() if len(str(value)) <= MAX_LABEL]
    return " ".join([tool.tool, *short])


async def watch(events: AsyncIterable[AnyEvent], *, title: str = "", console: Console | None = None) -> JobView:
    """Draw a job until its last event: live in a terminal, else one line at the end."""
    console = console or Console()
    view = JobView(title)
    if not console.is_terminal:
        async for event in events:
            view.feed(event)
        console.print(view.summary(), highlight=False, soft_wrap=True, markup=False)
        return view
    # Drawn by this loop and not by rich's thread: no thread is left behind whatever happens.
    with Live(console=console, auto_refresh=False) as live:
        drawn = 0.0
        async for event in events:
            view.feed(event)
            if time.monotonic() - drawn > REFRESH_SECONDS:
                live.update(view.render(), refresh=True)
                drawn = time.monotonic()
        live.update(view.render(), refresh=True)
    return view
