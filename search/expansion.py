"""`Expansion`: from a choice of nodes to their children, written by the policy side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.engine import SamplingParams
from ..runtime.engines.text_stream import REPLACEMENT
from ..runtime.engines.token_decoding import find_stop
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

    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    is_complete: bool
    hidden_state: list[float] | None
    certainty: float = math.nan


def is_last(method: SearchFields, node: Node) -> bool:
    """Do the method's bounds allow no step behind a node?"""
    return not method.strategy.steps or node.depth >= method.max_depth or node.trajectory_tokens >= method.limit


class Expansion:
    """Writes steps, or whole samples for strategies without steps."""

    def __init__(self, method: SearchFields, ctx: Context) -> None:
        self._method = method
        self._ctx = ctx
        self._wants_hidden = method.strategy.uses_embeddings and method.step_embedding == HIDDEN
        self._block_size = ctx.engine.block_usage().block_size
        forced = ctx.tokenizer.encode_continuation((), method.conclusion or "")
        self._reserve = len(forced) + method.conclusion_tokens if forced else 0

    async def grow(self, nodes: Sequence[Node], counts: Sequence[int]) -> list[Node]:
        """`counts[i]` continuations of each node, equal ones merged if the method says so. The nodes' own branches are
        closed: what they hold lives on in their children. Of a whole sample only the last step is returned."""
        parents: list[Node] = []
        branches: list[TracedBranch] = []
        for node, count in zip(nodes, counts, strict=True):
            assert node.branch is not None
            branches += node.branch.fork(count)
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
            key = (parent, step.token_ids, step.text, step.finish) if self._method.merge else branch.id
            if (twin := children.get(key)) is not None and twin.branch is not None:
                twin.copies += 1
                branch.prune(f"the same as {twin.branch.id}")
            else:
                children[key] = self._child(parent, branch, step)
        return list(children.values())

    def _limit(self, node: Node) -> int:
        """Tokens that may be written behind a node."""
        method = self._method
        left = method.limit - node.trajectory_tokens
        return min(left, method.step_tokens) if method.strategy.steps else left

    async def _decode(self, _part: Context, branch: TracedBranch, parent: Node) -> _Written:
        method, start = self._method, branch.length - parent.trajectory_tokens
        ends = method.delimiters if method.strategy.steps else ()
        stops = [stop for stop in method.stop if stop not in ends]
        params = method.sampling(
            self._ctx,
            max_tokens=self._limit(parent),
            constrained=branch.tokens[start:] if method.constraint else (),
            stop=(*ends, *stops),
            include_stop=True,
            hidden_state=self._wants_hidden,
            certainty=method.reward.uses_certainty,
        )
        result = await branch.generate(params)
        is_complete = result.finish is Finish.EOS or (result.finish is Finish.STOP and result.stop not in ends)
        certainty = math.nan if result.certainty is None else result.certainty
        trajectory = branch.tokens[start : branch.length - isinstance(result.stop, int)]
        text = self._text(parent, trajectory, is_complete)
        # One may stand behind a delimiter in its token.
        if isinstance(result.stop, str) and (found := find_stop(text, stops)):
            is_complete, text = True, text[: found[1]]
            kept, _ = cut(trajectory, parent.trajectory_text + text, "", self._ctx.tokenizer)
            branch.rewind(start + max(kept, parent.trajectory_tokens))
        tokens = tuple(branch.tokens[start + parent.trajectory_tokens :])
        return _Written(text, tokens, result.finish, is_complete, result.hidden_state, certainty)

    def _text(self, parent: Node, trajectory: Sequence[int], is_complete: bool) -> str:
        """What a step adds to the texts above it: all that the tokens spell, what stands behind a delimiter in the last
        one too. Bytes that are no whole character yet are left to the step that completes it."""
        text = self._ctx.tokenizer.decode(trajectory)
        return (text if is_complete else text.rstrip(REPLACEMENT))[len(parent.trajectory_text) :]

    async def _run(self, part: Context, branch: TracedBranch, parent: Node) -> _Written:
        """Let the generator write the step, and put it into the branch."""
        method, tokenizer = self._method, self._ctx.tokenizer
        assert method.generator is not None
        outcome = await go_on(part, method.generator, branch)
        is_complete, text = outcome.finish is Finish.EOS, outcome.text
        if not is_complete and not text.endswith(method.delimiters):
            text += method.delimiters[0]
        start = branch.length - parent.trajectory_tokens
        tokens = tokenizer.encode_continuation(branch.tokens, text)
        room, finish = min(self._limit(parent), branch.room), outcome.finish
        if len(tokens) > room:
            tokens, finish, is_complete = tokens[:room], Finish.LENGTH, False
        branch.extend(tokens)
        hidden = None
        if self._wants_hidden and tokens:
            hidden = (await branch.generate(SamplingParams(max_tokens=0, hidden_state=True))).hidden_state
        return _Written(
            self._text(parent, branch.tokens[start:], is_complete), tuple(tokens), finish, is_complete, hidden
        )

    def _child(self, parent: Node, branch: TracedBranch, written: _Written) -> Node:
        """The node of a step; for a whole sample one node per step, of which the last one has the branch."""
        texts = [written.text] if self._method.strategy.steps else self._split(written.text)
        above = parent
        for text in texts[:-1]:
            parent = Node(parent=parent, text=text, group=parent.group, certainty=written.certainty)
        node = Node(
            parent=parent,
            text=texts[-1],
            num_tokens=len(written.token_ids),
            blocks=max(1, -(-len(written.token_ids) // self._block_size)),
            group=parent.group,
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
        while above.parent is not None and above.finish is Finish.LENGTH:
            text, above = above.text + text, above.parent
        return self._method.finishes(text)

    def _split(self, text: str) -> list[str]:
        """The steps of a text, delimiters at their ends."""
        ends = "|".join(map(re.escape, self._method.delimiters))
        steps = re.findall(rf"(?s:.*?)(?:{ends})|(?s:.+)$", text)
        return [step for step in steps if step] or [text]
