"""What is asked in the five stages that turn a chain of thought into a Multiverse text (arXiv 2506.09991,
section 5.1).

Stages 1 to 3 are one chat, stages 4 and 5 calls of their own. The wording is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...runtime.methods.multiverse.check import problems
from ...runtime.methods.multiverse.grammar import TAG, Element, elements
from .plain import HINT

Message = dict[str, str]

_STEPS = (
    """Below is a problem and a worked chain of thought. List its top-level steps in order, one line each, as
S1: summary
S2: summary
Every exploration, every case, every check, every correction and the final answer is a step of its own. Write
the list and nothing else.

Problem:
{problem}

Chain of thought:
{chain}""",
    """Split the steps that hold several separate pieces of work into substeps, S2.1, S2.2 and so on; leave the
others as they are. No further levels. Write the whole list again, in order, one line each.""",
    """Which neighbouring main steps do not need each other's results? Cases of a distinction count as
independent. Put adjacent steps (or blocks of adjacent steps) that are independent into one group, each step in
exactly one group. Write one line per group: its steps, and the reason.""",
    """Now the same for the substeps of each main step.""",
    """Write the whole list once more, with the line <parallel> before and the line </parallel> behind every run
of steps that may be worked on at the same time. Wrap substeps only where they are independent, never a single
step, and nest at most two levels. Write the list and nothing else.""",
)
"""The five turns of stages 1 to 3."""

_REFILL = """Below are a problem, its chain of thought, and an outline of that chain. Write the outline again
with every summary replaced by the original sentences of the chain that belong to it. Keep the step numbers and
the lines <parallel> and </parallel> where they are. Go through the chain in order; change no sentence and leave
none out; what the outline misses becomes a step of its own. Write the result and nothing else.

Chain of thought:
{chain}

Outline:
{outline}"""

_BLOCKS = """Below is a chain of thought in numbered steps, in which <parallel> and </parallel> enclose steps that are
independent. Rewrite it. Text outside of these stays as it is, without step numbers. Each <parallel> part
becomes exactly

Let's think in parallel.
<Parallel>
<Goal>
<Outline>
1: what the first path is to find out, without saying how
</Outline>
<Outline>
2: what the second path is to find out
</Outline>
</Goal>
<Path>
1: the text of the first step
</Path>
<Path>
2: the text of the second step
</Path>
<Conclusion>
in short, what the paths have found
</Conclusion>
</Parallel>

with one outline and one path for each step. Every tag stands on a line of its own. A part inside a path is
written in the same way, its numbers 1.1, 1.2 and so on. Write the result and nothing else.

{text}"""

_REWRITE = """Below is one parallel block of a longer text. Rewrite the contents and keep every tag and every number:
outlines say what is to be found, without method; each path stands by itself, without words that refer to
another path or go on from one; the conclusion is short. Keep all calculations. Write the block and nothing else.

{block}"""

NUMBER = re.compile(r"^[ \t]*S[0-9]+(?:\.[0-9]+)?:[ \t]*", re.MULTILINE)
PARALLEL = re.compile(r"^[ \t]*</?parallel>[ \t]*\n?", re.MULTILINE)


def outline_turns(problem: str, chain: str) -> list[str]:
    """The user's turns of stages 1 to 3."""
    return [_STEPS[0].format(problem=problem, chain=chain), *_STEPS[1:]]


def refill_prompt(chain: str, outline: str) -> str:
    return _REFILL.format(chain=chain, outline=outline)


def blocks_prompt(text: str) -> str:
    return _BLOCKS.format(text=text)


def rewrite_prompt(block: str) -> str:
    return _REWRITE.format(block=block)


def listed(reply: str) -> str:
    """The lines of a reply that are steps or tags; empty where there are none: chatter around them goes."""
    lines = [line.rstrip() for line in reply.splitlines() if NUMBER.match(line) or PARALLEL.match(line)]
    return "\n".join(lines)


def outline_problem(outline: str) -> str | None:
    """Why an outline cannot be refilled; None: it can."""
    depth = 0
    for tag in re.findall(r"</?parallel>", outline):
        depth += -1 if tag[1] == "/" else 1
        if not 0 <= depth <= 2:
            return "its parallel tags are not nested as they should be"
    if depth:
        return "a parallel tag is not closed"
    return None if NUMBER.search(outline) else "it has no steps"


def unstructured(text: str) -> str:
    """A refilled text without numbers and tags: what the content check compares with the chain."""
    return NUMBER.sub("", PARALLEL.sub("", text))


def whole(body: str, chain: str, answer: str) -> str:
    """The assistant's text: the body in `<Think>`, what was said of a final answer in the chain if it got lost, and the
    answer."""
    found = re.search(r"^\*\*Final Answer\*\*.*\Z", chain, re.MULTILINE | re.DOTALL)
    if found and "**Final Answer**" not in body:
        body = f"{body.strip()}\n{found[0]}"
    inside = re.sub(r"</?Think>\n?", "", body).strip()
    # The hint stands where a block begins, and blocks begin on lines of their own.
    inside = re.sub(rf"(?<!{re.escape(HINT)})\n<Parallel>\n", f"\n{HINT}\n<Parallel>\n", f"\n{inside}").strip()
    return f"<Think>\n{inside}\n</Think>\n\nAnswer: {answer}"


def grammar_problem(text: str) -> str | None:
    """The first thing that is not in the exact format; None: all is, and there is a block."""
    found = problems(text)
    if found:
        return found[0]
    return None if "<Parallel>" in text else "it has no block"


def outermost(text: str) -> list[tuple[int, int]]:
    """Where the blocks that are in no other one begin and end."""
    return [(e.start, e.end) for e in _outermost(elements(text)[0]) if e.end is not None]


def _outermost(among: list[Element]) -> Iterator[Element]:
    for element in among:
        if element.name == "Parallel":
            yield element
        else:
            yield from _outermost(element.children)


def block_of(reply: str) -> str | None:
    """The block in a reply, from its first opening to its last closing tag."""
    tags = [tag for tag in TAG.finditer(reply) if tag[2] == "Parallel"]
    return reply[tags[0].start() : tags[-1].end()] if len(tags) > 1 else None
