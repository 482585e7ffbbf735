"""The transformers engine: equal to the native one where both can, and able where that one is not."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    JambaConfig,
    MambaConfig,
    MiniMaxConfig,
    OPTConfig,
    OPTForCausalLM,
    RecurrentGemmaConfig,
    RobertaConfig,
    RwkvConfig,
)

from plait import (
    APR,
    FinishReason,
    Hogwild,
    InvalidInput,
    Runtime,
    SamplingParams,
    Sequential,
    UnsupportedByEngine,
    UnsupportedModel,
)
from plait.runtime.engines.registry import MODELS as SHIPPED_MODELS
from plait.runtime.engines.registry import load_engine
from plait.runtime.engines.transformers.logits import shape
from plait.tests.real import folder

SIZES: dict[str, Any] = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **SIZES)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=64, **SIZES,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, word_embed_proj_dim=32,
            max_position_embeddings=64, **SIZES,
        )
    ),
}  # fmt: skip
CACHED = {
    "bamba": lambda: BambaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=4, **SIZES,
    ),
    "jamba": lambda: JambaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        attn_layer_period=2, attn_layer_offset=1, num_experts=1, mamba_d_state=4, use_mamba_kernels=False, **SIZES,
    ),
    "mamba": lambda: MambaConfig(hidden_size=32, num_hidden_layers=2, **SIZES),
    "minimax": lambda: MiniMaxConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        head_dim=16, layer_types=["linear_attention", "full_attention"], num_local_experts=1, num_experts_per_tok=1,
        **SIZES,
    ),
    "recurrent_gemma": lambda: RecurrentGemmaConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, intermediate_size=96,
        lru_width=32, attention_window_size=16, **SIZES,
    ),
    "roberta": lambda: RobertaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, is_decoder=True,
        max_position_embeddings=64, **SIZES | {"pad_token_id": 2},  # whose place it does not count
    ),
    "rwkv": lambda: RwkvConfig(hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, **SIZES),
}  # fmt: skip


def saved(tmp_path, make):
    torch.manual_seed(3)
    model = make().eval()
    model.save_pretrained(tmp_path)
    words = {f"w{i}": i for i in range(40)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return model


async def test_what_needs_views_is_refused_at_submit():
    async with Runtime("transformers:countdown") as rt:
        for method in (Hogwild(prompt="a"), Sequential(prompt="c", contexts=["a", "b"], encoding="parallel")):
            with pytest.raises(UnsupportedByEngine, match="native"):
                await rt.submit(method)
        assert not rt.jobs and not rt.engine.branches


@pytest.mark.parametrize("name", MODELS)
async def test_families_that_the_native_engine_does_not_know(tmp_path, name, caplog):
    model = saved(tmp_path, MODELS[name])
    with pytest.raises(UnsupportedModel):
        load_engine(tmp_path, {})
    prompt = [5, 9, 7, 3]
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    params = SamplingParams(max_tokens=12, ignore_eos=True, logprobs=2, certainty=True)
    async with Runtime(f"transformers:{tmp_path}") as rt:
        assert "slow" in caplog.text
        root = rt.engine.open(prompt)
        first, second = root.fork(2)
        one = await first.generate(params)
        two = await second.generate(params)
        assert one.token_ids == two.token_ids == expected[0, 4:].tolist()
        with torch.no_grad():
            logits = torch.log_softmax(model(expected).logits[0, 3:-1], -1)
        assert one.logprobs == pytest.approx(logits.max(-1).values.tolist(), abs=1e-4)
        uniform = torch.full_like(logits, 1 / logits.shape[-1])
        distance = torch.nn.functional.kl_div(logits, uniform, reduction="batchmean").item()
        assert one.certainty == pytest.approx(distance, abs=1e-4)
        first.rewind(6)
        again = await first.generate(SamplingParams(max_tokens=10, ignore_eos=True))
        assert again.token_ids == one.token_ids[2:]


async def test_merged_branches_end_at_the_window_of_the_model(tmp_path):
    saved(tmp_path, MODELS["gpt2"])
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    async with Runtime(f"transformers:{tmp_path}") as rt:
        root = rt.engine.open([5] * 10)
        paths = root.fork(2)
        for path in paths:
            path.extend([6] * 25)
        root.merge(paths)
        assert root.length == 60 and root.position == 35
        done = await root.generate(params)
        assert (len(done.token_ids), done.finish_reason) == (4, FinishReason.CONTEXT)
        assert (await root.generate(params)).finish_reason is FinishReason.CONTEXT


@pytest.mark.parametrize("name", CACHED)
async def test_all_is_read_that_is_put_behind_what_is_known_where_it_stands(tmp_path, name):
    def wide():  # Each token changes much in these.
        model = AutoModelForCausalLM.from_config(CACHED[name]())
        for weights in model.parameters():
            if weights.dim() > 1:
                torch.nn.init.normal_(weights, std=0.25)
        return model

    model = saved(tmp_path, wide)
    params = SamplingParams(max_tokens=3, ignore_eos=True, logprobs=0)
    async with Runtime(f"transformers:{tmp_path}") as rt:
        branch = rt.engine.open([5, 9, 7, 3])
        await branch.generate(params)
        (child,) = branch.fork(1)
        child.extend([8, 6, 4])
        told = (await child.generate(params)).logprobs
    ids = torch.tensor([child.tokens])
    with torch.no_grad():
        logits = torch.log_softmax(model(ids, use_cache=False).logits[0], -1)
    assert told == pytest.approx([float(logits[i - 1, ids[0, i]]) for i in (10, 11, 12)], abs=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        Sequential(prompt="seq 24 : 63 9 5 2 ;", max_tokens=60),
        APR(prompt="apr 24 : 9 8 7 ;", dialect="compact", context_limit=256),
    ],
)
async def test_tokens_are_the_native_engines_on_the_shipped_model(method):
    texts = []
    for model in ("countdown", "transformers:countdown"):
        async with Runtime(model) as rt:
            texts.append((await (await rt.submit(method))).text)
    assert texts[0] == texts[1] and texts[0]


async def test_tokens_are_the_native_engines_on_a_real_model():
    path = folder("smol135")
    found = []
    for model in (str(path), f"transformers:{path}"):
        async with Runtime(model) as rt:
            branch = rt.engine.open(rt.engine.tokenizer.encode("The capital of France is"))
            found.append((await branch.generate(SamplingParams(max_tokens=16))).token_ids)
    assert found[0] == found[1]


async def test_samples_are_seeded_and_branches_differ():
    found = []
    params = SamplingParams(max_tokens=12, temperature=3.0, ignore_eos=True)
    async with Runtime("transformers:countdown") as rt:
        for seed in (1, 1, 2):
            branches = rt.engine.open([0, 5], seed=seed).fork(2)
            found.append([(await branch.generate(params)).token_ids for branch in branches])
        branch, again = branches[0], []
        for _ in range(3):
            branch.rewind(2)
            again.append(tuple((await branch.generate(params)).token_ids))
    assert found[0] == found[1] != found[2] and found[0][0] != found[0][1]
    assert len(set(again)) == 3


def test_branches_run_together_in_one_event_loop_after_another():
    engine = load_engine("transformers:countdown", {})

    async def use():
        async with Runtime(engine=engine):
            branches = engine.open([0, 5]).fork(2)
            done = await asyncio.gather(*(branch.generate(SamplingParams(max_tokens=2)) for branch in branches))
        return [one.token_ids for one in done]

    assert asyncio.run(use()) == asyncio.run(use())


def test_probabilities_are_cut_as_asked_for():
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0])
    kept = lambda **fields: shape(logits, [0], SamplingParams(temperature=1.0, **fields)).nonzero()[:, 0].tolist()  # noqa: E731
    assert kept(top_k=2) == [0, 1] and kept(top_p=0.6) == [0] and kept(min_p=0.3) == [0, 1]
    assert kept(forbidden_ids=(0,)) == [1, 2, 3] and kept() == [0, 1, 2, 3]
    assert int(shape(logits, [0], SamplingParams(repetition_penalty=2.0)).argmax()) == 1
    assert int(shape(logits, [], SamplingParams(logit_bias={3: 9.0})).argmax()) == 3
    assert int(shape(logits, [], SamplingParams(logit_bias={1: 1e9, 2: 1e9})).argmax()) == 1
    assert int(shape(-logits, [], SamplingParams(logit_bias={1: 1e9, 2: 1e9})).argmax()) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int3"}, {"dtype": [1]}, {"dtype": {}}, {"context_limit": 0}, {"nonsense": 1},
        {"device": [1]}, {"device": "bogus"}, {"device": "meta"}, {"device": "cuda:99"}, {"device": None},
    ],
)  # fmt: skip
def test_bad_options(options):
    with pytest.raises(InvalidInput):
        load_engine("transformers:countdown", options)


def changed_weights(change):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights, sorted(weights)[3])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def changed_config(**fields):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return damage


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_off(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    "damage",
    [
        changed_weights(lambda weights, name: weights.pop(name)),
        changed_weights(lambda weights, name: weights.update({name: weights[name][:1].clone()})),
        changed_weights(lambda weights, name: weights.update(another=weights[name].clone())),
        *(changed_config(num_hidden_layers=value) for value in (-1, 1, 5, "x")),
        *(changed_config(max_position_embeddings=value) for value in (-5, 0, "x")),
        changed_config(hidden_size="abc"), changed_config(hidden_act=7), changed_config(num_attention_heads=0),
        changed_config(eos_token_id="abc"), changed_config(model_type=[1]), changed_config(quantization_config="x"),
        changed_config(vocab_size=10), pickled, cut_off,
    ],
)  # fmt: skip
def test_damaged_folders_are_refused_in_words(tmp_path, damage):
    shutil.copytree(SHIPPED_MODELS / "countdown", tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises((UnsupportedModel, InvalidInput)):
        load_engine(f"transformers:{tmp_path / 'model'}", {})
