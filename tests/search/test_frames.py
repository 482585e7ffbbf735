"""Formats of published process reward models: small random ones, scored by the engine and by transformers as the
models' own code does it."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from plait import Runtime, TreeSearch
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.errors import InvalidInput
from plait.search import PRM
from plait.search.node import Node
from plait.search.rewards.frames import PUBLISHED, QWEN_SYSTEM, bodies
from plait.search.rewards.tree import TreeScorer
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.test_engine import running

QUESTION = "What is 3 + 4 - 2?"
STEPS = ["Step 1: 3 + 4 = 7\n\n", "Step 2: 7 - 2 = 5\nso it is 5\n\n", "The answer is: 5"]
OTHER = "Step 1: 3 + 4 = 8\n\n"
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<extra_0>", "ки"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_tokenizer(folder):
    """Bytes, in pieces as Qwen cuts them, and the special tokens that the formats use."""
    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    pieces = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+"), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=token != "ки", normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return HFTokenizer.load(folder)


def model_of(kind):
    """(transformers model, folder, tokenizer, head of the plain computation)."""
    family = "qwen2" if kind in ("qwen", "skywork") else "llama"
    model, folder = tiny(family, vocab_size=256 + len(SPECIAL), tie_word_embeddings=False, max_position_embeddings=1024)
    tokenizer = save_tokenizer(folder)
    names = {"qwen": "Qwen2ForProcessRewardModel", "skywork": "Qwen2ForPrmModel"}
    if kind not in names:
        return model, folder, tokenizer, None
    torch.manual_seed(7)
    size = model.config.hidden_size
    if kind == "qwen":
        head = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 2))
        prefix = "score."
    else:
        head, prefix = torch.nn.Linear(size, 1), "v_head.summary."
    for parameter in head.parameters():
        parameter.data.mul_(4)
    weights = load_file(folder / "model.safetensors")
    if kind == "qwen":
        del weights["lm_head.weight"]
    weights |= {prefix + name: tensor.clone() for name, tensor in head.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [names[kind]]}))
    return model, folder, tokenizer, head


@torch.inference_mode()
def expected(kind, model, tokenizer, head, steps):
    """The last step's score by the published code's formula, on the whole text."""

    def run(ids, of=model):
        return of(torch.tensor([ids]))

    def encode(text):
        return tokenizer._tokenizer.encode(text, add_special_tokens=False).ids

    words = [encode("+")[0], encode("-")[0]]
    clean = [step.strip() for step in steps]
    if kind == "math_shepherd":
        ids = encode(f"{QUESTION} " + "\n".join(f"{step} ки" for step in clean))
        places = [i for i, token in enumerate(ids) if token == encode("ки")[0]]
        return run(ids).logits[0, places[-1], words].softmax(-1)[0].item()
    if kind == "llemma":
        ids = encode(f"{QUESTION}\n" + "\n".join(f"{step} ки" for step in clean))
        return run(ids).logits[0, -1].mean().sigmoid().item()
    if kind == "rlhflow":
        text = ""
        for k, step in enumerate(clean):
            content = f"{QUESTION} {step}" if not k else step
            text += f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n+<|im_end|>\n"
        ids = encode(text)
        assert ids[-3] == words[0]  # the last answer
        return run(ids).logits[0, -4, words].softmax(-1)[0].item()
    if kind == "qwen":
        ids = encode(
            f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
            f"<|im_start|>assistant\n{'<extra_0>'.join(clean)}<extra_0><|im_end|>\n"
        )
        at = max(i for i, token in enumerate(ids) if token == encode("<extra_0>")[0])
        return head(run(ids, model.model).last_hidden_state[0, at]).softmax(-1)[1].item()
    ids = encode("<s>" + QUESTION + "\n")
    for line in "\n".join(clean).split("\n"):
        ids += encode(line) + encode("\n")
    return head(run(ids, model.model).last_hidden_state[0, -1])[0].sigmoid().item()


@pytest.mark.parametrize("kind", sorted(PUBLISHED))
async def test_scores_equal_the_published_formula(kind):
    model, folder, tokenizer, head = model_of(kind)
    reward = PRM(model=str(folder), format="auto" if head is not None else kind)
    reward.check(None)
    frame, loaded = reward._load(folder, tokenizer)
    root = Node(score=1.0)
    first, other = (Node(parent=root, text=text) for text in (STEPS[0], OTHER))
    second = Node(parent=first, text=STEPS[1])
    last = Node(parent=second, text=STEPS[2], is_complete=True)
    async with running(NativeEngine.load(folder, headless=head is not None, kv_tokens=8192)) as engine:
        scorer = TreeScorer(engine, frame, loaded, QUESTION, job="j reward", priority=0)
        found = [*await scorer.score([first, other]), *await scorer.score([second]), *await scorer.score([last])]
        wanted = [expected(kind, model, tokenizer, head, steps) for steps in (STEPS[:1], [OTHER], STEPS[:2], STEPS)]
        assert found == pytest.approx(wanted, abs=2e-4)
        assert len({round(score, 3) for score in wanted}) == 4  # a comparison that could fail
        # What a step has in common with the one above is not computed again: but for the frame's ends the text once.
        longest = len(frame.tokens(tokenizer, (), QUESTION, STEPS, True))
        assert scorer.statistics["prefilled_tokens"] < longest + 60 < scorer.statistics["stateless_tokens"]
        scorer.close()
        assert engine.num_branches == 0 and engine.block_usage().used == 0


async def test_a_step_of_nothing_is_as_good_as_the_one_above():
    _, folder, tokenizer, _ = model_of("math_shepherd")
    frame, head = PRM(model=str(folder), format="math_shepherd")._load(folder, tokenizer)
    first = Node(parent=Node(score=1.0), text=STEPS[0])
    empty = Node(parent=first, text="\n\n")
    async with running(NativeEngine.load(folder, kv_tokens=4096)) as engine:
        scorer = TreeScorer(engine, frame, head, QUESTION, job="j", priority=0)
        one = await scorer.score([first])
        assert await scorer.score([empty]) == pytest.approx(one, abs=1e-6)
        scorer.close()


@pytest.mark.parametrize("strategy", ["rebase", "best_of_n"])
async def test_a_search_with_a_published_format(strategy):
    """The reward model is asked the question, not the policy's chat, and runs with the options that it was given."""
    _, folder, tokenizer, _ = model_of("qwen")
    policy, chat = tiny(vocab_size=256 + len(SPECIAL), max_position_embeddings=512)
    save_tokenizer(chat)
    method = TreeSearch(
        prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        strategy=strategy, width=3, delimiters=(" ",), step_tokens=8, max_tokens=24, max_depth=2,
        reward={"reward": "prm", "model": str(folder), "options": {"kv_tokens": 4096, "device": "cpu"}},
    )  # fmt: skip
    assert method.asked(tokenizer) == QUESTION
    async with Runtime(chat, kv_tokens=8192) as runtime:
        result = await (await runtime.submit(method, seed=1))
        (engine,) = runtime._companions._engines.values()
        assert engine.store.usage().total == 4096 // 16 and engine.num_branches == 0
    scores = [score for branch in result.trace.branches.values() for score in branch.scores]
    assert scores and all(0 <= score <= 1 for score in scores)


def test_formats_are_known_by_name_and_by_architecture(tmp_path):
    def frame_of(model):
        return PRM(model=model)._form(tmp_path).frame

    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert frame_of("peiyi9979/math-shepherd-mistral-7b-prm") is PUBLISHED["math_shepherd"].frame
    assert frame_of("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data") is PUBLISHED["rlhflow"].frame
    assert frame_of("tkitsers/Llemma-reward-model") is PUBLISHED["llemma"].frame
    assert PRM(model="Qwen/Qwen2.5-1.5B-Instruct")._form(tmp_path).good == ""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForPrmModel"]}))
    assert frame_of("x") is PUBLISHED["skywork"].frame


def test_a_tag_that_the_model_does_not_have_is_refused():
    _, folder = tiny(vocab_size=300)
    save_tokenizer(folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("ки", "xx"))
    with pytest.raises(InvalidInput, match="must be one token"):
        PRM(model=str(folder), format="math_shepherd").check(None)


texts = st.text(alphabet="ab 1+\nки", max_size=8)


@given(st.lists(texts, min_size=1, max_size=4))
def test_steps_lose_nothing_but_what_separates_them(steps):
    found = bodies(steps)
    assert found and all(body == body.strip() for body in found)
    assert "".join("".join(found).split()) == "".join("".join(steps).split())


@given(st.lists(texts, min_size=1, max_size=4))
def test_every_step_is_tagged_once_however_the_policy_wrote_it(steps):
    tokenizer = TAGGER
    plain = [step.replace("ки", "") for step in steps]
    tagged = [f"{step.rstrip()} ки\n" for step in plain]
    frame = PUBLISHED["math_shepherd"].frame
    if all(step.strip() for step in plain):
        assert frame.tokens(tokenizer, (), "q", tagged, True) == frame.tokens(tokenizer, (), "q", plain, False)


TAGGER = save_tokenizer(tiny(vocab_size=300)[1])
