"""The simulated pool against queueing theory."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import InvalidInput

pytest.importorskip("simpy")

from plait.benchmarks.pool.simulation import Pool, replay, simulate
from plait.benchmarks.pool.size import main, measured, smallest


def erlang_c(servers: int, load: float) -> float:
    """The share of jobs that wait in an M/M/c queue; `load` in servers (A. K. Erlang, 1917)."""
    waits = load**servers / math.factorial(servers) * servers / (servers - load)
    return waits / (sum(load**k / math.factorial(k) for k in range(servers)) + waits)


def mmc(servers: int, rate: float, seconds: float) -> tuple[float, float]:
    """Mean waiting time, and the 95th percentile of the latency, of M/M/c."""
    load, mu = rate * seconds, 1 / seconds
    c = erlang_c(servers, load)
    free = servers * mu - rate

    def later(t: float) -> float:
        """P(latency > t): an exponential service, behind an exponential wait for the share c."""
        if abs(free - mu) < 1e-9:
            return math.exp(-mu * t) * (1 + c * mu * t)
        return (1 - c) * math.exp(-mu * t) + c * (free * math.exp(-mu * t) - mu * math.exp(-free * t)) / (free - mu)

    low, high = 0.0, 1000 * seconds
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if later(middle) > 0.05 else (low, middle)
    return c / free, low


def test_erlangs_formula_by_known_values():
    assert erlang_c(1, 0.7) == pytest.approx(0.7)  # M/M/1: the server is busy.
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    wait, p95 = mmc(1, 0.5, 1.0)
    assert (wait, p95) == pytest.approx((1.0, -math.log(0.05) / 0.5))


@pytest.mark.parametrize(("workers", "slots", "rate"), [(1, 1, 0.6), (3, 1, 2.1), (2, 4, 6.0)])
def test_waiting_and_latency_are_those_of_m_m_c(workers, slots, rate):
    found = simulate(Pool(workers=workers, slots=slots), rate, 1.0, jobs=30_000, seed=3)
    wait, p95 = mmc(workers * slots, rate, 1.0)
    assert found.utilisation == pytest.approx(rate / (workers * slots), rel=0.03)
    assert found.waiting == pytest.approx(wait, rel=0.12)
    assert found.latency == pytest.approx(wait + 1, rel=0.06)
    assert found.p95 == pytest.approx(p95, rel=0.07)


@pytest.mark.parametrize("work", [1.0, [0.5] * 9 + [5.5]])
@pytest.mark.parametrize("pool", [Pool(workers=1, slots=60, gain=0.0), Pool(workers=60, cores=1)], ids=str)
def test_jobs_that_take_turns_have_the_latency_of_processor_sharing(work, pool):
    """M/G/1 with processor sharing: E[S] / (1 - load), whatever the distribution (Kleinrock, 1976)."""
    found = simulate(pool, 0.6, work, jobs=12_000, seed=5)
    assert found.waiting == 0
    assert found.latency == pytest.approx(1 / (1 - 0.6), rel=0.15)


@settings(max_examples=25, deadline=None)
@given(
    workers=st.integers(1, 4),
    slots=st.integers(1, 3),
    gain=st.floats(0, 1),
    cores=st.none() | st.floats(0.5, 4),
    load=st.floats(0.05, 0.9),
    work=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_no_job_is_faster_than_alone_and_none_is_lost(workers, slots, gain, cores, load, work, seed):
    pool = Pool(workers=workers, slots=slots, gain=gain, cores=cores)
    rate = load * pool.capacity / (sum(work) / len(work))
    found = simulate(pool, rate, work, jobs=200, seed=seed, overhead=0.5)
    assert 0 < found.utilisation <= 1 + 1e-9 and found.waiting >= 0
    assert min(work) + 0.5 - 1e-6 <= found.p50 <= found.p95
    assert found == simulate(pool, rate, work, jobs=200, seed=seed, overhead=0.5)


def test_a_replay_by_hand():
    # Two workers; arrivals at 1, 2, 3 and 10, so the third waits until 5, and the fourth for nobody.
    found = replay(Pool(workers=2), [(1, 4.0), (1, 4.0), (1, 1.0), (7, 1.0)], overhead=0.5)
    assert (found.p50, found.p95) == (4.5, 4.5) and found.waiting == pytest.approx(2 / 4)
    assert found.latency == pytest.approx((4 + 4 + 3 + 1) / 4 + 0.5)
    # They share one core: 1 to 2 alone, 2 to 3 in two, and so on.
    alone = replay(Pool(workers=2, cores=1), [(1, 2.0), (1, 2.0)])
    assert alone.latency == pytest.approx(((4 - 1) + (5 - 2)) / 2)


def test_the_smallest_pool_keeps_the_bound_and_one_worker_less_does_not():
    tried = smallest(Pool(workers=1), 2.0, 1.0, 3.6, jobs=10_000)
    assert [workers for workers, _ in tried] == list(range(3, tried[-1][0] + 1))
    assert [figures.p95 <= 3.6 for _, figures in tried] == [False] * (len(tried) - 1) + [True]
    assert mmc(tried[-1][0], 2.0, 1.0)[1] < 3.6 < mmc(tried[-1][0] - 1, 2.0, 1.0)[1]


def test_what_no_pool_can_do_is_an_error():
    with pytest.raises(InvalidInput, match="too long"):
        smallest(Pool(workers=1), 0.1, [1.0], 0.5, jobs=500)
    with pytest.raises(InvalidInput, match="cores too few"):
        smallest(Pool(workers=1, cores=2), 3.0, 1.0, 10.0, jobs=500)
    with pytest.raises(InvalidInput, match="for ever"):
        simulate(Pool(workers=2), 2.0, 1.0)
    for bad in ({"workers": 0}, {"workers": 1, "gain": 2.0}, {"workers": 1, "cores": 0}):
        with pytest.raises(InvalidInput):
            Pool(**bad)


def test_times_of_an_evaluation_are_drawn_from(tmp_path, capsys):
    def row(seconds, origin):
        found = None if seconds is None else {"seconds": seconds, "peak_kv_blocks": 1, "mean_kv_blocks": 1.0}
        return {"window": None, "correct": True, "extracted": "", "reason": "", "finish": "eos", "counts": {}} | {
            "measured": found,
            "origin": origin,
        }

    key = {"method": "m", "budget": 0, "sample": "s", "attempt": 0}
    units = [
        {"key": {**key, "attempt": n}, "rows": rows}
        for n, rows in enumerate([[row(0.5, "run"), row(0.5, "same")], [row(1.5, "run"), row(None, "cut")]])
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(unit) + "\n" for unit in units))
    assert measured(tmp_path) == [0.5, 1.5]
    main(["--rate", "1.5", "--results", str(tmp_path), "--p95", "3", "--jobs", "2000"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 2 | 7") and len(lines) >= 3
    with pytest.raises(InvalidInput, match="no job"):
        measured(tmp_path / "nothing")
    with pytest.raises(SystemExit):
        main(["--rate", "9", "--seconds", "1", "--p95", "3", "--workers", "2"])
    assert "for ever" in capsys.readouterr().err
