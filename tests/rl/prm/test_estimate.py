"""Math-Shepherd's hard estimate on recorded trees: verdicts of steps from the grades of leaves."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from plait import InvalidInput, Runtime, SelfConsistency, Trace, TreeSearch
from plait.evals.benchmark import Benchmark, Sample, Verdict, register_benchmark
from plait.rl.prm.config import StepData
from plait.rl.prm.estimate import estimate, split
from plait.rl.prm.reading import read_trajectories
from plait.runtime.trace.record import JoinRecord
from plait.tests.search.tools import Steps, by_value

TREE = {
    "Q": ["a;", "b;", "c;"],
    "Qa;": ["d;", "right"],
    "Qb;": ["wrong"],
    "Qa;d;": ["wrong"],
}


@register_benchmark
class Ends(Benchmark):
    """Right is what ends with "right"."""

    name: Literal["test_ends"] = "test_ends"
    """What configurations call it."""

    def load(self) -> list[Sample]:
        return [Sample(id="one", question="Q")]

    def prompt(self, sample: Sample, method: str) -> dict[str, Any]:
        return {"prompt": sample.question}

    def grade(self, sample: Sample, answer: str | None, text: str) -> Verdict:
        is_right = text.endswith("right")
        return Verdict(correct=is_right, extracted=answer, reason="correct" if is_right else "wrong")


async def record(path, method, tree, sample="one"):
    async with Runtime(engine=Steps(tree)) as runtime:
        job = await runtime.submit(method, trace_file=path, metadata={"sample": sample})
        return await job


def verdicts(found) -> dict[str, bool]:
    """Text up to each step -> verdict; each is given once."""
    told = [("".join(one.steps[: k + 1]), label) for one in found for k, label in enumerate(one.labels)]
    known = [(text, label) for text, label in told if label is not None]
    assert len(known) == len(dict(known))
    return dict(known)


async def test_a_step_is_good_if_a_right_answer_was_reached_below_it(tmp_path):
    reward = by_value({"a": 0.9, "b": 0.9, "c": 0.1})
    method = TreeSearch(prompt="Q", width=4, strategy="rebase", reward=reward, delimiters=(";",), max_depth=4)
    result = await record(tmp_path / "t.jsonl.gz", method, TREE)
    found = estimate([tmp_path / "t.jsonl.gz"], Ends())
    assert {one.prompt for one in found} == {"Q"} and all(one.is_complete for one in found)
    told = verdicts(found)
    assert told["a;"] is True and told["a;right"] is True
    assert told["b;"] is False and told["b;wrong"] is False
    assert told["a;d;"] is False and told["a;d;wrong"] is False
    # What no leaf ends below has no verdict, and every leaf that ended is there.
    assert not any(text.startswith("c;") and text != "c;" for text in told)
    assert sum(result.details["votes"].values()) > 0


async def test_samples_of_a_vote_are_a_tree_too(tmp_path):
    """Equal first steps are one, in all runs together."""
    tree = {"Q": ["x;y;wrong", "x;z;right", "u;wrong"]}
    await record(tmp_path / "1.jsonl", SelfConsistency(prompt="Q", n=3), tree)
    await record(tmp_path / "2.jsonl", SelfConsistency(prompt="Q", n=1), {"Q": ["u;right"]})
    source = StepData(
        kind="traces", paths=(str(tmp_path / "*.jsonl"),), benchmark={"name": "test_ends"}, delimiters=(";",)
    )
    trained, held = read_trajectories([source])
    assert not held
    assert verdicts(trained) == {
        "x;": True, "x;y;": False, "x;y;wrong": False, "x;z;": True, "x;z;right": True,
        "u;": True, "u;wrong": False, "u;right": True,
    }  # fmt: skip


async def test_texts_that_were_cut_say_nothing(tmp_path):
    await record(tmp_path / "1.jsonl", SelfConsistency(prompt="Q", n=2, max_tokens=4), {"Q": ["x;wrong", "x;y"]})
    assert verdicts(estimate([tmp_path / "1.jsonl"], Ends(), [";"])) == {"x;": False, "x;y": False}


async def test_what_cannot_be_graded_is_named(tmp_path):
    await record(tmp_path / "1.jsonl", SelfConsistency(prompt="Q", n=2), {"Q": ["x"]}, sample="two")
    with pytest.raises(InvalidInput, match=r"1\.jsonl: the trace is of problem 'two'"):
        estimate([tmp_path / "1.jsonl"], Ends(), [";"])
    await record(tmp_path / "2.jsonl", SelfConsistency(prompt="Q", n=2), {"Q": ["x"]})
    with pytest.raises(InvalidInput, match="what ends a step of self_consistency"):
        estimate([tmp_path / "2.jsonl"], Ends())


async def test_parts_of_answers_are_no_trajectories(tmp_path):
    refused = pytest.raises(InvalidInput, match=r"1\.jsonl: .* parts of answers, not trajectories")
    inner = {"method": "sequential", "prompt": "Q"}
    reward = by_value({"x": 0.9})
    for method in (
        SelfConsistency(prompt="Q", n=2, generator=inner),
        TreeSearch(
            prompt="Q", width=2, strategy="rebase", reward=reward, delimiters=(";",), max_depth=2, generator=inner
        ),
    ):
        await record(tmp_path / "1.jsonl", method, {"Q": ["x;", "y"], "Qx;": ["z"], "Qy;": ["z"]})
        with refused:
            estimate([tmp_path / "1.jsonl"], Ends(), [";"])
    await record(tmp_path / "2.jsonl", SelfConsistency(prompt="Q", n=2), {"Q": ["x", "y"]})
    trace = Trace.load(tmp_path / "2.jsonl")
    first, *others = trace.branches
    trace.joins.append(JoinRecord(branch=first, children=tuple(others), found=tuple(others), segment=None))
    trace.save(tmp_path / "1.jsonl")
    with refused:
        estimate([tmp_path / "1.jsonl"], Ends(), [";"])


def test_steps_keep_their_delimiters():
    assert split("a;b\n\nc", [";", "\n\n"]) == ["a;", "b\n\n", "c"]
    assert split("a;", [";"]) == ["a;"] and "".join(split(";;x\ny;", [";"])) == ";;x\ny;"
