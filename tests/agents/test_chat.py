"""Conversations: token for token those of the model's own chat template, and nothing is read twice."""

from __future__ import annotations

import pytest

from plait import SamplingParams, ScriptedEngine
from plait.agents.chat import Chat, common_prefix, shared_prompt
from plait.agents.costs import StageCost
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.result import Finish
from plait.tests import real
from plait.tests.runtime.tools import context

SYSTEM = [{"role": "system", "content": "Be kind."}]
GREEDY = SamplingParams(max_tokens=12)


def opened(ctx, messages, sampling, cost):
    return Chat(ctx.open(shared_prompt(messages, ctx.tokenizer), label="c"), messages, sampling, cost)


async def test_a_conversation_is_what_the_template_makes_of_it_and_grows():
    engine = ScriptedEngine(["one", "two", "three"])
    async with context(engine) as ctx:
        cost = StageCost(stage="s", model="m")
        chat = opened(ctx, SYSTEM, SamplingParams(), cost)
        assert [(await chat.ask(text)).text for text in ("A?", "B?", "C?")] == ["one", "two", "three"]
        expected = "<system>Be kind.\n<user>A?\n<assistant>one"
        assert engine.prompts[1] == expected + "\n<user>B?\n<assistant>"
        assert engine.tokenizer.decode(chat.branch.tokens).startswith("<s>" + engine.prompts[2])
        # In characters, and BOS: every call reads its whole context, of which it knows the one before and its answer.
        lengths = [len(prompt) + 1 for prompt in engine.prompts]
        known = [0, lengths[0] + len("one"), lengths[1] + len("two")]
        assert (cost.calls, cost.output) == (3, len("one" + "two" + "three") + 3), "and an EOS each"
        assert (cost.cached, cost.input) == (sum(known), sum(lengths) - sum(known))


async def test_forks_share_what_was_read_and_go_their_own_ways():
    engine = ScriptedEngine(lambda text: text[-14:-12])
    async with context(engine) as ctx:
        cost = StageCost(stage="s", model="m")
        chat = opened(ctx, SYSTEM, SamplingParams(), cost)
        chat.read("the same question of all")
        await chat.prefill()
        shared = len(chat.branch.tokens)
        forks = chat.fork(3, ["a", "b", "c"])
        for one in forks:
            await one.ask("the same question of all")
        assert cost.input == shared and cost.cached == 3 * shared
        await forks[0].ask("another")
        assert forks[1].messages[-2]["content"] == "the same question of all" and len(forks[0].messages) == 5
        assert ctx.state.usage.prompt_tokens < shared


class Merging(CharTokenizer):
    """Writes what the model said in other tokens than the model did: a capital A for `a`."""

    def chat(self, messages, tools=()):
        return [token if token != ord("a") + 2 else ord("A") + 2 for token in super().chat(messages)]


async def test_where_the_template_writes_it_otherwise_it_is_read_anew_from_there():
    engine = ScriptedEngine(["xay", "done"], tokenizer=Merging())
    async with context(engine) as ctx:
        chat = opened(ctx, [], SamplingParams(), StageCost(stage="s", model="m"))
        await chat.ask("Q")
        await chat.ask("R")
        assert engine.prompts[1] == "<user>Q\n<AssistAnt>xAy\n<user>R\n<AssistAnt>".replace("<user>", "<user>")


async def test_what_a_model_thinks_is_no_part_of_its_answer():
    async with context(ScriptedEngine(["<think>Is <done></done> right?</think>\nNo."])) as ctx:
        chat = opened(ctx, SYSTEM, SamplingParams(), StageCost(stage="s", model="m"))
        assert (await chat.ask("q")).text == "\nNo." and "<think>" in chat.messages[-1]["content"]


class Opening(CharTokenizer):
    """Its chat template begins the model's thoughts."""

    def chat(self, messages, tools=()):
        return [*super().chat(messages, tools), *self.encode("<think>\n")[1:]]


DRAFT = "I write <edit> now:\n<edit>\nno\n</edit>\nor\n<edit>\n"
ABOUT = '<edit>\nEND = "</think>"\n</edit>'


@pytest.mark.parametrize(
    "thoughts", ["Hm.", DRAFT, f"{DRAFT}no\n</edit>\n", "", "Between <edit>\nand </edit>", "<done>"]
)
@pytest.mark.parametrize(
    "answer", [ABOUT, f"It is `</think>`:\n{ABOUT}", f"{ABOUT}\nNow it is </think>.", "<done></done>"]
)
@pytest.mark.parametrize("opened_by", ["template", "model"])
async def test_an_answer_may_be_about_thinking(opened_by, thoughts, answer):
    said = f"{'<think>' if opened_by == 'model' else ''}{thoughts}</think>\n{answer}"
    tokenizer = Opening() if opened_by == "template" else CharTokenizer()
    async with context(ScriptedEngine([said], tokenizer=tokenizer)) as ctx:
        chat = opened(ctx, SYSTEM, SamplingParams(), StageCost(stage="s", model="m"))
        assert (await chat.ask("q")).text == f"\n{answer}"


@pytest.mark.parametrize(
    "text, answer",
    [
        (ABOUT, ABOUT),
        (f"{ABOUT}\nNow it is </think>.", f"{ABOUT}\nNow it is </think>."),
        (f"Here: {ABOUT}", f"Here: {ABOUT}"),
        (f"{ABOUT}\n<edit>\nyes\n</edit>", f"{ABOUT}\n<edit>\nyes\n</edit>"),
        ("Hm.</think>\nNo.", "\nNo."),
        (f"Hm.</think>\n{ABOUT}", f"\n{ABOUT}"),
        (f"I write <edit> now.</think>\n{ABOUT}", f"\n{ABOUT}"),
        (f"{DRAFT}</think>\n<edit>\nyes\n</edit>", "\n<edit>\nyes\n</edit>"),
        ("<edit>\nno\n</edit>?</think>\n<done></done>", "\n<done></done>"),
        ("I write\n<edit>\nand close.</think>\nSo: <edit>\nyes\n</edit>", "\nSo: <edit>\nyes\n</edit>"),
        (f"{DRAFT}no\n</edit></think>\nNo:</think>\n{ABOUT}", f"\n{ABOUT}"),
        ("<think>Hm.", "<think>Hm."),
        (f"<think>\n\n</think>\n\n<think>\n{DRAFT}no\n</edit></think>\n{ABOUT}", f"\n{ABOUT}"),
    ],
)
async def test_thoughts_end_where_no_edit_is(text, answer):
    async with context(ScriptedEngine([text])) as ctx:
        chat = opened(ctx, SYSTEM, SamplingParams(), StageCost(stage="s", model="m"))
        assert (await chat.ask("q")).text == answer


@pytest.mark.parametrize(
    "limits, finish",
    [({"total_tokens": 30}, Finish.TOTAL_TOKENS), ({"critical_tokens": 30}, Finish.CRITICAL_TOKENS)],
)
async def test_want_of_tokens_is_an_answer_and_nothing_was_said(limits, finish):
    async with context(ScriptedEngine("x" * 5), **limits) as ctx:
        chat = opened(ctx, SYSTEM, SamplingParams(), StageCost(stage="s", model="m"))
        found = [await chat.ask("q") for _ in range(4)]
        assert found[-1].finish is finish and found[-1].text == "" and found[-1].is_cut
        said = sum(1 for one in found if one.text)
        assert len(chat.messages) == 1 + 2 * said and ctx.state.usage.total_tokens <= 30


async def test_a_window_that_is_full_is_an_answer():
    engine = ScriptedEngine("x" * 20, context_limit=300)
    async with context(engine) as ctx:
        chat = opened(ctx, SYSTEM, SamplingParams(), StageCost(stage="s", model="m"))
        found = [await chat.ask("q" * 40) for _ in range(4)]
        assert found[0].text and found[-1].finish is Finish.CONTEXT
        assert len(chat.branch.tokens) <= 300


def test_common_prefixes():
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2 and common_prefix([], [1]) == 0 and common_prefix([1], [1, 2]) == 1


@pytest.mark.parametrize("name", ["smol135", "q05"])
async def test_real_templates_are_followed_token_for_token(name):
    """Whatever the model wrote, the branch then holds exactly what transformers renders and encodes."""
    folder = real.folder(name)
    from transformers import AutoTokenizer

    from plait.runtime.engines.registry import load_engine

    theirs = AutoTokenizer.from_pretrained(folder)
    engine = load_engine(str(folder), {"kv_tokens": 4096})
    await engine.start()
    async with context(engine) as ctx:
        chat = opened(ctx, SYSTEM, GREEDY, StageCost(stage="s", model="m"))
        prefix = shared_prompt(SYSTEM, engine.tokenizer)
        for text in ("Name three colours.", "\n\n  And\ttwo more?\n", "é 🎉"):
            said = [*chat.messages, {"role": "user", "content": text}]
            await chat.ask(text)
            expected = theirs.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=False)
            assert chat.branch.tokens[: len(expected)] == expected and expected[: len(prefix)] == prefix
