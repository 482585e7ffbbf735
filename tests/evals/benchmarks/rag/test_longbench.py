"""LongBench: prompts put together as published, F1, and passages as contexts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import InvalidInput, Runtime, ScriptedEngine, Sequential
from plait.evals import EvalConfig, parse_benchmark, run
from plait.evals.benchmarks.rag.longbench import PROMPTS
from plait.evals.benchmarks.rag.questions import f1, recall

PASSAGES = "Passage 1:\nAda\nAda wrote notes.\nPassage 2:\nBob\nBob read them."


def row(dataset="hotpotqa", **changes):
    return {
        "input": "Who wrote notes?",
        "context": PASSAGES,
        "answers": ["Ada", "Ada Byron"],
        "length": 9,
        "dataset": dataset,
        "language": "en",
        "all_classes": None,
        "_id": f"{dataset}-1",
        **changes,
    }


def bench(tmp_path, rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return parse_benchmark({"name": "longbench", "data": str(path), **fields})


async def test_what_the_model_reads(tmp_path):
    """The parts together are the published prompt."""
    seen = []
    benchmark = bench(tmp_path, [row()], chat=False)
    engine = ScriptedEngine(lambda context: seen.append(context) or " Ada", context_limit=4000)
    config = EvalConfig(benchmark=benchmark, methods=[{"method": "sequential"}])
    await run(config, tmp_path / "out", engine=engine)
    only = "Only give me the answer and do not output any other words."
    assert seen[0] == (
        f"Answer the question based on the given passages. {only}\n\nThe following are given passages.\n{PASSAGES}\n\n"
        f"Answer the question based on the given passages. {only}\n\nQuestion: Who wrote notes?\nAnswer:"
    )
    unit = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert unit["rows"][0]["correct"] and unit["rows"][0]["extra"]["numbers"] == {"F1": 1.0, "recall": 1.0}


def test_every_set_has_a_prompt(tmp_path):
    benchmark = bench(tmp_path, [row(name) for name in PROMPTS])
    lengths = {}
    for sample in benchmark.load():
        fields = benchmark.prompt(sample, "sequential")
        assert (sample.data.dataset == "triviaqa") == isinstance(fields["prompt"], str)
        text = fields["prompt"] if isinstance(fields["prompt"], str) else fields["prompt"][0]["content"]
        assert "Who wrote notes?" in text and "{" not in text + fields["instruction"]
        assert fields["contexts"] == [PASSAGES]
        lengths[sample.data.dataset] = fields["max_tokens"]
    assert lengths["qasper"] == lengths["narrativeqa"] == 128 and lengths["multifieldqa_en"] == 64
    assert lengths["hotpotqa"] == lengths["2wikimqa"] == lengths["musique"] == lengths["triviaqa"] == 32


def test_passages_are_contexts(tmp_path):
    benchmark = bench(tmp_path, [row("hotpotqa_e"), row("qasper", context="No passages.")], split_passages=True)
    passages, article = benchmark.load()
    first, second = benchmark.prompt(passages, "sequential")["contexts"]
    assert f"{first}\n{second}" == PASSAGES and second.startswith("Passage 2:")
    assert benchmark.prompt(article, "sequential")["contexts"] == ["No passages."]


def test_verdicts(tmp_path):
    benchmark = bench(tmp_path, [row(), row("triviaqa")])
    plain, trivia = benchmark.load()
    said = "Ada Byron, in 1843"
    verdict = benchmark.grade(plain, said, said)
    assert not verdict.correct and verdict.extra.numbers == {"F1": pytest.approx(2 / 3), "recall": 1.0}
    assert benchmark.grade(plain, "The Ada.", "").correct
    assert not benchmark.grade(plain, "Ada\nPassage: x", "").correct
    assert benchmark.grade(trivia, "\nAda\nPassage: x", "").correct
    empty = benchmark.grade(plain, "", "")
    assert (empty.reason, empty.extra.numbers) == ("no answer", {"F1": 0.0, "recall": 0.0})


WORDS = st.lists(st.sampled_from("red green blue the cyan".split()), max_size=6).map(" ".join)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_overlap(answer, right):
    """Against the definition, by counting."""
    words, wanted = ([word for word in text.split() if word != "the"] for text in (answer, right))
    common = sum(min(words.count(word), wanted.count(word)) for word in set(words))
    if not words or not wanted:
        is_same = words == wanted and bool(answer.strip() and right.strip())
        assert f1(answer, [right]) == recall(answer, [right]) == float(is_same)
        return
    precision, share = common / len(words), common / len(wanted)
    assert recall(answer, [right]) == pytest.approx(share)
    assert f1(answer, [right]) == pytest.approx(2 * precision * share / (precision + share) if common else 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": []}, "answers: "),
        ({"answers": ["", " "]}, "answers: there is nothing in any of them"),
        ({"input": ""}, "input: "),
        ({"dataset": "gov_report"}, "dataset: "),
        ({"context": None}, "context: "),
    ],
)
def test_wrong_rows(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=f":1: {message}"):
        bench(tmp_path, [row(**changes)]).load()


def test_the_hub_needs_a_set():
    with pytest.raises(InvalidInput, match="subset"):
        parse_benchmark({"name": "longbench"}).load()


async def test_subset_of_a_file_and_parallel_passages(tmp_path):
    """On the embedded engine the passages really are parallel contexts."""
    benchmark = bench(tmp_path, [row(), row("qasper")], subset="hotpotqa", split_passages=True, chat=False)
    (sample,) = benchmark.load()
    async with Runtime("recall") as runtime:
        fields = benchmark.prompt(sample, "sequential") | {"max_tokens": 1}
        result = await (await runtime.submit(Sequential(**fields)))
    assert result.details["contexts"]["encoding"] == "parallel" and result.details["contexts"]["count"] == 2
