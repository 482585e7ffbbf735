"""Files of predictions: one for each method, budget, window and attempt, whatever the methods are called."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait.agents.predictions import read_predictions
from plait.evals.benchmark import Answered
from plait.evals.benchmarks.swebench.export import export

LONG = "code_monkeys " + "n=1 " * 30
NAMES = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(["a/b", "a b", "A_B"])
SYSTEMS = st.lists(
    st.tuples(NAMES, st.sampled_from(["", "attempt 0", "attempt 1"])), min_size=1, max_size=4, unique=True
)


def answered(method, place="", sample="i"):
    return Answered(sample=sample, method=method, place=place, model="m", answer=f"{sample}: {method}, {place}")


def patches(folder):
    """What each file holds."""
    return sorted([one.model_patch for one in read_predictions(path)] for path in folder.glob("predictions*.jsonl"))


@settings(max_examples=40, deadline=None)
@given(systems=SYSTEMS)
@example(systems=[(LONG, f"attempt {i}") for i in range(4)])
@example(systems=[(f"{LONG}vote={vote}", "") for vote in ("tests", "model")])
@example(systems=[("甲", ""), ("乙", "")])
@example(systems=[("b", ""), ("B", ""), ("1-b", "")])
def test_no_two_share_a_file(systems):
    with TemporaryDirectory() as name:
        export(Path(name), [answered(*system, sample=sample) for sample in "ij" for system in systems])
        assert patches(Path(name)) == sorted([f"{sample}: {m}, {place}" for sample in "ij"] for m, place in systems)


def test_names_say_what_they_hold(tmp_path):
    export(tmp_path, [answered(LONG, f"budget 1 attempt {i}") for i in range(2)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert all(name.endswith(f"_budget_1_attempt_{i}.jsonl") for i, name in enumerate(names)), names


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=4, unique_by=str.strip))
@example([LONG + "a" * 90, LONG + "b" * 90, "é" * 150])
def test_systems_have_names_that_a_folder_can_have(methods):
    with TemporaryDirectory() as name:
        export(Path(name), [answered(method) for method in methods])
        found = [read_predictions(path)[0].model_name_or_path for path in Path(name).glob("predictions*.jsonl")]
    assert len(set(found)) == len(methods) and all(len(one.encode()) <= 120 for one in found)


def test_files_of_fewer_answers_are_gone(tmp_path):
    (tmp_path / "predictions.md").write_text("notes")
    for systems in (["a"], ["a", "b/c"], ["a", "b/c", "b c"], ["b/c"], []):
        export(tmp_path, [answered(method) for method in systems])
        assert patches(tmp_path) == sorted([f"i: {method}, "] for method in systems)
    assert (tmp_path / "predictions.md").read_text() == "notes"
