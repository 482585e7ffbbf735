"""`Evaluation`: a grid and how far it is; the runner works on it, the report shows it."""

from __future__ import annotations

from collections.abc import Iterator

from ..runtime.errors import InvalidInput
from .benchmark import Answered, Sample
from .config import EvalConfig, MethodConfig
from .rows import Key
from .store import Store


class Evaluation:
    """A grid on its way; `store.units` is what is done."""

    def __init__(self, config: EvalConfig, store: Store, samples: list[Sample]) -> None:
        """Raises `InvalidInput` for results of other windows."""
        self.config = config
        self.store = store
        self.samples = samples
        self.windows: list[int | None] = sorted(config.windows, reverse=True) or [None]  # type: ignore[assignment]
        for key, unit in store.units.items():
            if (found := [row.window for row in unit.rows]) != self.windows:
                raise InvalidInput(
                    f"{store.folder}: the result of {key} is of the windows {found}, not {self.windows}: it is damaged"
                )
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

    def answers(self) -> Iterator[Answered]:
        """What was judged, in the grid's order."""
        names = ("budget", "window", "attempt")
        for key, method, sample in self.entries():
            counts = (len(self.config.budgets), len(self.windows), method.attempts)
            unit = self.store.units.get(key)
            for row in () if unit is None else unit.rows:
                if row.error is None:
                    places = (key.budget, row.window, key.attempt)
                    place = " ".join(
                        f"{n} {at}" for n, at, count in zip(names, places, counts, strict=True) if count > 1
                    )
                    yield Answered(
                        sample=sample.id,
                        method=method.name,
                        place=place,
                        model=self.store.settings["model"],
                        answer=row.extracted,
                    )
