"""The GPU benchmarks in tiny on the CPU: every topic goes to its end, and what is wrong is not timed."""

from __future__ import annotations

import importlib

import pytest
import torch

from plait.benchmarks.gpu import attention, engine, floor, numerics, parallel, peers
from plait.benchmarks.gpu.lines import FLOOR, OURS, Book, Setting, read
from plait.benchmarks.gpu.workloads import BLOCK, FULL, TINY, tree


@pytest.fixture
def at(tmp_path):
    return Setting(device=torch.device("cpu"), is_dry=True, book=Book("topic", tmp_path / "lines.jsonl"))


@pytest.mark.parametrize("topic", [floor, attention, engine, parallel, numerics])
def test_a_topic_goes_to_its_end(topic, tmp_path):
    file = tmp_path / "results.jsonl"
    topic.main(["--dry", "--out", str(file)])
    lines = read(file)
    assert lines and not [line for line in lines if line.error]
    assert {line.topic for line in lines} == {topic.__name__.rpartition(".")[2]}
    assert all(line.value is None or line.who != OURS or line.value >= 0 for line in lines)
    assert not [line for line in lines if line.is_met is False]


def test_without_a_card_it_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(SystemExit):
        floor.main([])
    assert "--dry" in capsys.readouterr().err


def test_one_workload_alone(tmp_path):
    file = tmp_path / "results.jsonl"
    attention.main(["--dry", "--out", str(file), "--only", "hogwild", "--no-peers"])
    parallel.main(["--dry", "--out", str(file), "--only", "Multiverse, 8k"])
    assert {line.who for line in read(file)} == {OURS, FLOOR, attention.FIXED}
    assert all("Hogwild" in line.what or "Multiverse, 8k" in line.what for line in read(file))


@pytest.mark.parametrize("damage", [float("nan"), 1.0])
def test_what_is_wrong_is_not_timed(at, monkeypatch, damage):
    """One number of one row, the last."""
    whole = attention.span_attention

    def damaged(q, *args, impl="auto", **options):
        out = whole(q, *args, impl=impl, **options)
        if impl == "auto":
            out[-1, 0, 0] += damage
        return out

    monkeypatch.setattr(attention, "span_attention", damaged)
    attention.run(at)
    ours = [line for line in at.book.lines if line.who == OURS]
    assert len(ours) == len(TINY) and all(line.error.startswith("wrong") and line.value is None for line in ours)
    assert not [line for line in at.book.lines if line.who not in (OURS, FLOOR) and line.value is not None]


def test_numbers_that_are_none_in_a_row_nobody_looks_at(at, monkeypatch):
    whole = attention.span_attention
    tensors = TINY[2].tensors(at.device, 0)
    row = next(row for row in range(TINY[2].rows) if row not in attention.sample(TINY[2]))

    def damaged(q, *args, impl="auto", **options):
        out = whole(q, *args, impl=impl, **options)
        if impl == "auto":
            out[row, 0, 0] = float("nan")
        return out

    monkeypatch.setattr(attention, "span_attention", damaged)
    assert attention.measure_ours(at, TINY[2], floor.rates(at), [tensors], "auto") is None


@pytest.mark.parametrize("workload", TINY, ids=lambda workload: workload.name)
def test_peers_compute_the_same(workload):
    tensors = workload.tensors(torch.device("cpu"), 1)
    exact = attention.exact_rows(workload, tensors, range(workload.rows))
    for name, (peer, kinds) in attention.PEERS.items():
        if workload.kind in kinds and peer is not peers.flashinfer:
            assert attention.relative_error(peer(workload, tensors)[0](), exact) < 2e-2, name


@pytest.mark.parametrize("workload", TINY, ids=lambda workload: workload.name)
def test_without_sharing_it_is_the_same(workload):
    tensors = workload.tensors(torch.device("cpu"), 1)
    a, b = (attention.ours(workload, tensors, workload.plan(is_flat=flat), "auto")() for flat in (False, True))
    assert attention.relative_error(a, b) < 1e-2


def test_the_full_workloads_are_what_they_say():
    by_name = {workload.name: workload for workload in FULL}
    for workload in FULL:
        workload.plan().check(BLOCK, sum(map(len, workload.tables)))
    shared = by_name["64 branches over 16k shared, 512 own"]
    assert shared.num_bytes == 2 * 2 * ((16384 + 64 * 512) * 8 * 128 + 64 * 32 * 128)
    assert shared.flops == 4 * 32 * 128 * 64 * (16384 + 512)
    assert by_name["prefill of 4,096"].flops == 4 * 32 * 128 * 4096 * 4097 // 2
    leaves = by_name["tree: 256 branches, 1,000 spans"]
    assert (len(leaves.lengths), leaves.rows) == (1000, 256)
    assert set(leaves.lines[:, 1]) == set(range(1000))  # every span is on some path
    moved = by_name["Hogwild!: 8 workers x 8k, all shifted"].lines
    assert set(moved[:, 4]) == {-8192 * n for n in range(8)}


def test_a_tree_with_too_few_leaves_is_refused():
    with pytest.raises(AssertionError):
        tree("", 2, 100, 32)


def test_the_fit_finds_what_was_put_in():
    x = list(range(1, 9))
    a, b, deviation = parallel.fit(x, [15.4 / n + 0.6 for n in x])
    assert (a, b, deviation) == pytest.approx((15.4, 0.6, 0.0), abs=1e-9)
    *_, deviation = parallel.fit(x, [15.4 / n + 0.6 + (3.0 if n == 4 else 0.0) for n in x])
    assert deviation > 0.1


def test_random_models_have_the_published_sizes():
    models = importlib.import_module("plait.benchmarks.gpu.models")
    billions = {"Qwen2.5-0.5B": 0.494, "Llama-3.2-1B": 1.236, "Qwen3-4B": 4.02, "Llama-3.1-8B": 8.03, "Qwen3-8B": 8.19}
    for name, expected in billions.items():
        config = models.ModelConfig.from_hf(models.SHAPES[name])
        assert config.num_parameters / 1e9 == pytest.approx(expected, rel=3e-3), name
