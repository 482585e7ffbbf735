"""How well a model judges steps that are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .samples import Places, StepSample

BATCH = 16
"""Sequences at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Of held-out steps."""

    steps: int
    good: float
    """Share of the steps that are."""
    accuracy: float
    """Share of the steps judged right at 0.5."""
    auc: float | None
    """Chance that a good step scores above a bad one; None: all are of one kind."""
    loss: float
    """Mean negative log-likelihood of the verdicts, in nats."""

    def row(self) -> dict[str, float | int | None]:
        """As JSON."""
        return asdict(self)


def scores(
    model: Any, samples: Sequence[StepSample], rows: tuple[int, int], batch_of: Places, pad: int
) -> Iterator[tuple[float, bool]]:
    """(Score, is it good?) of every judged step. `rows`: the logits of bad and good."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    order = sorted(range(len(samples)), key=lambda i: len(samples[i]))
    for at in range(0, len(order), BATCH):
        some = [samples[i] for i in order[at : at + BATCH]]
        batch = batch_of(some, pad)
        with torch.inference_mode():
            ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            logits = model(input_ids=ids, attention_mask=mask).logits
            said = logits[..., list(rows)].float().softmax(-1)[..., 1].cpu()
        for i, sample in enumerate(some):
            yield from ((float(said[i, place]), is_good) for place, is_good in sample.verdicts.items())
    model.train(was_training)


def judge(found: Sequence[tuple[float, bool]]) -> Verdicts:
    """What scores are worth."""
    said = np.array([score for score, _ in found], dtype=np.float64)
    good = np.array([is_good for _, is_good in found], dtype=np.bool_)
    likely = np.clip(np.where(good, said, 1 - said), 1e-12, 1)
    return Verdicts(
        steps=len(found),
        good=round(float(good.mean()), 4),
        accuracy=round(float(((said > 0.5) == good).mean()), 4),
        auc=_auc(said, good),
        loss=round(float(-np.log(likely).mean()), 4),
    )


def _auc(said: NDArray[np.float64], good: NDArray[np.bool_]) -> float | None:
    if good.all() or not good.any():
        return None
    from scipy.stats import mannwhitneyu

    statistic = float(mannwhitneyu(said[good], said[~good]).statistic)
    return round(statistic / (int(good.sum()) * int((~good).sum())), 4)
