"""Workers: what of their text can be taken back."""

from __future__ import annotations

from typing import Any

import pytest

from plait import SamplingParams
from plait.runtime.methods.hogwild.group import Group, Worker
from plait.tests.runtime.engines.native.helpers import IdTokenizer


@pytest.mark.parametrize(
    ("keep", "least", "drop"),
    [(9, 1, 0), (99, 0, 0), (8, 1, 1), (6, 1, 1), (5, 1, 1), (5, 0, 2), (0, 0, 2), (0, 1, 1), (0, 2, 0), (0, 3, 0)],
)
def test_whole_tokens_go_but_never_what_was_given_and_the_least(keep, least, drop):
    branch: Any = None
    worker = Worker(name="A", branch=branch)
    worker.begin([10])
    worker.text += [11, 12]
    assert IdTokenizer(20).decode(worker.text) == "10.11.12."
    assert worker.overhang(IdTokenizer(20), keep, least) == drop


def test_a_step_begins_with_what_is_given_and_the_end_of_the_one_before_is_none_of_it():
    branch: Any = None
    worker = Worker(name="A", branch=branch)
    worker.text, worker.num_given = [1, 2, 3], 1
    assert worker.said == [2, 3]
    worker.begin([7, 8], before=[5])
    assert (worker.pending, worker.text, worker.said) == ([5, 7, 8], [7, 8], [])


class Text:
    """A branch as far as a group moves it about."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.is_closed = False
        self.seen: list[Any] = []

    def rewind(self, length: int) -> None:
        self.length = length

    def block(self) -> Block:
        return Block(self)

    def seal(self) -> Block:
        return Block(self)

    def arrange(self, blocks: list[Block]) -> None:
        self.seen = [block.of for block in blocks]

    def close(self) -> None:
        self.is_closed = True

    async def generate(self, params: SamplingParams) -> None:
        pass


class Block:
    def __init__(self, of: Text) -> None:
        self.of = of
        self.length = of.length

    def close(self) -> None:
        pass


class Opener:
    """A job's context that only opens texts."""

    tokenizer = IdTokenizer(20)

    def __init__(self) -> None:
        self.opened: list[list[int]] = []

    def open(self, tokens: list[int], label: str) -> Text:
        self.opened.append(tokens)
        return Text(len(tokens))


def group_of_two(layout: Any = "combined") -> tuple[Group, Any, Any]:
    """A group without headings, and its workers, each with two tokens given, three sampled, the last not computed."""
    context: Any = Opener()
    group = Group(context, layout, others="", with_headers=False)
    group._ctx.tokenizer.encode_continuation = lambda before, text: [19] if text else []  # type: ignore[method-assign]
    branches: list[Any] = [Text(5), Text(5)]
    a, b = (
        Worker(name=name, branch=branch, text=[1, 2, 3, 4, 5], num_given=2)
        for name, branch in zip("AB", branches, strict=True)
    )
    for worker in (b, a):
        group.add(worker, "AB")
    group.arrange()
    return group, a, b


def test_what_is_taken_back_is_computed_again_from_its_last_token_on():
    group, a, _ = group_of_two()
    group.take_back(a, 2)
    assert (a.text, a.pending, a.branch.length, a.place, a.banned) == ([1, 2, 3], [3], 2, 3, {4})
    a.text, a.pending, a.branch.length = [1, 2, 3, 7], [], 4
    group.take_back(a, 1)
    assert (a.text, a.pending, a.branch.length, a.banned) == ([1, 2, 3], [3], 2, {4, 7})
    a.text, a.branch.length = [1, 2], 2
    group.take_back(a, 1)
    assert (a.text, a.place, a.banned) == ([1], 1, {2})


@pytest.mark.parametrize("pending", [[], [4, 5]])
def test_who_leaves_is_broken_off_behind_its_last_token(pending):
    group, a, b = group_of_two()
    if pending:
        a.pending, a.branch.length = pending, 3
    before = a.branch.length
    group.leave(a)
    # What was sampled last and never computed, or what waited to be, stands in front of the pivot.
    context: Any = group._ctx
    assert context.opened == [[*(pending or [5]), 19]]
    written, pivot = group.history[0].blocks
    assert (written.length, pivot.length) == (before - (not pending), len(pending or [5]) + 1)
    assert group.history[0].text == [1, 2, 3, 4, 5, 19] and group.workers == [b] and a.branch.is_closed
    group.arrange()
    assert b.branch.seen == [written.of, pivot.of]
    assert group.forget_oldest() and not group.forget_oldest()
    group.arrange()
    assert b.branch.seen == [] and group.forgotten == [[1, 2, 3, 4, 5, 19]]


def test_views_are_made_anew_only_where_something_has_changed():
    group, a, b = group_of_two()
    assert (a.branch.seen, b.branch.seen) == ([b.branch], [a.branch])
    a.branch.seen = []
    group.arrange()
    assert a.branch.seen == []
    group.finish_step(a, [8], drop=1, closing=[9])
    assert (group.history[0].text, a.text, a.pending, a.last_said, a.step) == (
        [1, 2, 3, 4, 9],
        [8],
        [4, 9, 8],
        [3, 4],
        2,
    )
    assert a.branch.length == 3  # the last token that stays is computed with the next block
    group.arrange()
    assert a.branch.seen == [a.branch, b.branch] and b.branch.seen == [a.branch, a.branch]


async def test_the_prompt_counts_by_its_positions_and_what_is_forgotten_no_more():
    group, a, _ = group_of_two()
    prompt: Any = Text(7)
    prompt.position = 30
    await group.start(prompt)
    assert group.num_tokens == 30 + 5 + 5
    group.finish_step(a, [8])
    assert group.num_tokens == 30 + 5 + 1 + 5
    group.forget_oldest()
    assert group.num_tokens == 30 + 1 + 5
    assert group.whole() == [1, 2, 3, 4, 5, 8, 19, 1, 2, 3, 4, 5, 19]
