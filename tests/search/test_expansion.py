"""What strategies are told of the steps that were written."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import pytest

import plait
from plait import Runtime, ScriptedEngine
from plait.search import Node, Selection, Strategy
from plait.tests.runtime.tools import run


class Watching(Strategy):
    """Goes on with the first step, and keeps what it was shown."""

    strategy: Literal["test watching"] = "test watching"
    shown: ClassVar[list[Node]] = []

    @property
    def uses_embeddings(self):
        return True

    def select(self, frontier):
        self.shown.extend(frontier.nodes)
        return Selection(counts=[1] + [0] * (len(frontier.nodes) - 1))


@pytest.mark.parametrize("generator", [None, {"method": "sequential", "prompt": "?", "temperature": 1.0}])
async def test_steps_have_the_blocks_and_the_hidden_states_that_are_theirs(generator):
    Watching.shown.clear()
    search = plait.TreeSearch(
        prompt="seq 24 : 63 9 5 2 ;",
        strategy=Watching(),
        reward=lambda question, steps: len(steps),
        width=2,
        step_tokens=33,
        max_tokens=70,
        delimiters=("none",),
        generator=generator and {**generator, "max_tokens": 33},
    )
    async with Runtime("countdown") as runtime:
        await (await runtime.submit(search))
        size, width = runtime.engine.block_usage().block_size, runtime.engine.model.config.hidden_size
    assert {node.num_tokens for node in Watching.shown} >= {33}
    for node in Watching.shown:
        assert node.blocks == max(1, -(-node.num_tokens // size))
        assert len(node.embedding) == width


class Counting(ScriptedEngine):
    """Its hidden states are how many tokens they were computed over."""

    async def complete(self, generation):
        done = await super().complete(generation)
        done.hidden_state = [float(generation.branch.length)]
        return done


async def test_the_hidden_state_of_a_step_that_was_cut_knows_nothing_of_what_was_taken_back():
    Watching.shown.clear()
    engine = Counting(lambda context: "abc;;longer"[len(context) - 1 :])
    engine.capabilities = replace(engine.capabilities, hidden_states=True)
    search = plait.TreeSearch(
        prompt="q", strategy=Watching(), reward=lambda question, steps: 0.5, width=1, step_tokens=4, delimiters=(";;",)
    )
    await run(search, None, engine=engine)
    assert [node.text for node in Watching.shown][:2] == ["abc;", ";"]
    prompt = Watching.shown[0].embedding[0] - 4
    assert [node.embedding[0] - prompt for node in Watching.shown] == [
        node.trajectory_tokens for node in Watching.shown
    ]
