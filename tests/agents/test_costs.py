"""What stages cost: sums by hand."""

from __future__ import annotations

import pytest

from plait.agents.costs import Costs
from plait.agents.folder import Folder
from plait.runtime.price import Price


def test_money_is_the_sum_of_tokens_by_price():
    costs = Costs(prices={"big": Price(input=3, output=15, cached=0.3), "ranking": Price(input=1, output=2)})
    with costs.stage("edits", "big") as stage:
        stage.calls, stage.input, stage.cached, stage.output = 2, 1_000_000, 2_000_000, 100_000
    with costs.stage("ranking", "big") as stage:
        stage.calls, stage.input, stage.cached, stage.output = 1, 500_000, 500_000, 0
    found = costs.to_json()
    assert found["stages"]["edits"]["price"] == pytest.approx(3 + 0.6 + 1.5)
    assert found["stages"]["ranking"]["price"] == pytest.approx(1.0), "the stage's own price goes before its model's"
    assert found["price"] == pytest.approx(6.1)
    assert (found["calls"], found["input"], found["cached"], found["output"]) == (3, 1_500_000, 2_500_000, 100_000)


def test_without_all_prices_there_is_no_sum_of_money():
    costs = Costs(prices={"big": Price(input=1, output=1)})
    with costs.stage("edits", "big"), costs.stage("tests", "small"):
        pass
    assert "price" not in costs.to_json() and "price" in costs.to_json()["stages"]["edits"]


def test_a_stage_that_is_entered_again_goes_on():
    costs = Costs(prices={})
    for _ in range(2):
        with costs.stage("edits", "m") as stage:
            stage.calls += 1
    assert costs.to_json()["stages"]["edits"]["calls"] == 2 and stage.seconds > 0


def test_the_time_of_a_stage_that_is_killed_is_counted_up_to_what_was_saved_last(tmp_path, monkeypatch):
    times = iter([10.0, 13.0, 14.0, 20.0, 22.0])
    monkeypatch.setattr("plait.agents.costs.perf_counter", lambda: next(times))
    folder = Folder(tmp_path)
    with folder.open({}):
        with Costs(prices={}, folder=folder).stage("edits", "m") as stage:
            stage.save(folder)
            kept = folder.read("costs/edits")  # what a kill here would leave
        assert (kept["seconds"], stage.seconds) == (3, 4)
        folder.write("costs/edits", kept)
        again = Costs(prices={}, folder=folder)
        again.load(["edits"])
        with again.stage("edits", "m") as stage:
            pass
        assert stage.seconds == folder.read("costs/edits")["seconds"] == 5
