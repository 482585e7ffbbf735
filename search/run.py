"""`SearchRun`: the frame that all strategies share, level by level."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from ..runtime.engine import SamplingParams
from ..runtime.jobs.context import Context
from ..runtime.jobs.state import cut_off
from ..runtime.methods.answers import extract
from ..runtime.result import Finish, Outcome
from .aggregation import Trajectory, choose
from .embeddings import HIDDEN, embed
from .expansion import Expansion, is_last
from .fields import SearchFields
from .node import Frontier, Node, ancestors
from .rewards import Scorer, ask
from .strategies import Strategy, select

GRACE = 0.1
"""Scoring what was written before the deadline may take this share of the budget's seconds behind it."""
_CONTINUES = (Finish.STOP, Finish.LENGTH)
"""How a step ends that others can follow."""


class SearchRun:
    """One run of a `TreeSearch`."""

    def __init__(self, method: SearchFields, ctx: Context, scorer: Scorer) -> None:
        self._method = method
        self._ctx = ctx
        self._scorer = scorer
        self._budget = method.width
        self._finished: list[Node] = []
        self._unfinished: list[Node] = []
        """Cut off before their end; while they could be concluded they have a branch."""
        self._unscored: list[Node] = []
        """Written, but not scored: they have no vote, and are the text that there is if nothing else is. Those that are
        whole and were late for their score come before what was cut off; those that were refused give no answer."""
        state = ctx.state
        self._deadline = state.deadline
        self._scored_until = None if state.deadline is None else state.deadline + GRACE * (state.budget.seconds or 0.0)
        self._levels: list[dict[str, Any]] = []

    async def run(self, prompt: list[int]) -> Outcome:
        """Search from a prompt to the answer."""
        method, ctx = self._method, self._ctx
        root = Node(branch=method.open(ctx, prompt), score=1.0)
        assert root.branch is not None
        with ctx.phase("prefill"):
            await root.branch.generate(SamplingParams(max_tokens=0))
        expansion = Expansion(method, ctx)
        nodes, counts = [root], [method.width]
        # One thread for the solver and for sentence models: other jobs of the event loop go on meanwhile.
        executor = ThreadPoolExecutor(1, thread_name_prefix="plait-search")
        try:
            while nodes and self._budget > 0 and not ctx.is_late:
                with ctx.phase("steps"):
                    children = await expansion.grow(nodes, counts)
                with ctx.phase("score"):
                    children = await self._score(children)
                self._scorer.release(nodes)
                self._note_level(children)
                nodes = [child for child in children if not self._has_ended(child)]
                if nodes and self._budget > 0:
                    with ctx.phase("select"):
                        async with cut_off(self._deadline):
                            nodes, counts = await self._select(nodes, executor)
        finally:
            # A search that is cancelled waits for nobody: the event loop would stand still meanwhile.
            executor.shutdown(wait=False, cancel_futures=True)
        if ctx.is_late:
            for node in nodes:
                node.finish = Finish.DEADLINE
        self._unfinished += nodes
        return await self._outcome()

    # -- scores ------------------------------------------------------------------------------------------------

    async def _score(self, children: Sequence[Node]) -> list[Node]:
        """Score what was written; returns the children that have a score, as has every step above them. Steps of whole
        samples go one by one."""
        waiting = []
        for child in children:
            if child.num_tokens or child.is_complete:
                waiting.append([step for step in child.path if math.isnan(step.score)])
            elif child.parent is not None:  # nothing was written: the budget is over
                child.score = child.parent.score
        while batch := [path.pop(0) for path in waiting if path]:
            await self._ask(batch)
            if missing := [node for node in batch if math.isnan(node.score)]:
                await self._ask(missing)
        scored = []
        for child in children:
            assert child.branch is not None
            if any(math.isnan(step.score) for step in child.path):
                child.branch.prune("no score")
                self._scorer.release([child])
                self._ctx.count("unscored_steps")
                child.score = next((s.score for s in reversed(child.path) if not math.isnan(s.score)), 0.0)
                child.branch = None
                child.finish = Finish.DEADLINE if self._is_over else Finish.FAILED
                self._unscored.append(child)
            else:
                child.branch.score(child.score)
                scored.append(child)
        return scored

    async def _ask(self, nodes: Sequence[Node]) -> None:
        """Put the scores that can be had in time into the nodes."""
        reward, scorer = self._method.reward, self._scorer
        scorer.release(nodes)
        for part in [[node] for node in nodes] if getattr(scorer, "one_by_one", False) else [nodes]:
            if self._is_over:
                return
            async with cut_off(self._scored_until):
                for node, score in zip(part, await ask(reward, scorer, part), strict=True):
                    node.score = score

    @property
    def _is_over(self) -> bool:
        """Is it too late to score anything?"""
        until = self._scored_until
        return until is not None and asyncio.get_running_loop().time() >= until

    def _has_ended(self, node: Node) -> bool:
        """Can nothing follow the node? Then it takes its part of the width."""
        method = self._method
        assert node.branch is not None
        is_cut = node.finish not in _CONTINUES or not node.num_tokens or is_last(method, node)
        if not node.is_complete and node.trajectory_tokens >= method.limit:
            method.note_bound(self._ctx)
        if not (node.is_complete or is_cut):
            return False
        self._budget -= node.copies
        self._scorer.release(node.path)
        (self._finished if node.is_complete else self._unfinished).append(node)
        if node.is_complete or method.conclusion is None:
            node.branch.close()
            node.branch = None
        return True

    # -- the choice --------------------------------------------------------------------------------------------

    async def _select(self, nodes: Sequence[Node], executor: Executor) -> tuple[list[Node], list[int]]:
        """The nodes to continue, and how often; prunes the others."""
        strategy: Strategy = self._method.strategy
        start = time.perf_counter()
        if strategy.uses_embeddings and len({node.text for node in nodes}) > 1:
            await embed(self._method.step_embedding, nodes, executor)
        embedded = time.perf_counter()
        frontier = Frontier(
            nodes=nodes,
            budget=self._budget,
            width=self._method.width,
            is_hidden=self._method.step_embedding == HIDDEN,
        )
        selection = await asyncio.get_running_loop().run_in_executor(executor, select, strategy, frontier)
        kept: list[Node] = []
        counts: list[int] = []
        for node, count in zip(nodes, selection.counts, strict=True):
            if count > 0:
                kept.append(node)
                counts.append(count)
                continue
            assert node.branch is not None
            node.branch.prune(f"{strategy.strategy}: no continuation")
            node.branch = None
            self._scorer.release([node])
        self._levels[-1] |= {
            "candidates": len(nodes),
            "expanded": len(kept),
            "embed_seconds": embedded - start,
            "select_seconds": time.perf_counter() - embedded,
            **selection.notes,
        }
        return kept, counts

    # -- the end -----------------------------------------------------------------------------------------------

    async def _outcome(self) -> Outcome:
        method, ctx = self._method, self._ctx
        trajectories = {
            Trajectory(
                text=node.trajectory_text,
                answer=extract(method.answer, node.trajectory_text),
                scores=tuple(step.score for step in node.path),
                copies=node.copies,
            ): node
            for node in self._finished
        }
        voters = list(trajectories)
        (winner, votes), notes = await method.settle(
            [voter.answer for voter in voters], lambda equal: choose(voters, method.vote, method.aggregate, equal)
        )
        held = [level["kv_blocks"] for level in self._levels] or [0]
        details: dict[str, Any] = {
            "votes": votes,
            "finished": sum(node.copies for node in self._finished),
            "unfinished": sum(node.copies for node in (*self._unfinished, *self._unscored)),
            "levels": self._levels,
            "kv_blocks": {"mean": sum(held) / len(held), "peak": max(held)},
            "reward": self._scorer.statistics,
            **notes,
        }
        if winner is not None:
            finish = trajectories[winner].finish or Finish.EOS
            return Outcome(text=winner.text, answer=winner.answer, finish=finish, details=details)
        whole = [node for node in self._unscored if node.is_complete]
        late = [node for node in whole if node.finish is Finish.DEADLINE]
        left = [*self._finished, *self._unfinished, *late] or whole or self._unscored
        # Before the deadline one that was cut off may still be concluded; behind it nothing goes before what is whole.
        is_late = ctx.is_late
        best = max(left, key=lambda node: (is_late and node.is_complete, node.score), default=None)
        if best is None:
            return Outcome(text="", answer=None, finish=Finish.FAILED, details=details)
        text, finish = await self._conclude(best)
        is_refused = best in self._unscored and best.finish is Finish.FAILED
        answer = None if is_refused else extract(method.answer, text)
        return Outcome(text=text, answer=answer, finish=finish, details=details)

    async def _conclude(self, node: Node) -> tuple[str, Finish]:
        """Make a trajectory without an answer give one, if the method says how and there is room."""
        method, ctx = self._method, self._ctx
        text, finish = node.trajectory_text, node.finish or Finish.LENGTH
        if method.conclusion is None or node.branch is None or ctx.is_late:
            return text, finish
        forced = ctx.tokenizer.encode_continuation(node.branch.tokens, method.conclusion)
        if node.branch.room <= len(forced):
            return text, finish
        node.branch.extend(forced)
        result = await node.branch.generate(method.sampling(ctx, max_tokens=method.conclusion_tokens))
        ctx.count("concluded")
        return text + method.conclusion + result.text, result.finish

    def _note_level(self, children: Sequence[Node]) -> None:
        """What the tree holds while all children of the level are there."""
        above = ancestors(children)
        self._levels.append(
            {
                "nodes": len(children),
                "samples": sum(child.copies for child in children),
                "ancestors": len(above),
                "step_tokens": sum(node.num_tokens for node in (*children, *above)),
                "kv_blocks": self._ctx.state.engine.block_usage(self._ctx.state.job).used,
            }
        )
