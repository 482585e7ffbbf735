"""`Expansion`: from a choice of nodes to their children, written by the policy side by side."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..runtime.engine import SamplingParams
from ..runtime.engines.sampled_text import find_stop
from ..runtime.engines.text_stream import REPLACEMENT, decode_behind, is_behind
from ..runtime.jobs.branch import TracedBranch
from ..runtime.jobs.context import Context
from ..runtime.methods.nesting import go_on
from ..runtime.methods.prompt import cut
from ..runtime.result import Finish
from .embeddings import HIDDEN
from .fields import SearchFields
from .node import Node


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written behind a node."""

    parent: Node
    """Whose text it goes on with: the node, or one above it where a stop string had begun before its end."""
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    is_complete: bool
    hidden_state: list[float] | None
    certainty: float = math.nan


def is_last(method: SearchFields, node: Node) -> bool:
    """Do the method's bounds allow no step behind a node?"""
    return not method.strategy.steps or node.depth >= method.max_depth or node.trajectory_tokens >= method.limit


def _uncut(node: Node) -> Node:
    """Behind which one the step began that goes on behind a node: steps that were cut go on in the next one."""
    while node.parent is not None and node.finish is Finish.LENGTH:
        node = node.parent
    return node


class Expansion:
    """Writes steps, or whole samples for strategies without steps."""

    def __init__(self, method: SearchFields, ctx: Context) -> None:
        self._method = method
        self._ctx = ctx
        self._behind = False
        """Do trajectories stand behind other text?"""
        self._wants_hidden = method.strategy.uses_embeddings and method.step_embedding == HIDDEN
        self._block_size = ctx.engine.block_usage().block_size
        forced = ctx.tokenizer.encode_continuation((), method.conclusion or "")
        # A string that is both ends a step.
        self._stops = [stop for stop in method.stop if not method.strategy.steps or stop not in method.delimiters]
        self._reserve = len(forced) + method.conclusion_tokens if forced else 0

    async def grow(self, nodes: Sequence[Node], counts: Sequence[int]) -> list[Node]:
        """`counts[i]` continuations of each node, equal ones merged if the method says so. The nodes' own branches are
        closed: what they hold lives on in their children. Of a whole sample only the last step is returned."""
        parents: list[Node] = []
        branches: list[TracedBranch] = []
        for node, count in zip(nodes, counts, strict=True):
            assert node.branch is not None
            self._behind = is_behind(self._ctx.tokenizer, node.branch, node.branch.length - node.trajectory_tokens)
            branches += await node.branch.fork_many(count)
            parents += [node] * count
            node.branch.close()
            node.branch = None
        above = {branch.id: node for branch, node in zip(branches, parents, strict=True)}

        async def write(part: Context, branch: TracedBranch) -> _Written:
            return await (self._decode if self._method.generator is None else self._run)(part, branch, above[branch.id])

        written = await self._ctx.parallel(write, branches, reserve=self._reserve)
        children: dict[object, Node] = {}
        for parent, branch, step in zip(parents, branches, written, strict=True):
            assert step is not None
            key = (step.parent, step.token_ids, step.text, step.finish) if self._method.merge else branch.id
            if (twin := children.get(key)) is not None and twin.branch is not None:
                twin.copies += 1
                branch.prune(f"the same as {twin.branch.id}")
            else:
                children[key] = self._child(branch, step, parent.group)
        return list(children.values())

    def _limit(self, node: Node) -> int:
        """Tokens that may be written behind a node."""
        method = self._method
        left = method.limit - node.trajectory_tokens
        return min(left, method.step_tokens) if method.strategy.steps else left

    async def _decode(self, _part: Context, branch: TracedBranch, parent: Node) -> _Written:
        method, start = self._method, branch.length - parent.trajectory_tokens
        ends = method.delimiters if method.strategy.steps else ()
        params = method.sampling(
            self._ctx,
            max_tokens=self._limit(parent),
            constrained=branch.tokens[start:] if method.constraint else (),
            stop=(*ends, *self._stops),
            include_stop=True,
            hidden_state=self._wants_hidden,
            certainty=method.reward.uses_certainty,
        )
        result = await branch.generate(params)
        is_complete = result.finish is Finish.EOS or (result.finish is Finish.STOP and result.stop not in ends)
        certainty = math.nan if result.certainty is None else result.certainty
        trajectory = branch.tokens[start : branch.length - isinstance(result.stop, int)]
        text = self._text(parent, trajectory, is_complete)
        tokens = tuple(branch.tokens[start + parent.trajectory_tokens :])
        step = _Written(parent, text, tokens, result.finish, is_complete, result.hidden_state, certainty)
        return await self._cut(branch, step, trajectory, ends)

    def _text(self, parent: Node, trajectory: Sequence[int], is_complete: bool) -> str:
        """What a step adds to the texts above it: all that the tokens spell, what stands behind a delimiter in the last
        one too. Bytes that are no whole character yet are left to the step that completes it."""
        text = self._spell(trajectory)
        return (text if is_complete else text.rstrip(REPLACEMENT))[len(parent.trajectory_text) :]

    def _spell(self, trajectory: Sequence[int]) -> str:
        return decode_behind(self._ctx.tokenizer, trajectory, behind=self._behind)

    async def _run(self, part: Context, branch: TracedBranch, parent: Node) -> _Written:
        """Let the generator write the step, and put it into the branch."""
        method, tokenizer = self._method, self._ctx.tokenizer
        assert method.generator is not None
        outcome = await go_on(part, method.generator, branch)
        is_complete, text = outcome.finish is Finish.EOS, outcome.text
        delimiter = "" if is_complete or text.endswith(tuple(method.delimiters)) else method.delimiters[0]
        start = branch.length - parent.trajectory_tokens
        tokens = tokenizer.encode_continuation(branch.tokens, text + delimiter)
        end = len(self._spell([*branch.tokens[start:], *tokens])) - len(delimiter)
        room, finish = min(self._limit(parent), branch.room), outcome.finish
        if len(tokens) > room:
            tokens, finish, is_complete = tokens[:room], Finish.LENGTH, False
        branch.extend(tokens)
        hidden = None
        if self._wants_hidden and tokens:
            hidden = await self._hidden_state(branch)
        trajectory = branch.tokens[start:]
        text = self._text(parent, trajectory, is_complete)
        step = _Written(parent, text, tuple(tokens), finish, is_complete, hidden)
        return await self._cut(branch, step, trajectory, (), end)

    @staticmethod
    async def _hidden_state(branch: TracedBranch) -> list[float] | None:
        """At the end of what stands in a branch."""
        return (await branch.generate(SamplingParams(max_tokens=0, hidden_state=True))).hidden_state

    async def _cut(
        self,
        branch: TracedBranch,
        step: _Written,
        trajectory: Sequence[int],
        ends: Sequence[str],
        end: int | None = None,
    ) -> _Written:
        """The step up to where a stop string of the method, or a delimiter of `ends` that began in a step above, is
        complete first: the engine looks for them in the text of one call. A stop string goes with all that stands
        behind its beginning, off the steps above too; `trajectory` has the tokens of all of them. Behind `end` stands
        what nobody wrote. A step that ends its trajectory stays whole, whatever delimiters it has."""
        above, certainty, tokenizer = step.parent, step.certainty, self._ctx.tokenizer
        is_cut = above.finish is Finish.LENGTH
        if not self._stops and not is_cut:
            return step
        before = above.trajectory_text
        looked_at, begun = len(before), len(_uncut(above).trajectory_text)
        inside = looked_at + is_cut  # A character that was cut in two began there as well.

        def first(text: str, stops: Sequence[str], start: int) -> tuple[str, int] | None:
            """Of what ends in this step."""
            ones = [find_stop(text, [stop], max(start, looked_at + 1 - len(stop))) for stop in stops]
            return min((one for one in ones if one is not None), key=lambda one: one[::-1], default=None)

        def found(text: str) -> list[tuple[str, int]]:
            stop, delimiter = first(text[:end], self._stops, 0), first(text, () if step.is_complete else ends, begun)
            if delimiter is not None and delimiter[1] >= inside:
                delimiter = None
            return [one for one in (stop, delimiter) if one is not None]

        def spelt(count: int) -> str:
            return self._spell(trajectory[:count])

        if not (matches := found(before + step.text)):
            return step
        count = len(trajectory)
        # Where the engine stopped it had looked at every token for what begins in this step.
        if step.finish is not Finish.STOP or any(at < inside for _, at in matches):
            count = bisect_left(range(count), True, above.trajectory_tokens, key=lambda n: bool(found(spelt(n))))
            matches = found(spelt(count))
        stop, at = matches[0]
        start = branch.length - len(step.token_ids) - above.trajectory_tokens
        if stop in ends:
            text = self._text(above, trajectory[:count], False)
        else:
            text = spelt(count)[:at]
            count, _ = cut(trajectory, text, "", tokenizer, behind=self._behind)
            while above.parent is not None and len(above.trajectory_text) > at:
                certainty, above = above.certainty, above.parent
            count = max(count, above.trajectory_tokens)
            text = text[len(above.trajectory_text) :]
        branch.rewind(start + count)
        hidden = step.hidden_state
        if self._wants_hidden and stop in ends and count < len(trajectory):
            hidden = await self._hidden_state(branch)
        return replace(
            step,
            parent=above,
            text=text,
            token_ids=tuple(trajectory[above.trajectory_tokens : count]),
            finish=Finish.STOP,
            is_complete=stop not in ends,
            hidden_state=hidden,
            # Of a step that was cut it is that of all its tokens: the engine tells their mean only.
            certainty=certainty,
        )

    def _child(self, branch: TracedBranch, written: _Written, group: int | None) -> Node:
        """The node of a step; for a whole sample one node per step, of which the last one has the branch."""
        texts = [written.text] if self._method.strategy.steps else self._split(written.text)
        parent = above = written.parent
        for text in texts[:-1]:
            parent = Node(parent=parent, text=text, group=group, certainty=written.certainty)
        node = Node(
            parent=parent,
            text=texts[-1],
            num_tokens=len(written.token_ids),
            blocks=max(1, -(-len(written.token_ids) // self._block_size)),
            group=group,
            embedding=written.hidden_state,
            certainty=written.certainty,
            branch=branch,
            finish=written.finish,
            is_complete=written.is_complete,
        )
        node.is_complete = node.is_complete or self._is_finished(node, above, written.text)
        return node

    def _is_finished(self, node: Node, above: Node, text: str) -> bool:
        """Does the method's rule find that the text of a new node, written behind `above`, ends its trajectory? A step
        that was cut goes on in the next one where there can be one, and is looked through with it."""
        if node.finish is Finish.LENGTH and not is_last(self._method, node):
            return False
        return self._method.finishes(above.trajectory_text[len(_uncut(above).trajectory_text) :] + text)

    def _split(self, text: str) -> list[str]:
        """The steps of a text, delimiters at their ends."""
        ends = "|".join(map(re.escape, self._method.delimiters))
        steps = re.findall(rf"(?s:.*?)(?:{ends})|(?s:.+)$", text)
        return [step for step in steps if step] or [text]
