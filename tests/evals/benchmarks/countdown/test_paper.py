"""Countdown in the language of the APR paper: files, prompts, and evaluations on a model that plays the solvers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import plait
from plait import APR, InvalidInput, Runtime, SelfConsistency
from plait.evals import EvalConfig, MethodConfig, Sample, run
from plait.evals.benchmarks.countdown.benchmark import Countdown
from plait.evals.benchmarks.countdown.paper import TracedProblem
from plait.evals.benchmarks.countdown.problems import Problem
from plait.evals.config import read_toml
from plait.evals.export import records
from plait.runtime.cli.main import main
from plait.tests.evals.benchmarks.countdown.players import engine, player, searches
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.tokenizer_kinds import raw, save

CONFIGS = Path(plait.__file__).parent / "evals" / "configs" / "papers"
ROOT = "Moving to Node #0\nCurrent State: 27:[53, 22, 4], Operations: []"
VAL = [
    {
        "nums": [53, 22, 4],
        "target": 27,
        "solution": ["53-22=31", "31-4=27"],
        "optimal_path": "Current State: 27:[53, 22, 4], Operations: []\nExploring Operation: ...",
        "start_size": 3,
    },
    {
        "nums": [59, 54, 93, 36],
        "target": 62,
        "solution": ["59-54=5"],
        "optimal_path": "...",
        "start_size": 4,
        "search_path": "Moving to Node #0\n...",
        "rating": 0.98,
        "search_type": "apr_3",
        "trace_dict": {"main_calls": ["..."], "sub_calls": []},
        "token_count": 1030,
        "sub_call_count": 2.5,
    },
]


def write(tmp_path, value):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(value, indent=4))
    return path


def test_the_published_file_of_problems(tmp_path):
    samples = Countdown(language="paper", data=write(tmp_path, VAL)).load()
    assert [(sample.id, sample.data) for sample in samples] == [
        ("1", Problem((53, 22, 4), 27)),
        ("2", TracedProblem((59, 54, 93, 36), 62, 1030)),
    ]
    assert Countdown(language="paper", data=write(tmp_path, VAL), count=1).load() == samples[:1]


def test_the_published_lists_of_prompts(tmp_path):
    prompts = [ROOT, "Current State: 62:[59, 54, 93, 36], Operations: []", f"Sub Call Budget: 10 {ROOT}\n"]
    samples = Countdown(language="paper", data=write(tmp_path, prompts)).load()
    first = Problem((53, 22, 4), 27)
    assert [sample.data for sample in samples] == [first, Problem((59, 54, 93, 36), 62), first]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nums": [5], "target": 5}, "nums: .*at least 2"),
        ({"nums": [5, 0], "target": 5}, r"nums\[1\]: "),
        ({"nums": [5, 7]}, "needs the field 'target'"),
        ({"nums": [5, 7], "target": 12, "token_count": 2.5}, "token_count: "),
        ("Moving to Node #0", "no prompt of the paper's language"),
        (7, "not a JSON object"),
    ],
)
def test_wrong_problems(tmp_path, wrong, message):
    with pytest.raises(InvalidInput, match=f"item 2: .*{message}"):
        Countdown(language="paper", data=write(tmp_path, [VAL[0], wrong])).load()


def test_prompts():
    benchmark = Countdown(language="paper", data=Path("x"))
    sample = Countdown(language="paper", numbers=3, count=1).load()[0]
    problem = sample.data
    state = f"Current State: {problem.target}:{list(problem.nums)}, Operations: []"
    assert benchmark.prompt(sample, "apr")["prompt"] == f"Moving to Node #0\n{state}"
    for method in ("sequential", "self_consistency"):
        assert benchmark.prompt(sample, method)["prompt"] == state
    told = Countdown(language="paper", token_budget=1024)
    assert told.prompt(sample, "sequential")["prompt"] == f"Token Budget: 1024 {state}"
    assert told.prompt(sample, "apr")["prompt"] == f"Moving to Node #0\n{state}"
    apr = MethodConfig(fields={"method": "apr", "sub_call_budget": 3}).build(benchmark, sample, 4096)
    assert isinstance(apr, APR)
    assert (apr.dialect, apr.depth, apr.max_rounds, apr.sub_call_budget) == ("paper", 1, None, 3)
    for method in ("multiverse", "tree_search"):
        with pytest.raises(InvalidInput, match=f"no form for '{method}'"):
            benchmark.prompt(sample, method)


def test_a_token_budget_from_the_data(tmp_path):
    benchmark = Countdown(language="paper", token_budget="data", data=write(tmp_path, VAL[1:]))
    prompt = benchmark.prompt(benchmark.load()[0], "sequential")["prompt"]
    assert prompt.startswith("Token Budget: 1536 Current State: 62:")
    with pytest.raises(InvalidInput, match="token_count"):
        Countdown(language="paper", token_budget="data", data=write(tmp_path, VAL)).load()


@pytest.mark.parametrize("fields", [{"token_budget": 512}, {"verifier": "apr"}, {"language": "sos"}])
def test_fields_of_the_other_language(fields):
    with pytest.raises(InvalidInput):
        Countdown(**fields)


METHODS = [
    {"method": "apr", "label": "APR", "sub_call_budget": 10},
    {"method": "sequential", "label": "SoS+"},
    {"method": "self_consistency", "label": "cons", "n": 2},
]


@pytest.mark.parametrize("verifier", ["strict", "apr", "sosp"])
async def test_an_evaluation_counts_what_the_solvers_solve(tmp_path, verifier):
    benchmark = Countdown(language="paper", count=8, verifier=verifier, token_budget=4096)
    samples = benchmark.load()
    config = EvalConfig(benchmark=benchmark, methods=METHODS, windows=(300, 3000))
    await run(config, tmp_path, engine=engine(player([sample.data for sample in samples])))
    right = {(row["method"], row["problem"], row["window"]): row["correct"] for row in records(tmp_path)}
    found = [searches(sample.data) for sample in samples]
    threads, lines = zip(*[("Goal" in thread.main_calls[-1], "Goal" in line) for thread, line in found], strict=True)
    assert 0 < sum(lines) < 8 and 0 < sum(threads) < 8
    for name in ("SoS+", "cons"):
        assert tuple(right[name, sample.id, 3000] for sample in samples) == lines
    if verifier != "sosp":
        assert tuple(right["APR", sample.id, 3000] for sample in samples) == threads
        assert sum(right["APR", sample.id, 300] for sample in samples) < sum(threads)


async def test_a_vote_is_over_paths_whatever_their_node_ids():
    nums, target = (53, 22, 4), 27

    def found(node, first, left, last):
        lines = (
            "",
            "27,27 equal: Goal Reached",
            "Moving to Node #0",
            f"Current State: {target}:{list(nums)}, Operations: []",
            f"Exploring Operation: {first}, Resulting Numbers: {left}",
            f"Generated Node #{node}: {target}:{left} Operation: {first}",
            f"Moving to Node #{node}",
            f"Current State: {target}:{left}, Operations: ['{first}']",
            f"Exploring Operation: {last}, Resulting Numbers: [27]",
            "27,27 equal: Goal Reached",
            "Exit Sub Search at level 1",
            "",
        )
        return "\n".join(lines)

    wrong = found("0,0", "22-4=18", [53, 18], "53-18=27")
    right = [found(node, "53-22=31", [4, 31], "31-4=27") for node in ("0,1", "0,2")]
    benchmark = Countdown(language="paper", data=Path("x"))
    sample = Sample(id="1", question="", data=Problem(nums, target))
    fields = benchmark.prompt(sample, "self_consistency")
    async with Runtime(engine=engine(["\nNo solution found.\n", wrong, *right])) as runtime:
        result = await (await runtime.submit(SelfConsistency(**fields, n=4)))
    assert result.details["votes"] == {"22-4=18, 53-18=27": 1, "53-22=31, 31-4=27": 2}
    assert benchmark.grade(sample, result.answer, result.text).correct
    verdict = benchmark.grade(sample, "22-4=18, 53-18=27", wrong)
    assert (verdict.correct, verdict.extracted) == (False, "22-4=18, 53-18=27")
    assert "wrong arithmetic" in verdict.reason


@pytest.fixture(scope="module")
def folder():
    """A tiny random model of the paper's family, Llama-2's architecture and kind of tokenizer."""
    kind = "byte fallback, space by the normaliser"
    _, path = tiny(
        "llama",
        vocab_size=raw(kind).get_vocab_size(),
        num_key_value_heads=4,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
        max_position_embeddings=256,
    )
    return save(kind, path)


@pytest.mark.parametrize("name", ["apr", "apr_sosp"])
async def test_the_papers_configurations_run(folder, tmp_path, name):
    data = read_toml(CONFIGS / f"{name}.toml")
    assert data["windows"][-1] == 4096
    data |= {"model": str(folder), "windows": [160, 256], "engine": {"device": "cpu"}}
    data["benchmark"] |= {"data": str(write(tmp_path, VAL)), "count": 2}
    config = EvalConfig(**data)
    await run(config, tmp_path / "out")
    found = list(records(tmp_path / "out"))
    attempts = sum(method.attempts for method in config.methods)
    assert len(found) == 2 * 2 * attempts
    assert not any(row["failed"] or row["correct"] for row in found)
    assert all(row["total_tokens"] > 0 for row in found)


def test_from_the_command_line(folder, tmp_path):
    options = ["--set", "language=paper", "--set", "token_budget=512", "--data", str(write(tmp_path, VAL))]
    methods = ["apr:sub_call_budget=[3,6],max_rounds=null", "sequential", "self_consistency:n=2"]
    windows = ["--window", "120", "--window", "160"]
    arguments = [f"--model={folder}", "--out", str(tmp_path / "out"), *windows, *options]
    assert main(["eval", "--benchmark", "countdown", *arguments, *(f"--method={m}" for m in methods)]) == 0
    assert len(list(records(tmp_path / "out"))) == 2 * 2 * 4
