"""What the benchmark asks of a method."""

from plait.evals.benchmarks.countdown.benchmark import Countdown
from plait.evals.config import MethodConfig


def test_multiverse_leaves_most_of_a_small_window_to_its_paths():
    benchmark = Countdown(count=1)
    (sample,) = benchmark.load()
    built = MethodConfig(fields={"method": "multiverse"}).build(benchmark, sample, 512)
    assert (built.reserve, built.context_limit, built.prompt.split()[0]) == (64, 512, "mv")
    given = MethodConfig(fields={"method": "multiverse", "reserve": 100}).build(benchmark, sample, 512)
    assert given.reserve == 100
