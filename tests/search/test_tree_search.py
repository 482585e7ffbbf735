"""`TreeSearch` end to end on a scripted policy: order of events, books, endings, and each edge case of the spec."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any, ClassVar, Literal

import pytest

from plait import (
    Finish,
    InvalidJob,
    PromptTooLong,
    Runtime,
    SelfConsistency,
    Sequential,
    TreeSearch,
    UnsupportedByEngine,
)
from plait.runtime.errors import InvalidInput, UnknownModel
from plait.runtime.jobs.branch import AT_A_TIME, TracedBranch
from plait.runtime.methods.voting import MAX_SAMPLES
from plait.search import (
    ETS,
    FunctionReward,
    FunctionScorer,
    Selection,
    Strategy,
    Verifier,
    embeddings,
    register_function,
)
from plait.search.clustering import cluster, own_distance
from plait.search.node import Frontier, Node
from plait.search.rewards.base import LARGEST, Reward
from plait.tests.runtime.tools import run
from plait.tests.search.tools import Steps, by_value, forever, pass_time

TREE = {
    "q": ["a;", "b;", "c;", "a;"],
    "qa;": ["d;", "e;"],
    "qb;": ["f;"],
    "qc;": ["g;"],
    "qa;d;": ["=1", "=2"],
    "qa;e;": ["=3"],
    "qb;f;": ["=1"],
    "qc;g;": ["=4"],
}
VALUES = {"a": 0.9, "b": 0.5, "c": 0.2, "d": 0.8, "e": 0.4, "f": 0.6, "g": 0.1, "=1": 0.9, "=2": 0.3, "=3": 0.4}


def search(**fields):
    values = {"prompt": "q", "width": 4, "strategy": "rebase", "delimiters": (";",), "answer": r"regex:=(\d)"}
    return TreeSearch(**{**values, "reward": by_value(VALUES), **fields})


async def solve(children=TREE, limits=None, engine=None, **fields):
    return await run(search(**fields), None, engine=engine or Steps(children), **(limits or {}))


async def test_a_whole_search():
    result, engine = await solve()
    # Level 1: a (twice), b, c. REBASE's shares of 4 samples: a 4 * 2e^4.5 / (2e^4.5 + e^2.5 + e) -> 4.
    assert engine.asked["q"] == 4 and engine.asked["qa;"] == 4 and engine.asked["qb;"] == 0
    assert [level["nodes"] for level in result.details["levels"]] == [3, 2, 2]
    assert [level["samples"] for level in result.details["levels"]] == [4, 4, 4]
    assert (result.answer, result.text, result.finish_reason) == ("1", "a;d;=1", Finish.EOS)
    assert result.details["votes"] == pytest.approx({"1": 2 * 0.9, "2": 2 * 0.3})
    assert result.details["finished"] == 4


async def test_the_tree_is_in_the_trace():
    result, _ = await solve(merge=False)
    branches = result.trace.branches
    assert branches["0.0"].scores == [0.9] and branches["0.1"].scores == [0.5]
    assert branches["0.1"].pruned == branches["0.2"].pruned == "rebase: no continuation"
    assert branches["0.0"].pruned is None
    assert {branch.parent for branch in branches.values()} >= {None, "0", "0.0"}
    merged, _ = await solve()
    assert merged.trace.branches["0.3"].pruned == "the same as 0.0"


async def test_events_tell_scores_and_prunings():
    async with Runtime(engine=Steps(TREE)) as runtime:
        job = await runtime.submit(search())
        events = [event async for event in job]
    told = [(event.type, event.branch) for event in events if event.type in ("scored", "pruned", "forked")]
    scored = {event.branch: event.score for event in events if event.type == "scored"}
    assert scored["0.0"] == 0.9 and scored["0.0.0"] == 0.8
    # The twin goes before there are scores, the losers before the next level.
    assert told[:8] == [
        ("forked", "0"),
        ("pruned", "0.3"),
        ("scored", "0.0"),
        ("scored", "0.1"),
        ("scored", "0.2"),
        ("pruned", "0.1"),
        ("pruned", "0.2"),
        ("forked", "0.0"),
    ]


async def test_pruned_branches_are_closed_at_once():
    held = []

    class Watching(Steps):
        def _next(self, context):
            held.append((context, len(self.branches)))
            return super()._next(context)

    await solve(engine=Watching(TREE), merge=False)
    # While the second level is written nothing of the first is open but through its children.
    assert {count for context, count in held if context == "qa;"} == {4}


class Keeping:
    """A scorer that notes what is kept for it when it is asked for more."""

    def __init__(self, values, asked):
        self.values, self.asked, self.kept = values, asked, set()

    async def score(self, nodes):
        self.asked.append(({node.text for node in self.kept}, [node.text for node in nodes]))
        self.kept |= set(nodes)
        return [self.values.get(node.text.rstrip(";"), math.nan) for node in nodes]

    def release(self, nodes):
        self.kept -= set(nodes)

    def close(self):
        self.asked.append(({node.text for node in self.kept}, []))

    statistics: ClassVar[dict[str, float]] = {}


class Noting(Reward):
    reward: Literal["test_noting"] = "test_noting"
    asked: ClassVar[list[Any]] = []

    async def open(self, ctx, question):
        return Keeping(VALUES, self.asked)


async def test_nothing_is_kept_of_pruned_steps_and_of_those_that_have_ended():
    asked = Noting.asked
    asked.clear()
    tree = {**TREE, "q": ["a;", "b;", "x;", "a;"]}  # `x` has no score
    result, _ = await run(search(reward=Noting()), None, engine=Steps(tree))
    assert result.answer == "1"
    (none, first), (still, missing), *rest, (end, _) = asked
    assert (none, first, still, missing) == (set(), ["a;", "b;", "x;"], {"a;", "b;"}, ["x;"])
    assert [kept for kept, _ in rest] == [{"a;"}, {"d;"}] and end == set()


async def test_the_winners_end_is_the_searchs():
    """The best step is cut off by the budget of a trajectory, and still gives the answer."""
    tree = {"q": ["a;=1 and more of it", "b;=2"]}
    fields = {"strategy": "best_of_n", "width": 2, "max_tokens": 8}
    cut, _ = await solve(tree, **fields, vote="best")
    whole, _ = await solve({"q": ["c;=1 and more of it", "b;=2"]}, **fields, vote="best")
    assert (whole.answer, whole.finish_reason) == ("2", Finish.EOS)
    assert cut.answer == "2" and cut.finish_reason is Finish.EOS  # what is cut does not vote
    nothing, _ = await solve({"q": ["a;=1 and more of it", "b; and more of it"]}, **fields, vote="best")
    assert nothing.finish_reason is Finish.LENGTH and nothing.text == "a;=1 and"


@pytest.mark.parametrize("strategy", ["ets", "rebase", "beam", "dvts", "best_of_n"])
@pytest.mark.parametrize("width", [1, 2, 5, 16])
async def test_every_strategy_at_every_width(strategy, width):
    fields = {"strategy": {"strategy": strategy, **({"coverage_weight": 0} if strategy == "ets" else {})}}
    whole = {"q": ["a;d;=1", "b;f;=2"]}
    result, engine = await solve(whole if strategy == "best_of_n" else TREE, width=width, **fields)
    assert result.answer is not None and not engine.branches
    assert 1 <= result.details["finished"] <= width
    assert result.usage.generated_tokens > 0


async def test_best_of_n_scores_every_step_and_forks_once():
    children = {"q": ["a;d;=1", "b;=2", "c;g;=4"]}
    result, engine = await solve(children, strategy="best_of_n", width=3, vote="best", aggregate="min")
    assert engine.asked == {"q": 3} and result.usage.branches == 4
    assert result.answer == "1" and result.details["votes"] == pytest.approx({"1": 0.8, "2": 0.3, "4": 0.1})
    assert result.details["reward"]["calls"] == 3 + 2 + 3


async def test_beam_keeps_the_best_and_spends_no_more_than_the_width():
    result, engine = await solve(strategy={"strategy": "beam", "beams": 2})
    assert (engine.asked["qa;"], engine.asked["qb;"], engine.asked["qc;"]) == (2, 2, 0)
    assert all(level["samples"] <= 4 for level in result.details["levels"])


async def test_a_wide_level_is_forked_with_turns_of_the_event_loop_in_between(monkeypatch):
    forked, fork = [], TracedBranch._fork
    monkeypatch.setattr(TracedBranch, "_fork", lambda branch, n, *labels: forked.append(n) or fork(branch, n, *labels))
    result, _ = await solve({"q": ["a;"], "qa;": ["=1"]}, width=2 * AT_A_TIME + 1)
    assert result.details["finished"] == 2 * AT_A_TIME + 1
    assert forked == 2 * [AT_A_TIME, AT_A_TIME, 1]


async def test_dvts_keeps_its_subtrees_apart():
    result, engine = await solve(strategy="dvts")
    # Three first steps in two subtrees: {a, b} and {c}; each goes on with two samples below its best.
    assert (engine.asked["qa;"], engine.asked["qb;"], engine.asked["qc;"]) == (2, 0, 2)
    assert (engine.asked["qa;d;"], engine.asked["qa;e;"], engine.asked["qc;g;"]) == (2, 0, 2)
    assert set(result.details["votes"]) == {"1", "2", "4"}


# -- ETS -------------------------------------------------------------------------------------------------------


def one_hot(texts):
    letters = sorted(set("".join(texts)))
    return [[float(letter in text) for letter in letters] for text in texts]


async def test_ets_prunes_what_is_not_worth_its_memory():
    result, engine = await solve(strategy=ETS(coverage_weight=0))
    assert engine.asked["qa;"] == 4
    level = result.details["levels"][0]
    assert level["solver"] == "tree" and level["kept"] == 1 and level["ancestors"] == 1
    result, engine = await solve(strategy=ETS(coverage_weight=5, floor=True), embedding=one_hot)
    level = result.details["levels"][0]
    assert (level["clusters"], level["kept"], level["expanded"]) == (3, 3, 3)
    assert (engine.asked["qa;"], engine.asked["qb;"], engine.asked["qc;"]) == (2, 1, 1)
    assert result.trace.branches["0.3"].pruned == "the same as 0.0"


async def test_ets_that_keeps_all_is_rebase():
    flat = by_value({"a": 0.5, "b": 0.45, "c": 0.4})
    free, _ = await solve(strategy=ETS(cost_weight=0, coverage_weight=0), reward=flat, width=12)
    rebase, _ = await solve(strategy="rebase", reward=flat, width=12)
    assert free.text == rebase.text and free.details["votes"] == rebase.details["votes"]


async def test_identical_steps_make_no_clusters():
    tree, strategy = {"q": ["a;"], "qa;": ["=1"]}, ETS(coverage_weight=1)
    result, _ = await solve(tree, strategy=strategy, embedding=lambda texts: 1 / 0, merge=False)
    level = result.details["levels"][0]
    assert result.answer == "1" and (level["clusters"], level["candidates"], level["solver"]) == (0, 4, "tree")


async def test_one_cluster_is_covered_whatever_is_kept():
    result, _ = await solve(strategy=ETS(coverage_weight=9), embedding=lambda texts: [[1, 2]] * len(texts))
    level = result.details["levels"][0]
    assert (level["clusters"], level["candidates"], level["kept"]) == (0, 3, 1)


async def test_presets_by_width():
    assert [ETS().coverage(width) for width in (1, 16, 63, 64, 256, 1000)] == [1.5, 1.5, 1.5, 1.4, 1.45, 1.45]
    assert ETS(coverage_weight=0.3).coverage(64) == 0.3


async def test_the_papers_preset(monkeypatch):
    paper = ETS(preset="paper")
    assert (paper.cost, paper.cluster_distance) == ("nodes", 0.05)
    assert ETS(preset="paper", cost="blocks").cost == "blocks" and ETS().embedding == "hidden"
    assert ETS(**paper.model_dump()) == paper
    asked = []
    monkeypatch.setattr(embeddings, "find_spec", lambda name: name)
    monkeypatch.setattr(embeddings, "_load", lambda model: lambda texts: asked.append(model) or one_hot(texts))
    result, _ = await solve(strategy={"strategy": "ets", "preset": "paper"})
    assert set(asked) == {"math-similarity/Bert-MLM_arXiv-MP-class_zbMath"}
    assert result.details["levels"][0]["cluster_distance"] == 0.05
    await solve(strategy={"strategy": "ets", "preset": "paper"}, embedding=one_hot)


def test_cost_in_nodes_does_not_look_at_length():
    """Worth as much as another one, a long step goes where KV is what is paid for, and stays where steps are."""
    root = Node(score=1.0)
    above = [Node(parent=root, score=1.0, blocks=n, num_tokens=1) for n in (1, 40)]
    nodes = [Node(parent=parent, score=0.8, num_tokens=1) for parent in above]
    frontier = Frontier(nodes=nodes, budget=4, width=4)

    def counts(cost, weight):
        return ETS(cost=cost, cost_weight=weight, coverage_weight=0).select(frontier).counts

    assert counts("blocks", 0.6) == [4, 0] and counts("nodes", 0.6) == [2, 2]
    assert counts("nodes", 2.0) == [4, 0]  # one is enough, and the first of equals stays


def test_clusters_of_hidden_states_are_cut_by_their_own_distances():
    """The same groups at distances a hundred times smaller than a sentence model's."""
    nodes = [Node(parent=Node(score=1.0), score=0.5, num_tokens=1, text=str(i)) for i in range(6)]
    for i, node in enumerate(nodes):
        group = i // 2
        node.embedding = [1.0, 0.03 * (group == 1) + 0.004 * (i % 2), 0.03 * (group == 2)]
    embedded = [node.embedding for node in nodes]
    assert cluster(embedded, 0.05) == [0] * 6  # the paper's distance
    assert cluster(embedded, own_distance(embedded)) == [0, 0, 1, 1, 2, 2]
    hidden = ETS(coverage_weight=5).select(Frontier(nodes=nodes, budget=6, width=16, is_hidden=True))
    assert hidden.notes["clusters"] == 3 and 0 < hidden.notes["cluster_distance"] < 0.01
    sentence = ETS(coverage_weight=5).select(Frontier(nodes=nodes, budget=6, width=16))
    assert sentence.notes["clusters"] == 0 and sentence.notes["cluster_distance"] == 0.05
    assert own_distance([[1.0, 0.0]] * 3) > 0 and own_distance([None, [0.0, 0.0]]) > 0


def test_two_steps_that_say_two_things_are_both_kept_for_coverage():
    nodes = [Node(parent=Node(score=1.0), score=score, num_tokens=1, text=str(score)) for score in (0.9, 0.1)]
    nodes[0].embedding, nodes[1].embedding = [1.0, 0.0], [0.0, 1.0]
    found = ETS(coverage_weight=5).select(Frontier(nodes=nodes, budget=4, width=16))
    assert found.notes["clusters"] == found.notes["kept"] == 2


def test_a_floor_gives_nothing_to_what_is_pruned():
    above = Node(score=1.0)
    nodes = [Node(parent=above, score=score, num_tokens=1, blocks=9) for score in (0.9, 0.1, 0.1)]
    found = ETS(cost_weight=5, coverage_weight=0, floor=True).select(Frontier(nodes=nodes, budget=4, width=4))
    assert found.counts == [4, 0, 0]


# -- endings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["=", r"regex:=\d", ["nothing", "="]])
async def test_a_step_that_answers_ends_its_trajectory(rule):
    endless = {"q=": ["a;"], "q=a;": ["=1;", "so =2;"], "q=a;=1;": ["on;"], "q=a;so =2;": ["on;"]}
    result, engine = await solve(endless, prompt="q=", finished=rule, max_depth=4)
    assert result.details["finished"] == 4 and result.text in ("a;=1;", "a;so =2;")
    assert engine.asked["q=a;=1;"] == engine.asked["q=a;so =2;"] == 0  # the prompt's own phrase ends nothing
    assert set(result.details["votes"]) == {"1", "2"} and result.finish_reason is Finish.STOP


async def test_an_answer_that_is_cut_is_waited_for():
    cut = {"q": ["a=12;"], "qa=1": ["2;"], "qa=12;": ["on;"]}
    result, _ = await solve(cut, finished="=", step_tokens=3, width=1, answer=r"regex:=(\d+)")
    assert (result.text, result.answer) == ("a=12;", "12")


@pytest.mark.parametrize(
    "bounds", [{"max_tokens": 4}, {"step_tokens": 2, "max_tokens": 4}, {"step_tokens": 4, "max_depth": 1}]
)
async def test_an_answer_that_a_bound_cuts_has_finished(bounds):
    endless = {"q": ["a=12"], "qa=": ["12"]}
    result, _ = await solve(endless, finished="=", width=2, answer=r"regex:=(\d+)", **bounds)
    assert result.details["finished"] == 2 and result.answer == "12"
    result, _ = await solve(endless, finished="nothing", width=2, answer=r"regex:=(\d+)", **bounds)
    assert result.details["finished"] == 0


async def test_a_bound_that_nobody_asked_for_is_told(monkeypatch):
    monkeypatch.setattr(TreeSearch, "bound", 6)
    endless = {"q": ["ab;"], "qab;": ["cd;"], "qab;cd;": ["ef;"]}
    for fields, told in (({}, 6), ({"max_tokens": 6}, None), ({"max_depth": 1}, None)):
        result, _ = await solve(endless, width=1, answer=r"regex:=(\d+)", **fields)
        assert (result.details["finished"], result.details.get("bound")) == (0, told)


async def test_a_whole_sample_with_an_answer_has_finished_however_it_ends():
    whole = {"q": ["a;=1;bcdefghij"]}
    result, _ = await solve(whole, strategy="best_of_n", finished="=", max_tokens=6, width=2)
    assert result.answer == "1" and result.details["finished"] == 2
    result, _ = await solve(whole, strategy="best_of_n", max_tokens=6, width=2)
    assert result.answer is None or result.details["finished"] == 0


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match="answer rule 'regex:\\('"):
        search(finished="regex:(")


def test_what_the_reward_is_told_was_asked():
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    tokenizer = Steps({}).tokenizer
    assert search(prompt=chat).asked(tokenizer) == "one\n\ntwo"
    assert search(prompt="text", chat=True).asked(tokenizer) == search(prompt="text").asked(tokenizer) == "text"
    assert search(prompt=tokenizer.encode("ids")).asked(tokenizer) == "ids"
    assert search(prompt=chat, question="q").asked(tokenizer) == "q"


@pytest.mark.parametrize(
    ("pattern", "text", "finishes"),
    [
        (r"\p{Lu}", "aB", True),  # what `re` cannot read
        (r"\p{Lu}", "ab", False),
        (r"(a|a)+c", "a" * 40 + "b", False),  # what takes for ever
    ],
)
def test_finished_is_read_as_an_answer_rule_is(pattern: str, text: str, finishes: bool):
    assert search(finished=f"regex:{pattern}").finishes(text) == finishes


async def test_no_trajectory_finishes():
    endless = {"q": ["a;"], "qa;": ["a;"], "qa;a;": ["a;"]}
    result, _ = await solve(endless, max_depth=3, width=2)
    assert (result.answer, result.text) == (None, "a;a;a;") and result.details["finished"] == 0
    assert result.details["unfinished"] == 2 and result.finish_reason is Finish.STOP


async def test_the_best_unfinished_one_is_concluded():
    class Concluding(Steps):
        def _next(self, context):
            return "7" if context.endswith("So =") else super()._next(context)

    engine = Concluding({"q": ["b;", "a;"], "qa;": ["a;"], "qb;": ["a;"]})
    result, _ = await solve(engine=engine, max_depth=1, width=2, conclusion="So =")
    assert (result.answer, result.text) == ("7", "a;So =7") and result.usage.counts["concluded"] == 1


async def test_an_end_without_an_answer_takes_its_part_of_the_width():
    result, engine = await solve({"q": ["a;", "stop"], "qa;": ["=1"]}, width=4)
    assert result.details["finished"] == 4 and result.answer == "1"
    assert engine.asked["qa;"] == 2
    assert result.details["votes"] == pytest.approx({"1": 1.8})


@pytest.mark.parametrize("limits", [{"total_tokens": 9}, {"critical_tokens": 3}, {"total_tokens": 1}])
async def test_budgets_hold(limits):
    result, _ = await solve(limits=limits)
    assert result.usage.total_tokens <= limits.get("total_tokens", 99)
    assert result.usage.critical_tokens <= limits.get("critical_tokens", 99)
    assert result.answer is None and result.finish_reason.is_budget


async def test_a_deadline_ends_the_search():
    result, _ = await solve(engine=Steps(TREE, seconds_per_token=0.05), limits={"seconds": 0.12})
    assert result.answer is None and result.usage.seconds < 2
    assert result.finish_reason is Finish.DEADLINE


@pytest.mark.parametrize(
    "method",
    [search(), search(generator=Sequential(prompt="x")), SelfConsistency(prompt="q", n=2, generator=search())],
    ids=["plain", "generator", "nested"],
)
async def test_a_deadline_before_the_first_level_leaves_what_there_is(method):
    result, engine = await run(method, None, engine=Steps(TREE), seconds=1e-9)
    assert (result.text, result.answer, result.finish_reason) == ("", None, Finish.DEADLINE)
    assert result.trace.end["finish"] == "deadline" and result.trace.branches and not engine.asked


async def test_nothing_is_counted_of_a_search_without_a_level():
    result, _ = await solve(limits={"seconds": 1e-9})
    assert result.details["levels"] == [] and result.details["kv_blocks"] == {"mean": 0, "peak": 0}
    assert (result.details["finished"], result.details["unfinished"]) == (0, 1)


async def test_a_step_that_is_cut_goes_on():
    result, _ = await solve(
        {"q": ["abcdef;"], "qabc": ["def;"], "qabcdef": [";"], "qabcdef;": ["=1"]}, step_tokens=3, width=1
    )
    assert [level["step_tokens"] for level in result.details["levels"]] == [3, 6, 7, 10]  # EOS counts
    assert result.text == "abcdef;=1"


async def test_a_trajectory_has_its_own_limit():
    result, _ = await solve({"q": ["aa;"], "qaa;": ["bb;"], "qaa;bb;": ["cc;"]}, max_tokens=8, width=1)
    assert result.text == "aa;bb;cc" and result.answer is None


# -- scores ----------------------------------------------------------------------------------------------------


async def test_steps_without_a_score_are_asked_for_once_more_and_dropped():
    asked = []

    async def reward(prompt, steps):
        asked.append(steps[-1])
        if steps[-1] == "b;":
            return None
        return math.nan if steps[-1] == "c;" and asked.count("c;") == 1 else 0.5

    result, engine = await solve(reward=reward, width=3)
    assert asked.count("b;") == 2 and asked.count("c;") == 2
    assert result.trace.branches["0.1"].pruned == "no score" and result.usage.counts["unscored_steps"] == 1
    assert result.details["unfinished"] == 1
    assert engine.asked["qb;"] == 0 and engine.asked["qc;"] > 0


@pytest.mark.parametrize(
    ("scored", "texts", "expected"),
    [
        ((), TREE["q"], ("a;", None, Finish.FAILED, 4)),
        (("a;", "b;", "c;"), TREE["q"], ("a;d;", None, Finish.FAILED, 4)),
        ((), ["a;", "=7"], ("=7", None, Finish.FAILED, 4)),
        (("a;",), ["a;", "=7"], ("a;d;", None, Finish.STOP, 6)),
    ],
)
async def test_what_cannot_be_scored_is_the_result_where_nothing_else_is(scored, texts, expected):
    """What is whole before what is not, and behind everything that has a score; its answer is refused with it."""
    is_last = "=7" in texts and bool(scored)
    known = (*scored, "d;", "e;") if is_last else scored
    result, _ = await solve(
        {**TREE, "q": texts},
        reward=lambda prompt, steps: 0.5 if steps[-1] in known else None,
        max_depth=2 if is_last else 25,
    )
    details = result.details
    assert (result.text, result.answer, result.finish_reason, details["unfinished"]) == expected
    assert (details["finished"], details["votes"]) == (0, {})


async def test_a_whole_sample_with_a_step_that_has_no_score_is_dropped():
    def reward(prompt, steps):
        return math.nan if steps[-1] == "a;" else 0.5

    result, _ = await solve({"q": ["a;=1", "b;=2"]}, strategy="best_of_n", aggregate="mean", reward=reward, width=2)
    assert (result.answer, result.details["votes"]) == ("2", {"2": 0.5})
    assert result.usage.counts["unscored_steps"] == 1


class Counted(Reward):
    """Gives scores of its own, however many are asked for."""

    reward: Literal["test counted"] = "test counted"
    scores: ClassVar[Any] = None

    async def open(self, ctx, question):
        scorer = FunctionScorer(lambda question, steps: 0.5, question)

        async def score(nodes):
            return self.scores

        scorer.score = score
        return scorer


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "scores that are no numbers: None"),
        ([0.5], "1 scores for 3 steps"),
        ([0.5] * 4, "4 scores for 3 steps"),
        ([0.5, None, 0.5], "scores that are no numbers"),
        (["0.5"] * 3, "scores that are no numbers"),
    ],
)
async def test_scores_that_do_not_fit_are_refused_by_the_rewards_name(scores, message, monkeypatch):
    monkeypatch.setattr(Counted, "scores", scores)
    with pytest.raises(InvalidInput, match=f"the reward 'test counted' gave {message}"):
        await solve(reward=Counted())


@pytest.mark.parametrize(
    "value", [[1], "x", "0.5", b"1", 10**400, pytest.param(10**5000, id="long"), object(), math.inf, -math.inf, 1e301]
)
async def test_what_is_no_score_is_refused_by_the_functions_name(value):
    name = register_function("test score", lambda prompt, steps: value)
    with pytest.raises(InvalidInput, match=f"the reward 'function:{name}' gave"):
        await solve(reward=f"function:{name}")


@pytest.mark.parametrize("strategy", ["rebase", "ets", "beam", "dvts"])
@pytest.mark.parametrize("aggregate", ["last", "min", "mean", "product"])
async def test_the_largest_scores_can_be_counted(strategy, aggregate):
    embedding = register_function("test one vector", lambda texts: [[1.0, len(text)] for text in texts])
    largest = by_value(dict.fromkeys(VALUES, LARGEST) | {"=1": -LARGEST, "b": -LARGEST})
    result, _ = await solve(strategy=strategy, aggregate=aggregate, reward=largest, embedding=embedding)
    assert result.answer is not None and all(map(math.isfinite, result.details["votes"].values()))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (None, "what is no list of vectors: None"),
        ([[1.0, 0.0]], "1 vectors for 3 steps"),
        ([[1.0], [1.0, 2.0], [1.0]], "vectors of different lengths: "),
        ([[1.0], None, [1.0]], "what is no list of vectors"),
        ([[1.0], [[1.0]], [1.0]], "what is no list of vectors"),
    ],
)
async def test_what_is_no_embedding_is_refused_by_the_functions_name(vectors, message):
    name = register_function("test embed", lambda texts: vectors)
    with pytest.raises(InvalidInput, match=f"the embedding '{name}' gave {message}"):
        await solve(strategy="ets", embedding=name)


class Slow(Strategy):
    """Chooses when it is told to go on."""

    strategy: Literal["test slow"] = "test slow"
    begun: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()

    def select(self, frontier):
        self.begun.set()
        self.go_on.wait(5)
        return Selection(counts=[1] * len(frontier.nodes))


async def test_a_search_that_is_cancelled_does_not_wait_for_its_strategy():
    engine = Steps(TREE)
    async with Runtime(engine=engine) as runtime:
        job = await runtime.submit(search(strategy=Slow()))
        try:
            await asyncio.to_thread(Slow.begun.wait, 5)
            start = time.perf_counter()
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            assert time.perf_counter() - start < 3
        finally:
            Slow.go_on.set()
    assert not engine.branches


async def test_a_reward_that_fails_fails_the_job():
    def reward(prompt, steps):
        raise RuntimeError("no such model")

    engine = Steps(TREE)
    with pytest.raises(RuntimeError, match="no such model"):
        await solve(engine=engine, reward=reward)
    assert not engine.branches


async def test_a_verifier_sees_finished_trajectories_only():
    seen = []

    def verify(prompt, steps):
        seen.append((prompt, "".join(steps)))
        return float(steps[-1] == "=2")

    name = register_function("test verify", verify)
    result, _ = await solve(reward=Verifier(function=name), vote="best", width=16)
    assert result.answer == "2" and seen and all(p == "q" and "=" in text for p, text in seen)


# -- rewards that take longer than the budget --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FunctionReward, Verifier])
async def test_who_inherits_from_a_reward_of_functions_may_judge_several_at_once(kind):
    class Batched(FunctionScorer):
        async def score(self, nodes):
            batches.append([node.text for node in nodes])
            return [0.5] * len(nodes)

    async def scorer(self, ctx, question):
        return Batched(forever, question)

    batches = []
    inherited = type("Inherited", (kind,), {"open": scorer, "__module__": __name__})
    await solve(reward=inherited(function=register_function("test batched", forever)))
    assert batches[0] == ["a;", "b;", "c;"]


class Never(Reward):
    """Gives no score, however long one waits."""

    reward: Literal["test never"] = "test never"

    async def open(self, ctx, question):
        scorer = FunctionScorer(lambda question, steps: 0.5, question)
        scorer.score = forever
        return scorer


@pytest.mark.parametrize("reward", [Never(), forever], ids=["class", "function"])
@pytest.mark.parametrize(("strategy", "text"), [("rebase", "a;"), ("best_of_n", "a;d;=1")])
async def test_what_is_not_scored_before_the_deadline_is_what_there_is(reward, strategy, text):
    engine = Steps(TREE if strategy == "rebase" else {"q": [text]})
    result, _ = await solve(engine=engine, limits={"seconds": 1000}, reward=reward, strategy=strategy)
    assert (result.text, result.finish_reason) == (text, Finish.DEADLINE)
    assert result.details["votes"] == {} and result.details["unfinished"] == 4


async def test_what_is_scored_before_the_deadline_is_voted_for():
    async def reward(prompt, steps):
        return 0.1 if steps[-1] == "=2" else await forever()

    result, _ = await solve({"q": ["=2", "=1"]}, limits={"seconds": 1000}, reward=reward, strategy="best_of_n", width=2)
    assert (result.answer, result.details["votes"], result.details["unfinished"]) == ("2", {"2": 0.1}, 1)


async def test_a_plain_function_is_not_asked_again_behind_the_deadline():
    asked = []

    def reward(prompt, steps):
        asked.append(steps[-1])
        pass_time(10_000)
        return 0.5

    result, _ = await solve(limits={"seconds": 1000}, reward=reward)
    assert asked == ["a;"] and (result.text, result.finish_reason) == ("a;", Finish.DEADLINE)


async def cut_off_one_of(texts, reward):
    """What a search gives whose deadline comes once one of two samples is whole."""
    engine = Steps({"q": texts}, context_limit=10**6)

    async def come():
        while engine.asked["q"] < 2 or engine.running > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        pass_time(1001)

    fields = {"engine": engine, "limits": {"seconds": 1000}, "reward": reward}
    (result, _), _ = await asyncio.gather(solve(**fields, strategy="best_of_n", width=2), come())
    return result


@pytest.mark.parametrize("texts", [["=2", "x" * 10**5], ["x" * 10**5, "=2"]], ids=["first", "last"])
async def test_what_the_deadline_cut_off_is_scored_all_the_same(texts):
    result = await cut_off_one_of(texts, lambda *_: 0.7)
    assert (result.answer, result.details["votes"], result.details["unfinished"]) == ("2", {"2": 0.7}, 1)


@pytest.mark.parametrize("texts", [["=2", "x" * 10**5], ["x" * 10**5, "=2"]], ids=["first", "last"])
async def test_of_samples_without_a_score_one_that_is_whole_comes_first(texts):
    result = await cut_off_one_of(texts, forever)
    assert (result.text, result.answer, result.finish_reason) == ("=2", "2", Finish.DEADLINE)
    assert result.details["votes"] == {} and result.details["unfinished"] == 2


async def test_a_whole_sample_without_a_score_comes_before_one_that_was_cut_off():
    async def reward(prompt, steps):
        return 0.9 if steps[-1].startswith("x") else await forever()

    result = await cut_off_one_of(["x" * 10**5, "=2"], reward)
    assert (result.text, result.answer, result.finish_reason) == ("=2", "2", Finish.DEADLINE)


@pytest.mark.parametrize("limits", [{}, {"seconds": 60}])
async def test_a_timeout_of_the_reward_is_no_deadline(limits):
    async def reward(prompt, steps):
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await solve(limits=limits, reward=reward)


async def test_an_embedding_ends_at_the_deadline():
    name = register_function("test embed for ever", forever)
    result, _ = await solve(strategy="ets", embedding=name, limits={"seconds": 1000})
    assert (result.text, result.finish_reason) == ("a;", Finish.DEADLINE)


# -- generators ------------------------------------------------------------------------------------------------


async def test_any_method_writes_the_steps():
    generator = Sequential(prompt="replaced", stop=(";",), temperature=1.0)
    result, engine = await solve(generator=generator)
    assert (result.text, result.answer) == ("a;d;=1", "1") and engine.asked["qa;"] == 4
    assert "qa;" in engine.prompts and result.usage.injected_tokens > 0


async def test_self_consistent_steps():
    generator = SelfConsistency(prompt="replaced", n=2, answer=r"regex:=\d", chat=True, system="s")
    result, _ = await solve({"q": ["=1", "=2", "=2", "=2"]}, generator=generator, width=2)
    assert result.details["finished"] == 2 and result.answer in ("1", "2")


async def test_a_step_of_another_method_is_cut_where_the_search_or_the_model_ends():
    generator = Sequential(prompt="replaced")
    result, _ = await solve({"q": ["abcdef"]}, generator=generator, width=1, step_tokens=4, max_depth=1)
    assert result.text == "abcd" and result.details["unfinished"] == 1
    engine = Steps({"q": ["abcdef"]}, context_limit=4)
    result, _ = await solve(engine=engine, generator=generator, width=1, max_depth=1, max_tokens=10)
    assert "abc".startswith(result.text) and result.details["unfinished"] == 1


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"strategy": "mcts"},
            InvalidJob,
            "strategy: unknown strategy 'mcts'; known: beam, best_of_n, dvts, ets, rebase",
        ),
        ({"strategy": {"strategy": "ets", "cost": 1}}, InvalidJob, "cost"),
        (
            {"reward": "oracle:x"},
            InvalidJob,
            "TreeSearch: reward: unknown reward 'oracle'; known: function, judge, prm, self_certainty, verifier",
        ),
        ({"strategy": 3}, InvalidJob, "a strategy is a name or an object, not int"),
        ({"reward": 3}, InvalidJob, "a reward is a name, an object or a function, not int"),
        ({"embedding": 3}, InvalidJob, "an embedding is a name or a function, not int"),
        ({"width": 0}, InvalidJob, "width"),
        ({"width": MAX_SAMPLES + 1}, InvalidJob, "width: Input should be less than or equal to 1000000"),
        ({"vote": "loud"}, InvalidJob, "vote"),
        ({"delimiters": ()}, InvalidJob, "delimiters"),
        ({"answer": "guess"}, InvalidJob, "unknown answer rule"),
        ({"generator": {"method": "nobody"}}, InvalidJob, "unknown method"),
    ],
)
def test_malformed_jobs(fields, error, message):
    with pytest.raises(error, match=message):
        search(**fields)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"reward": "function:nowhere"}, InvalidInput, "unknown function 'nowhere'"),
        ({"reward": "prm:nowhere"}, UnknownModel, "nowhere"),
        ({"strategy": "ets"}, UnsupportedByEngine, "coverage_weight=0"),
        ({"strategy": "ets", "embedding": "nowhere"}, InvalidInput, "unknown function"),
        ({"prompt": "q" * 5000}, PromptTooLong, "5001"),
        ({"generator": Sequential(prompt="p", context_limit=1)}, PromptTooLong, "context"),
    ],
)
async def test_what_cannot_work_is_refused_before_any_work(fields, error, message):
    engine = Steps(TREE)
    with pytest.raises(error, match=message):
        await solve(engine=engine, **fields)
    assert not engine.prompts


async def test_sentence_models_are_optional_and_loaded_by_name(monkeypatch):
    fields = {"strategy": ETS(coverage_weight=5), "embedding": "sentence-transformers:small"}
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="pip install"):
        await solve(**fields)
    asked = []
    monkeypatch.setattr(embeddings, "find_spec", lambda name: name)
    monkeypatch.setattr(embeddings, "_load", lambda model: lambda texts: asked.append(model) or one_hot(texts))
    result, _ = await solve(**fields)
    assert set(asked) == {"small"} and result.details["levels"][0]["clusters"] == 3


def test_a_search_is_json():
    method = search(strategy=ETS(floor=True), generator=Sequential(prompt="p"))
    data = method.model_dump(mode="json")
    assert data["strategy"]["floor"] is True and data["reward"]["reward"] == "function"
    assert TreeSearch(**data) == method
