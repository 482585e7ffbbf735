"""`SelfCertainty`: steps are as good as the policy was certain of them, by its own distributions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import ClassVar, Literal

from ...runtime.engine import Engine
from ...runtime.errors import UnsupportedByEngine
from ...runtime.jobs.context import Context
from ..node import Node
from .base import Reward, Scorer


class SelfCertainty(Reward):
    """KL(uniform || p) of the distributions that the policy drew its tokens from, averaged over the tokens (Kang et al.
    2025, arXiv 2502.18581, section 3). Needs no other model, and costs nothing."""

    uses_certainty: ClassVar[bool] = True

    reward: Literal["self_certainty"] = "self_certainty"
    """The kind's name."""
    over: Literal["trajectory", "step"] = "trajectory"
    """Whose tokens: all of the trajectory up to the end of the step, or the step's own."""
    scale: Literal["level", "nats"] = "level"
    """`level`: how it compares with the steps that are scored together, as the sigmoid of its distance from their mean
    in standard deviations, which lies between 0 and 1 as the scores of reward models do; `nats`: as it is, for
    strategies and votes that are set for that."""

    def check(self, engine: Engine) -> None:
        if not engine.capabilities.certainty:
            raise UnsupportedByEngine(
                f"engine {engine.name} does not tell how certain it is of its tokens, by which the reward "
                "'self_certainty' judges: use the native engine, or the reward 'judge', 'prm:MODEL' or a function"
            )

    async def open(self, ctx: Context, question: str) -> Scorer:
        return CertaintyScorer(self.over, self.scale)


class CertaintyScorer:
    """See `base.Scorer`."""

    def __init__(self, over: str, scale: str) -> None:
        self._over = over
        self._scale = scale
        self._scored = 0

    async def score(self, nodes: Sequence[Node]) -> list[float]:
        self._scored += len(nodes)
        raw = [self._certainty(node) for node in nodes]
        if self._scale == "nats":
            return raw
        known = [(x, node.copies) for x, node in zip(raw, nodes, strict=True) if math.isfinite(x)]
        values = [x for x, copies in known for _ in range(copies)]
        mean = statistics.fmean(values) if values else 0.0
        spread = statistics.pstdev(values, mean) if values else 0.0
        # The steps of a whole sample all have the sample's score: they are scored one by one, each time with fewer.
        return [
            node.parent.score if _is_in_sample(node) and node.parent is not None else _squash(x, mean, spread)
            for x, node in zip(raw, nodes, strict=True)
        ]

    def _certainty(self, node: Node) -> float:
        if self._over == "step" or not node.num_tokens:
            return node.certainty
        steps = [step for step in node.path if step.num_tokens]
        return math.fsum(step.certainty * step.num_tokens for step in steps) / sum(step.num_tokens for step in steps)

    def release(self, nodes: Sequence[Node]) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def statistics(self) -> dict[str, float | int]:
        return {"scored": self._scored}


def _is_in_sample(node: Node) -> bool:
    """Is the step behind another one of the same whole sample?"""
    return node.parent is not None and node.parent.parent is not None and not node.parent.num_tokens


def _squash(value: float, mean: float, spread: float) -> float:
    """The sigmoid of the standard score; one half where all are alike; NaN for what is not finite."""
    if not math.isfinite(value):
        return math.nan
    return 1 / (1 + math.exp(-(value - mean) / spread)) if spread > 1e-9 else 0.5
