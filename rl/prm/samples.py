"""`StepSample`: a sequence of tokens with verdicts at the ends of steps, as the frame of a format has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...runtime.tokenizer import Tokenizer
from ...search.rewards.frames import Frame
from ..samples import IGNORED
from .trajectories import Trajectory


@dataclass(slots=True, eq=False)
class StepSample:
    """One sequence."""

    tokens: list[int]
    verdicts: dict[int, bool] = field(default_factory=dict)
    """Place of the token at which a step is judged -> is it good?"""

    def __len__(self) -> int:
        return len(self.tokens)

    def __bytes__(self) -> bytes:
        """All of it: two samples differ where these do."""
        return repr((self.tokens, self.verdicts)).encode()

    def cut(self, length: int) -> StepSample:
        """As far as the last verdict within `length` tokens: one of several trajectories that share steps has their
        verdicts, and may be longer than the others."""
        if length >= len(self):
            return self
        verdicts = {place: is_good for place, is_good in self.verdicts.items() if place < length}
        return StepSample(self.tokens[: max(verdicts, default=-1) + 1], verdicts)


Places = Callable[[Sequence[StepSample], int], dict[str, Tensor]]
"""A batch, given the token to pad with."""


def step_samples(frame: Frame, tokenizer: Tokenizer, trajectory: Trajectory) -> list[StepSample]:
    """The sequences that judge a trajectory: one, as far as the text up to a step begins that up to the next one.

    Raises `InvalidInput` for a chat that the model's template refuses.
    """
    found: list[StepSample] = []
    tokens = frame.head(tokenizer, trajectory.prompt)
    last = len(trajectory.steps) - 1
    for number, label in enumerate(trajectory.labels):
        is_complete = trajectory.is_complete and number == last
        before, steps = tokens, trajectory.steps[: number + 1]
        tokens = frame.tokens(tokenizer, before, trajectory.prompt, steps, is_complete)
        if found and tokens[: len(found[-1])] == found[-1].tokens:
            found[-1].tokens = tokens
        else:
            found.append(StepSample(tokens))
        if label is not None:
            found[-1].verdicts[len(tokens) - 1] = label
    return [sample for sample in found if sample.verdicts]


def collate(labels: tuple[int, int]) -> Places:
    """Batches padded behind: `input_ids` and `attention_mask` (B, L), and `labels`, the same as `shift_labels`, whose
    entries at a judged place are those of (bad, good)."""

    def batch_of(samples: Sequence[StepSample], pad: int) -> dict[str, Tensor]:
        shape = (len(samples), max(map(len, samples)))
        ids, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.int64)
        told = torch.full(shape, IGNORED)
        for i, sample in enumerate(samples):
            ids[i, : len(sample)] = torch.tensor(sample.tokens)
            mask[i, : len(sample)] = 1
            for place, is_good in sample.verdicts.items():
                told[i, place] = labels[is_good]
        return {"input_ids": ids, "attention_mask": mask, "labels": told, "shift_labels": told}

    return batch_of


def count(samples: Iterable[StepSample]) -> tuple[int, int]:
    """(Verdicts, good ones)."""
    told = [verdict for sample in samples for verdict in sample.verdicts.values()]
    return len(told), sum(told)
