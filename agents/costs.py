"""What the stages of a job cost, as a provider would bill it: tokens read anew, read before, and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from ..runtime.price import Price
from .folder import Folder


class StageCost(BaseModel):
    """Tokens of all calls of one stage. A call reads its whole conversation: `cached` is what was read before, by an
    earlier call of the conversation or by the one it was forked from."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    model: str
    calls: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    seconds: float = 0.0
    """Wall time from the stage's beginning to its end; stages may overlap."""
    _counted_at: float | None = PrivateAttr(default=None)
    """Until when `seconds` are counted, while the clock runs."""

    def at(self, price: Price) -> float:
        return price.of(input=self.input, cached=self.cached, output=self.output)

    def save(self, folder: Folder) -> None:
        """For `Costs.load`."""
        if self._counted_at is not None:
            now = perf_counter()
            self.seconds += now - self._counted_at
            self._counted_at = now
        folder.write(f"costs/{self.stage}", self.model_dump())


@dataclass(slots=True, kw_only=True)
class Costs:
    """The book of one job: of all its runs, if it has a folder."""

    prices: Mapping[str, Price]
    """By model, or by stage."""
    folder: Folder = field(default_factory=lambda: Folder(None))
    stages: dict[str, StageCost] = field(default_factory=dict)

    def load(self, names: Iterable[str]) -> None:
        """Go on with what earlier runs saved of these stages. Raises `InvalidInput` if it is damaged."""
        for name in names:
            kept = self.folder.read_as(StageCost, f"costs/{name}")
            if kept is not None:
                self.stages[name] = kept

    @contextmanager
    def stage(self, name: str, model: str) -> Iterator[StageCost]:
        """The stage's account, its clock running inside; it is saved in the end."""
        account = self.stages.setdefault(name, StageCost(stage=name, model=model))
        account._counted_at = perf_counter()
        try:
            yield account
        finally:
            account.save(self.folder)
            account._counted_at = None

    def to_json(self) -> dict[str, Any]:
        """The stages, their sum, and money where all prices are known."""
        found: dict[str, Any] = {"stages": {}}
        total: float | None = 0.0
        for name, stage in self.stages.items():
            price = self.prices.get(name, self.prices.get(stage.model))
            money = None if price is None else stage.at(price)
            total = None if money is None or total is None else total + money
            row = stage.model_dump(exclude={"stage"}) | {"seconds": round(stage.seconds, 3)}
            found["stages"][name] = row if money is None else {**row, "price": money}
        for name in ("calls", "input", "cached", "output"):
            found[name] = sum(getattr(stage, name) for stage in self.stages.values())
        return found if total is None or not self.stages else {**found, "price": total}
