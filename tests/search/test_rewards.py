"""Rewards that need nothing shipped: self-certainty, and the policy as its own judge."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import replace

import pytest

from plait import Finish, Runtime, SamplingParams, ScriptedEngine, TreeSearch, UnsupportedByEngine
from plait.rl.countdown.tokenizer import BOS, IDS, PAD, build, save
from plait.rl.countdown.traces import EOS
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.errors import InvalidInput, PromptTooLong
from plait.search import Judge, SelfCertainty
from plait.search.node import Node
from plait.search.rewards.frames import Frame
from plait.search.rewards.judge import Reply, _Request
from plait.search.rewards.self_certainty import CertaintyScorer
from plait.search.rewards.tree import TreeScorer
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.test_engine import running
from plait.tests.runtime.tools import run
from plait.tests.search.tools import Steps, forever

SHAPE = {"vocab_size": len(IDS), "eos_token_id": IDS[EOS], "bos_token_id": IDS[BOS], "pad_token_id": IDS[PAD]}


def policy():
    _, folder = tiny(**SHAPE)
    save(build(), folder, 512)
    return folder


def step(parent, certainty, num_tokens=4, copies=1):
    return Node(parent=parent, certainty=certainty, num_tokens=num_tokens, copies=copies)


async def test_certainty_is_averaged_over_the_trajectorys_tokens():
    root = Node(score=1.0)
    first = step(root, 10.0, num_tokens=2)
    second = step(first, 4.0, num_tokens=4)
    assert await CertaintyScorer("trajectory", "nats").score([first, second]) == [10.0, 6.0]
    assert await CertaintyScorer("step", "nats").score([second]) == [4.0]
    assert math.isnan((await CertaintyScorer("step", "nats").score([step(root, math.nan)]))[0])


async def test_a_level_is_compared_with_itself():
    root = Node(score=1.0)
    nodes = [step(root, 1.0), step(root, 2.0), step(root, 3.0), step(root, math.nan)]
    scores = await CertaintyScorer("step", "level").score(nodes)
    deviation = math.sqrt(2 / 3)
    assert scores[:3] == pytest.approx([1 / (1 + math.exp(1 / deviation)), 0.5, 1 / (1 + math.exp(-1 / deviation))])
    assert math.isnan(scores[3])
    alike = await CertaintyScorer("step", "level").score([step(root, 7.0), step(root, 7.0)])
    assert alike == [0.5, 0.5]
    # A step that stands for three samples pulls the mean as far as three would.
    merged = await CertaintyScorer("step", "level").score([step(root, 1.0, copies=3), step(root, 2.0)])
    apart = await CertaintyScorer("step", "level").score([step(root, 1.0) for _ in range(3)] + [step(root, 2.0)])
    assert merged == pytest.approx([apart[0], apart[-1]])


async def test_all_steps_of_a_whole_sample_have_its_score():
    root = Node(score=1.0)
    scorer = CertaintyScorer("trajectory", "level")
    first = [Node(parent=root, certainty=c) for c in (1.0, 2.0)]
    for node, score in zip(first, await scorer.score(first), strict=True):
        node.score = score
    # Only one of the samples has a second step: alone with itself it would come to one half.
    last = Node(parent=first[1], certainty=2.0, num_tokens=9)
    assert await scorer.score([last]) == [first[1].score] != [0.5]


@pytest.mark.parametrize("strategy", ["ets", "rebase", "beam", "dvts", "best_of_n"])
async def test_a_search_needs_nothing_but_its_policy(strategy):
    method = TreeSearch(
        prompt="step 24 : 63 9 5 2 ;", strategy=strategy, width=4, delimiters=(";",), step_tokens=6, max_depth=3,
        max_tokens=18, answer="equations",
    )  # fmt: skip
    async with Runtime(policy(), kv_tokens=8192) as runtime:
        result = await (await runtime.submit(method, seed=3))
        again = await (await runtime.submit(method, seed=3))
        assert runtime.engine.block_usage().used == 0
    scores = [score for branch in result.trace.branches.values() for score in branch.scores]
    assert len({round(score, 6) for score in scores}) > 1 and all(0 < score < 1 for score in scores)
    assert result.details["reward"]["scored"] > 0 and result.text == again.text


async def test_an_engine_that_does_not_tell_its_certainty_is_refused():
    with pytest.raises(UnsupportedByEngine, match="'judge'"):
        await run(TreeSearch(prompt="q", strategy="rebase"), ["a"])


def test_certainty_of_steps_that_a_generator_writes_is_not_known():
    method = TreeSearch(prompt="q", strategy="rebase", generator={"method": "sequential", "prompt": "p"})
    engine = ScriptedEngine(["a"])
    engine.capabilities = replace(engine.capabilities, certainty=True)
    with pytest.raises(InvalidInput, match="generator"):
        method.check(engine)


# -- the judge -------------------------------------------------------------------------------------------------

TREE = {"q": ["a;", "b;"], "qa;": ["=1"], "qb;": ["=2"]}


class Judging(Steps):
    """Answers requests about steps by the words they hold."""

    def _next(self, context):
        if "Problem:" in context:
            solution = context.partition("Solution:\n")[2].partition("\n\n")[0]
            return "Yes" if "a" in solution else "No" if "b" in solution else "Perhaps"
        return super()._next(context)


async def test_the_policy_judges_itself():
    method = TreeSearch(
        prompt="q", strategy="rebase", width=2, reward="judge", delimiters=(";",), answer=r"regex:=(\d)", max_depth=3
    )
    result, engine = await run(method, None, engine=Judging(TREE))
    assert result.answer == "1" and result.trace.branches["0.0"].scores == [1.0]
    assert result.trace.branches["0.1"].scores == [0.0] and result.trace.branches["0.1"].pruned
    assert engine.asked["qb;"] == 0 and not engine.branches
    requests = [prompt for prompt in engine.prompts if "Problem:\nq\n\nSolution:\na;\n\n" in prompt]
    assert requests and "not finished yet" in requests[0]
    assert any("=1" in prompt and "It ends here." in prompt for prompt in engine.prompts)


async def test_a_question_that_leaves_the_policy_no_room_to_judge_itself_is_refused():
    method = TreeSearch(prompt="q", question="q" * 250, strategy="rebase", reward="judge")
    with pytest.raises(PromptTooLong, match="^the policy has no room to judge itself: [^(]*raise context_limit$"):
        await run(method, None, engine=ScriptedEngine(["Yes"], context_limit=200))


class Thinking(Judging):
    """Never comes to a judgement."""

    async def complete(self, generation):
        if "Problem:" in self.tokenizer.decode(generation.branch.tokens):
            await forever()
        return await super().complete(generation)


async def test_a_judge_is_stopped_by_the_deadline():
    method = TreeSearch(prompt="q", strategy="rebase", width=2, reward="judge", delimiters=(";",))
    result, engine = await run(method, None, engine=Thinking(TREE), seconds=1000)
    assert (result.text, result.finish_reason) == ("a;", Finish.DEADLINE) and not engine.branches


async def test_judgements_that_nobody_waits_for_are_stopped():
    engine = Thinking(TREE)
    reader = Reply("Yes", "No", 3, engine.tokenizer, knows=False)
    scorer = TreeScorer(engine, _Request("?"), reader, "q", job="j", priority=0)
    root = Node(score=1.0)
    nodes = [Node(parent=root, text=text) for text in ("a;", "b;")]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(scorer.score(nodes), 0.05)
    for branch in scorer._branches.values():
        branch.rewind(0)  # none is busy
    scorer.close()
    assert not engine.branches


async def test_the_judge_compares_the_probabilities_of_two_words():
    """On a model, against the log-probabilities that the engine gives for the whole request."""
    engine = NativeEngine.load(policy(), kv_tokens=4096)
    tokenizer = engine.tokenizer
    root = Node(score=1.0)
    first = Node(parent=root, text=" 63 - 9 = 54 : 54 5 2 ;")
    last = Node(parent=first, text=" 54 + 2 = 56 : 56 5 ;")

    async def ask(steps):
        branch = engine.open(tokenizer.encode(" ".join(f"24 {steps} hit".split())))
        done = await branch.generate(SamplingParams(max_tokens=1, logprobs=20))
        branch.close()
        return done.top_logprobs[0]

    async with running(engine):
        top = [await ask(first.text), await ask(first.text + last.text)]
        good, bad = next(pair for pair in itertools.permutations(top[0], 2) if all(i in top[1] for i in pair))
        expected = [1 / (1 + math.exp(t[bad] - t[good])) for t in top]
        reader = Reply(tokenizer.decode([good]), tokenizer.decode([bad]), 1, tokenizer, knows=True)
        scorer = TreeScorer(engine, Words(), reader, "24", job="j", priority=0)
        found = [*await scorer.score([first]), *await scorer.score([last])]
        assert found == pytest.approx(expected, abs=1e-5) and abs(found[0] - found[1]) > 1e-4
        # The reply to the first request is taken back, and its steps are not read again.
        assert scorer.statistics["prefilled_tokens"] < scorer.statistics["stateless_tokens"]
        scorer.close()
        assert engine.num_branches == 0


class Words(Frame):
    """A request in the words of the test's tokenizer."""

    def tokens(self, tokenizer, before, question, steps, is_complete):
        return tokenizer.encode(" ".join(f"{question} {''.join(steps)} hit".split()))


def test_a_judge_that_cannot_tell_is_refused():
    with pytest.raises(InvalidInput, match="the same"):
        Judge(good="Yes", bad="yes ").check(ScriptedEngine([]))
    with pytest.raises(InvalidInput, match="policy itself"):
        Judge(options={"device": "cpu"}).check(ScriptedEngine([]))


def test_self_certainty_is_json():
    method = TreeSearch(prompt="q", reward={"reward": "self_certainty", "over": "step"})
    assert method.reward == SelfCertainty(over="step") and TreeSearch(**method.model_dump(mode="json")) == method
