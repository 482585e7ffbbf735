"""Process reward models on the native engine: scores against transformers, and what they cost."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaForTokenClassification

from plait import Runtime, ScriptedEngine, TreeSearch, UnsupportedModel
from plait.rl.countdown.tokenizer import BOS, IDS, PAD, build, save
from plait.rl.countdown.traces import EOS
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.engines.native.loader import load_model
from plait.runtime.errors import InvalidInput, OutOfBlocks, PromptTooLong
from plait.search import ETS, PRM
from plait.search.node import Node
from plait.search.rewards.frames import Plain
from plait.search.rewards.head import load_head
from plait.search.rewards.tree import TreeScorer
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.test_engine import running
from plait.tests.runtime.tools import run

SHAPE = {"vocab_size": len(IDS), "eos_token_id": IDS[EOS], "bos_token_id": IDS[BOS], "pad_token_id": IDS[PAD]}
PROMPT = "step 24 : 63 9 5 2 ;"
STEPS = [" 63 - 9 = 54 : 54 5 2 ;", " 54 + 2 = 56 : 56 5 ;", " 56 - 5 = 51"]
OTHER = " 63 + 9 = 72 : 72 5 2 ;"


def ids(text):
    return [IDS[word] for word in text.split()]


def language_model(family="llama", **overrides):
    model, folder = tiny(family, **SHAPE, **overrides)
    save(build(), folder, 512)
    return model, folder


def classifier(kind, labels, folder):
    torch.manual_seed(labels)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=labels,
        initializer_range=0.15,
        max_position_embeddings=512,
        **SHAPE,
    )
    model = kind(config).eval()
    if kind is LlamaForTokenClassification:
        torch.nn.init.normal_(model.score.bias)
    model.save_pretrained(folder)
    save(build(), folder, 512)
    return model, folder


def expected(model, text, good=None):
    """The score at the end of a text, by transformers."""
    tokens = torch.tensor([[IDS[BOS], *ids(text)]])
    with torch.inference_mode():
        if isinstance(model, LlamaForSequenceClassification):
            logits = model(tokens).logits[0]
        else:
            logits = model(tokens).logits[0, -1]
    if good is not None:
        logits = logits[good]
    return torch.sigmoid(logits[0]).item() if len(logits) == 1 else torch.softmax(logits, -1)[-1].item()


@pytest.fixture(params=["words", "capped words", "token 1", "token 2", "token 3", "sequence 1", "sequence 2"])
def reward_model(request, tmp_path):
    """(transformers model, folder, rows of its logits that count)."""
    kind, _, labels = request.param.partition(" ")
    if kind == "capped":
        return *language_model("gemma2", final_logit_softcapping=1.0, initializer_range=0.5), ids("- +")
    if kind == "words":
        return *language_model(), ids("- +")
    cls = LlamaForTokenClassification if kind == "token" else LlamaForSequenceClassification
    return *classifier(cls, int(labels), tmp_path / "model"), None


def scorer_of(engine, folder, tag=""):
    head = load_head(folder, engine.tokenizer, "+", "-")
    return TreeScorer(engine, Plain(tag), head, PROMPT, job="j reward", priority=0)


async def test_scores_equal_transformers(reward_model):
    model, folder, good = reward_model
    async with running(NativeEngine.load(folder, headless=True, kv_tokens=4096)) as engine:
        scorer = scorer_of(engine, folder)
        root = Node()
        first, other = Node(parent=root, text=STEPS[0]), Node(parent=root, text=OTHER)
        second = Node(parent=first, text=STEPS[1])
        last = Node(parent=second, text=STEPS[2], is_complete=True)
        found = await scorer.score([first, other])
        blocks, branches = engine.block_usage("j reward").used, engine.num_branches
        scorer.release([other])
        assert engine.block_usage("j reward").used < blocks and engine.num_branches == branches - 1
        found += await scorer.score([second])
        found += await scorer.score([last])
        texts = [PROMPT + STEPS[0], PROMPT + OTHER, PROMPT + "".join(STEPS[:2]), PROMPT + "".join(STEPS) + f" {EOS}"]
        assert found == pytest.approx([expected(model, text, good) for text in texts], abs=1e-4)
        assert len({round(x, 4) for x in found}) == 4  # a comparison that could fail
        prompt, lengths = 8 + 1, [len(ids(text)) + 1 for text in texts]
        assert scorer.statistics["stateless_tokens"] == sum(lengths)
        # The prompt once, and every step once.
        assert scorer.statistics["prefilled_tokens"] == prompt + sum(len(ids(s)) for s in (*STEPS, OTHER)) + 1
        assert scorer.statistics["peak_kv_blocks"] > 0
        scorer.close()


async def test_a_tag_is_read_behind_every_step():
    model, folder = language_model()
    async with running(NativeEngine.load(folder, kv_tokens=4096)) as engine:
        scorer = scorer_of(engine, folder, tag="hit")
        first = Node(parent=Node(), text=STEPS[0])
        second = Node(parent=first, text=STEPS[2], is_complete=True)
        found = [*await scorer.score([first]), *await scorer.score([second])]
        texts = [f"{PROMPT}{STEPS[0]} hit", f"{PROMPT}{STEPS[0]} hit{STEPS[2]} hit"]
        assert found == pytest.approx([expected(model, text, ids("- +")) for text in texts], abs=1e-4)
        scorer.close()


async def test_what_does_not_fit_has_no_score():
    _, folder = language_model()
    async with running(NativeEngine.load(folder, kv_tokens=4096, context_limit=24)) as engine:
        scorer = scorer_of(engine, folder)
        first = Node(parent=Node(), text=STEPS[0])
        long = Node(parent=first, text=STEPS[1] * 3)
        found = await scorer.score([first])
        assert not math.isnan(found[0]) and math.isnan((await scorer.score([long]))[0])
        assert (scorer.statistics["too_long"], scorer.statistics["out_of_memory"]) == (1, 0)
        scorer.close()


async def test_what_finds_no_memory_has_no_score():
    _, folder = language_model()
    async with running(NativeEngine.load(folder, kv_tokens=32, block_size=16)) as engine:
        scorer = scorer_of(engine, folder)
        long = Node(parent=Node(), text=STEPS[1] * 6)
        assert math.isnan((await scorer.score([long]))[0])
        assert (scorer.statistics["too_long"], scorer.statistics["out_of_memory"]) == (0, 1)
        scorer.release([long])
        long.text = STEPS[0]  # as where there is room meanwhile
        assert not math.isnan((await scorer.score([long]))[0])
        assert scorer.statistics["out_of_memory"] == 0
        scorer.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"context_limit": 32}, (2, 0)), ({"kv_tokens": 32, "block_size": 16}, (0, 2))],
)
async def test_steps_that_do_not_fit_are_counted_once_however_often_they_are_asked_for(options, expected):
    _, folder = language_model()
    reward = PRM(model=str(folder), good="+", bad="-", options=options)
    method = TreeSearch(prompt=PROMPT, strategy="rebase", width=2, merge=False, reward=reward, step_tokens=250)
    result, _ = await run(method, None, engine=ScriptedEngine([STEPS[0] * 4] * 2))
    statistics = result.details["reward"]
    assert (statistics["too_long"], statistics["out_of_memory"]) == expected
    assert result.usage.counts["unscored_steps"] == sum(expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"context_limit": 4}, PromptTooLong, "do not fit the context limit of 4 tokens"),
        ({"kv_tokens": 16}, OutOfBlocks, "raise kv_tokens"),
    ],
)
async def test_a_question_that_does_not_fit_names_the_reward_model(options, error, message):
    _, folder = language_model()
    async with running(NativeEngine.load(folder, **options)) as engine:
        head = load_head(folder, engine.tokenizer, "+", "-")
        with pytest.raises(error, match=f"^the reward model {engine.name} has no room for the question: .*{message}"):
            TreeScorer(engine, Plain(), head, PROMPT * 9, job="j reward", priority=0)


def test_an_option_that_is_refused_is_told_as_the_reward_models():
    _, folder = language_model()
    with pytest.raises(InvalidInput, match=f"^reward model {folder}: device 'nowhere' cannot be used here"):
        PRM(model=str(folder), good="+", bad="-", options={"device": "nowhere"}).check(ScriptedEngine(["x"]))


@pytest.mark.parametrize("strategy", [ETS(), "rebase", "best_of_n"])
async def test_a_search_frees_the_reward_models_memory(strategy):
    _, folder = language_model()
    method = TreeSearch(
        prompt=PROMPT,
        strategy=strategy,
        width=6,
        reward=PRM(model=str(folder), good="+", bad="-"),
        delimiters=(";",),
        step_tokens=6,
        max_depth=3,
        max_tokens=18,
        answer="equations",
    )
    async with Runtime(folder, kv_tokens=8192) as runtime:
        result = await (await runtime.submit(method, seed=3))
        again = await (await runtime.submit(method, seed=3))
        for name, branch in result.trace.branches.items():
            twin = again.trace.branches[name]
            assert result.trace.text_of(name) == again.trace.text_of(name) and branch.pruned == twin.pruned
            assert branch.scores == pytest.approx(twin.scores, abs=1e-5)
        (engine,) = runtime._companions._engines.values()
        assert engine.num_branches == 0 and engine.block_usage().used == 0
        engine.store.check_integrity()
        assert runtime.engine.block_usage().used == 0
        cost = result.details["reward"]
        assert 0 < cost["prefilled_tokens"] < cost["stateless_tokens"]
        scores = [score for branch in result.trace.branches.values() for score in branch.scores]
        assert scores and all(0 <= score <= 1 for score in scores)
    assert engine._is_closed


async def test_a_cancelled_search_frees_everything():
    _, folder = language_model()
    method = TreeSearch(
        prompt=PROMPT,
        strategy="rebase",
        width=6,
        reward=PRM(model=str(folder), good="+", bad="-"),
        delimiters=(";",),
        step_tokens=6,
    )
    async with Runtime(folder, kv_tokens=8192) as runtime:
        job = await runtime.submit(method)
        async for event in job:
            if event.type == "scored":
                job.cancel()
        await job.wait()
        (engine,) = runtime._companions._engines.values()
        assert engine.num_branches == 0 and engine.block_usage().used == 0
        assert runtime.engine.block_usage().used == 0


def test_a_classifier_is_no_policy(tmp_path):
    classifier(LlamaForTokenClassification, 2, tmp_path / "model")
    with pytest.raises(UnsupportedModel, match="LlamaForTokenClassification"):
        load_model(tmp_path / "model")


def test_models_that_cannot_judge_are_refused(tmp_path):
    model, folder = language_model()
    with pytest.raises(InvalidInput, match="one token"):
        PRM(model=str(folder), good="+ +", bad="-").check(None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"config\.json|tokenizer\.json"):
        PRM(model=str(tmp_path / "empty")).check(None)
    with pytest.raises(InvalidInput, match="nothing marks as a reward model: give its format"):
        PRM(model=str(folder)).check(None)
    with pytest.raises(InvalidInput, match="nothing marks as a reward model"):
        PRM(model=str(folder), format="plain", tag="hit", good="+").check(None)
    (folder / "prm.json").write_text("[]")
    with pytest.raises(InvalidInput, match="must hold a JSON object"):
        PRM(model=str(folder)).check(None)
    (folder / "prm.json").write_text('{"format": "oracle"}')
    with pytest.raises(InvalidInput, match="unknown format 'oracle'"):
        PRM(model=str(folder)).check(None)
    (folder / "prm.json").write_text('{"good": "+", "bad": "-"}')
    PRM(model=str(folder)).check(None)
    with pytest.raises(InvalidInput, match="device 'abacus'"):
        PRM(model=str(folder), options={"device": "abacus"}).check(None)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="holds no weights"):
        PRM(model=str(folder)).check(None)


def test_a_head_is_tied_where_the_family_says_so():
    """As config.json of Gemma, which leaves it to that."""
    model, folder = language_model("gemma2", tie_word_embeddings=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if name != "tie_word_embeddings"})
    )
    head = load_head(folder, load_tokenizer(folder))
    assert torch.equal(torch.tensor(head.layers[0][0]), model.lm_head.weight[ids("+ -")])


def test_a_mean_of_capped_logits_is_refused():
    _, folder = language_model("gemma2")
    with pytest.raises(InvalidInput, match="caps its logits"):
        load_head(folder, load_tokenizer(folder), kind="mean")
