"""Curves and shares from the attempt histories."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plait.agents.sandbox.base import Execution
from plait.evals.trajectories.figures import context_recall, costs, curves, shares
from plait.evals.trajectories.replay import Trajectories, by_votes


def details(*edits, tests=()):
    def written(histories):
        return [{"history": [{"kind": kind, "text": text} for kind, text in one]} for one in histories]

    return {"edit_trajectories": written(edits), "test_trajectories": written(tests)}


FIRST = [("test", "t0"), ("done", "")]
LATE = details(
    [("misparse", "?"), ("edit", "bad"), ("edit", "good"), ("done", "")],
    [("edit", "bad"), ("test", "t1"), ("done", "")],
    tests=[FIRST, [("misparse", "?")]],
)


def ran(code):
    return Execution(exit_code=code, output="", seconds=0.0)


RESULTS = {
    ("t0", ""): ran(2),
    ("t0", "bad"): ran(2),
    ("t0", "good"): ran(0),
    ("t1", ""): ran(1),
    ("t1", "bad"): ran(1),
    ("t1", "good"): ran(1),
}


def test_what_fewer_calls_would_have_given():
    found = Trajectories.of(LATE)
    assert found.calls == 4
    assert [found.patches(k) for k in (1, 2, 3, 4)] == [[None, "bad"], ["bad", "bad"], ["good", "bad"], ["good", "bad"]]
    assert [found.scripts(k) for k in (1, 2)] == [["t0"], ["t0", "t1"]]
    assert found.all_patches == {"good", "bad"}
    resolved = {"good": True, "bad": False}
    assert curves(found, resolved, RESULTS, "all") == {"coverage": [0, 0, 1, 1], "best by votes": [0, 0, 1, 1]}
    assert shares(found, {"good", "bad"}, resolved) == {"coverage": 1, "one trajectory": 0.5, "most frequent": 0.5}


def test_equal_tests_vote_as_often_as_they_are():
    """As in the job: what `by_votes` puts first in the end is what it chose."""
    steps = [
        [("edit", patch), ("test", script)]
        for patch, script in zip("abbaa", ["t1", "t1", "t1", "t2", "t3"], strict=True)
    ]
    found = Trajectories.of(details(*steps))
    assert found.scripts(2) == ["t1", "t1", "t1", "t2", "t3"]
    passing = {("t1", "b"), ("t2", "a"), ("t3", "a")}
    results = {
        (t, patch): ran(0 if (t, patch) in passing else 2) for t in ("t1", "t2", "t3") for patch in ("", "a", "b")
    }
    assert by_votes(found.patches(2), found.scripts(2), results, "all") == "b"


def test_a_job_without_anything():
    found = Trajectories.of({})
    assert (found.calls, found.all_patches) == (0, set())
    assert curves(found, {}, {}, "all") == {"coverage": [], "best by votes": []}
    assert shares(found, set(), {}) == {"coverage": 0, "one trajectory": 0, "most frequent": 0}
    assert by_votes([None, None], [], {}, "all") is None and costs({}) == {}


def test_votes_of_tests_that_show_the_issue():
    patches, scripts = ["a", "b"], ["shows", "always"]
    results = {("shows", ""): ran(2), ("shows", "a"): ran(0), ("shows", "b"): ran(2)}
    results |= {("always", name): ran(0) for name in ("", "a", "b")} | {("other", name): ran(0) for name in ("", "b")}
    assert by_votes(patches, scripts, results, "reproducing") == "a"
    results["other", "a"] = results["always", "a"] = ran(1)
    assert by_votes(patches, [*scripts, "other"], results, "all") == "b"
    assert by_votes(patches, [*scripts, "other"], results, "reproducing") == "a"


steps = st.tuples(st.sampled_from(["edit", "test", "misparse", "done"]), st.sampled_from(["x", "y"]))


@given(st.lists(st.lists(steps, max_size=5), max_size=4))
def test_coverage_never_exceeds_what_any_patch_gives(histories):
    found = Trajectories.of(details(*histories))
    runs = {(script, patch): ran(0) for script in "xy" for patch in ("", "x", "y")}
    resolved = {"x": True, "y": False}
    made = curves(found, resolved, runs, "all")
    assert len(made["coverage"]) == found.calls
    assert all(best <= one for best, one in zip(made["best by votes"], made["coverage"], strict=True))
    assert max(made["coverage"], default=0) == float("x" in found.all_patches)
    final = shares(found, found.all_patches, resolved)
    assert final["one trajectory"] <= max(made["coverage"], default=0)


def test_recall_is_of_all_files_that_were_there():
    gold = "".join(
        f"diff --git a/{path} b/{path}\n--- {old}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+b\n"
        for path, old in (("a.py", "a/a.py"), ("b.py", "a/b.py"), ("new.py", "/dev/null"))
    )

    def recall(*parts):
        return context_recall(gold, {"a.py", "b.py", "c.py"}, {"context": {"parts": parts}})

    assert recall("a.py", "b.py::f", "c.py") == 1 and recall("a.py", "c.py") == 0
    assert context_recall(gold, {"a.py"}, {}) is None and context_recall("", {"a.py"}, {"context": {}}) is None
