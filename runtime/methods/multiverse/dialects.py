"""What the published relatives of Multiverse write and expect: one `Dialect` each.

- `multiverse`: arXiv 2506.09991 and its released engine and training code.
- `npr`: Native-Parallel-Reasoner, arXiv 2512.07461. A block has no tag around it: it opens at the plan.
- `threadweaver`: arXiv 2512.07843. Joined text is read again from the left, so that a thread sees those before it.
- `parallel_r1`: arXiv 2509.07980. No plan and no numbers: `<Parallel>` itself forks into a fixed number of paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from ...engine import Tokenizer
from .prompts import PROMPTS, Prompts

Positions = Literal["train", "engine"]
"""See `multiverse`."""
Placing = Literal["overlap", "follow", "reread"]
"""How paths are placed and joined. `overlap`: a path begins where the text before the fork ended, and the join right
behind the furthest closing tag: each overlaps the newline before it. `follow`: behind these newlines. `reread`: the
paths are put one behind another and encoded again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dialect:
    """Tags, forced text, places and prompts of one kind of checkpoint."""

    name: str
    names: tuple[str, ...]
    """Of the tags, in the order in which the authors add them to a tokenizer."""
    thinking: str = ""
    """The element that holds the blocks; empty: there is none."""
    block: str = ""
    """The element that is a block; empty: plan, paths and conclusion stand side by side."""
    plan: str = ""
    """The element whose end forks; empty: the opening tag of the block does."""
    item: str = ""
    """An outline in the plan."""
    path: str
    merge: str = ""
    """The element that the join opens; empty: it opens none."""
    head: str
    """What opens a path; `{index}` stands for its number."""
    gap: str = "\n"
    """What the runtime writes before it forks."""
    tail: str = "\n"
    """Behind a path's closing tag; part of the path."""
    newline: str = "\n"
    """In front of closing tags that the runtime writes."""
    join: str
    """What the runtime writes behind the last path."""
    nests: bool = False
    """May a path hold a block? Else it is decoded on."""
    is_unique: bool = False
    """Does a number that is planned twice run once?"""
    max_paths: int = 32
    """Of one block, unless the job says otherwise."""
    max_blocks: int | None = None
    """Of one answer; later ones are not forked. None: any number."""
    path_tokens: int | None = None
    """Of one path at most."""
    reserve: int = 256
    """Kept back from the paths for conclusion and answer, unless the job says otherwise."""
    resumes: bool = False
    """Is a conclusion that the model leaves by an end of sequence closed and the text gone on with?"""
    path_sampling: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """What paths are sampled with where the job says nothing."""
    places: Mapping[Positions, Placing] = field(
        default_factory=lambda: MappingProxyType({"train": "overlap", "engine": "follow"})
    )
    positions: Positions = "train"
    """The rule where the job says nothing."""
    marks: tuple[str, ...]
    """Tags that are single tokens of these checkpoints' tokenizers."""
    unlike: tuple[str, ...] = ()
    """Tags that are not."""

    @property
    def tags(self) -> tuple[str, ...]:
        """All of them, in the order of `names`."""
        return tuple(tag for name in self.names for tag in (f"<{name}>", f"</{name}>"))

    @cached_property
    def tag(self) -> re.Pattern[str]:
        """Any of them: a slash where it closes, and the name."""
        return re.compile(f"<(/?)({'|'.join(self.names)})>")

    @cached_property
    def outline(self) -> re.Pattern[str]:
        """An outline, closed or not."""
        return re.compile(f"<{self.item}>(.*?)(?=</{self.item}>|<{self.item}>|\\Z)", re.DOTALL)

    @property
    def opener(self) -> str:
        """The element a block begins with."""
        return self.block or self.plan

    @property
    def trigger(self) -> str:
        """The tag at which a line forks."""
        return f"</{self.plan}>" if self.plan else f"<{self.block}>"

    @property
    def path_end(self) -> str:
        return f"</{self.path}>"

    @property
    def prompts(self) -> Prompts:
        return PROMPTS[self.name]

    def open_path(self, index: str) -> str:
        """What opens a path; the model goes on behind it."""
        return self.head.replace("{index}", index)

    def close(self, name: str) -> str:
        """The closing tag of an element that the model left open."""
        return f"{self.newline}</{name}>"

    @property
    def ending(self) -> str:
        """What closes the longest open structure of a line behind a join."""
        return "".join(self.close(name) for name in (self.merge, self.block, self.thinking) if name) + "\n\n"

    def placeholder(self, index: str) -> str:
        """What stands for a path that the engine failed for good, up to its closing tag."""
        return f"{self.open_path(index)} [failed]{self.close(self.path)}"


MULTIVERSE = Dialect(
    name="multiverse",
    names=("Think", "Parallel", "Goal", "Outline", "Path", "Conclusion"),
    thinking="Think",
    block="Parallel",
    plan="Goal",
    item="Outline",
    path="Path",
    merge="Conclusion",
    head="<Path>\n{index}:",
    join="<Conclusion>\n",
    nests=True,
    marks=("<Goal>", "<Conclusion>", "<Path>"),
)

NPR = Dialect(
    name="npr",
    names=("guideline", "plan", "step", "takeaway"),
    plan="guideline",
    item="plan",
    path="step",
    merge="takeaway",
    head="<step>\n{index}:",
    join="<takeaway>\n",
    max_paths=5,
    reserve=1024,
    path_sampling=MappingProxyType({"repetition_penalty": 1.02}),
    marks=("<guideline>", "<takeaway>"),
)

THREADWEAVER = Dialect(
    name="threadweaver",
    # The text itself thinks in lower case.
    names=("Think", "Parallel", "Outlines", "Outline", "Thread", "Conclusion", "think"),
    thinking="think",
    block="Parallel",
    plan="Outlines",
    item="Outline",
    path="Thread",
    head="<Thread>\n{index}:",
    tail="",
    join="\n",
    is_unique=True,
    max_paths=50,
    max_blocks=32,
    places=MappingProxyType({"train": "reread", "engine": "reread"}),
    marks=("<Outlines>", "<Thread>"),
)

PARALLEL_R1 = Dialect(
    name="parallel_r1",
    names=("Parallel", "Path", "Summary"),
    block="Parallel",
    path="Path",
    merge="Summary",
    head="<Path>",
    gap="",
    tail="",
    newline="",
    join="</Parallel>\n<Summary>",
    max_blocks=4,
    path_tokens=4096,
    resumes=True,
    path_sampling=MappingProxyType({"temperature": 1.0}),
    places=MappingProxyType({"train": "overlap", "engine": "reread"}),
    positions="engine",
    marks=("<Path>", "<Summary>"),
    unlike=("<Goal>",),
)

DIALECTS = {one.name: one for one in (MULTIVERSE, NPR, THREADWEAVER, PARALLEL_R1)}

DialectName = Literal["auto", "multiverse", "npr", "threadweaver", "parallel_r1"]


def fitting(tokenizer: Tokenizer) -> list[str]:
    """The dialects whose tags are single tokens of a tokenizer. The ids tell nothing: 151670 is another tag in each."""

    def has(tag: str) -> bool:
        return len(tokenizer.encode_continuation((), tag)) == 1

    return [
        name
        for name, one in DIALECTS.items()
        if all(has(tag) for tag in one.marks) and not any(has(tag) for tag in one.unlike)
    ]
