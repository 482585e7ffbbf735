"""`Evaluation`: a grid and how far it is; the runner works on it, the report shows it."""

from __future__ import annotations

from collections.abc import Iterator

from .benchmark import Sample
from .config import EvalConfig, MethodConfig
from .rows import Key
from .store import Store


class Evaluation:
    """A grid on its way; `store.units` is what is done."""

    def __init__(self, config: EvalConfig, store: Store, samples: list[Sample]) -> None:
        self.config = config
        self.store = store
        self.samples = samples
        self.windows: list[int | None] = sorted(config.windows, reverse=True) or [None]  # type: ignore[assignment]
        self._places = {sample.id: place for place, sample in enumerate(samples)}

    def place(self, sample: str) -> int:
        """Index of the problem with this id."""
        return self._places[sample]

    def entries(self) -> Iterator[tuple[Key, MethodConfig, Sample]]:
        """The whole grid; problem by problem, so that what is there so far compares all methods."""
        for sample in self.samples:
            for budget in range(len(self.config.budgets)):
                for method in self.config.methods:
                    for attempt in range(method.attempts):
                        key = Key(method=method.name, budget=budget, sample=sample.id, attempt=attempt)
                        yield key, method, sample
