import json
import random

import pytest
import torch
import torch.nn.functional as F

from plait.rl.countdown import train
from plait.rl.countdown.batch import collate
from plait.rl.countdown.decode import greedy
from plait.rl.countdown.evaluate import exactness, read_model
from plait.rl.countdown.export import export
from plait.rl.countdown.mix import Documents, Mix
from plait.rl.countdown.model import Model, ModelConfig, attention, number_features
from plait.rl.countdown.tokenizer import BOS, IDS
from plait.rl.countdown.traces import EOS
from plait.runtime.errors import InvalidInput

SMALL = Mix(seq4=0, mv4=0)


def make_trainer(folder, tokens=2000, **options):
    config = train.TrainConfig(out=folder, tokens=tokens, micro_tokens=256, accumulate=2, warmup_steps=2, **options)
    return train.Trainer(config, train.documents(SMALL))


@pytest.fixture(scope="module", params=["adamw", "muon"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    trainer = make_trainer(folder, optimizer=request.param)
    trainer.run()
    return trainer, folder


def test_training_is_seeded_and_lowers_the_loss(trained, tmp_path):
    trainer, _ = trained
    again = make_trainer(tmp_path, optimizer=trainer.config.optimizer)
    documents = [Documents(random.Random(0)).make("leaf") for _ in range(8)]
    batch = collate(documents, "leaf")
    before = again.model.loss(batch.inputs, batch.labels).item()
    after = trainer.model.loss(batch.inputs, batch.labels).item()
    assert after < 0.9 * before
    again.run()
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_a_run_goes_on_from_its_checkpoint(trained):
    trainer, folder = trained
    resumed = make_trainer(folder, tokens=4000, optimizer=trainer.config.optimizer)
    assert (resumed.steps, resumed.tokens) == (trainer.steps, trainer.tokens)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), trainer.model.parameters(), strict=True))
    assert resumed.progress == trainer.tokens / 4000 < 1
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("flags", [{"avx512_bf16": True}, {"avx512_bf16": False, "avx2": True}, {"bf16": True}, {}])
def test_bfloat16_only_where_the_processor_multiplies_it(tmp_path, monkeypatch, flags):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    trainer = make_trainer(tmp_path)
    dtypes = []
    trainer.model.blocks[0].qkv.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer.step([next(trainer.stream)])
    assert dtypes == [torch.bfloat16 if flags.get("avx512_bf16") or flags.get("bf16") else torch.float32]


def test_the_rate_warms_up_stays_and_falls_to_zero(tmp_path):
    trainer = make_trainer(tmp_path, tokens=1000, decay=0.3)
    assert trainer.rate() == 0.5
    trainer.steps, trainer.tokens = 10, 600
    assert trainer.rate() == 1
    trainer.tokens = 850
    assert trainer.rate() == pytest.approx(0.5)
    trainer.tokens = 1000
    assert trainer.rate() == 0


def test_mix_from_the_command_line():
    assert train.parse_mix("leaf=1,seq4=0") == Mix(leaf=1, seq4=0)
    with pytest.raises(ValueError, match="leaf"):
        train.parse_mix("leaves=1")


def test_masked_labels_carry_no_loss():
    model = Model(ModelConfig(layers=1))
    batch = collate([Documents(random.Random(0)).make("drill")], "drill")
    other = batch.labels.clone()
    other[batch.labels < 0] = -7
    assert model.loss(batch.inputs, batch.labels) == model.loss(batch.inputs, other)


def test_written_out_attention_equals_torchs():
    q, k, v = torch.randn(3, 2, 4, 17, 48).unbind(0)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attention(q, k, v), expected, atol=1e-5, rtol=1e-4)


def test_number_features_are_distinct():
    features = number_features()
    distances = torch.cdist(features, features) + torch.eye(len(features)) * 9
    assert distances.min() > 0.05


def test_the_export_is_the_model(trained, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, folder = trained
    export(folder / "checkpoint.pt", tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 12_000_000
    ours = read_model(folder / "checkpoint.pt")
    assert 2e6 <= sum(p.numel() for p in ours.parameters()) <= 6e6
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "apr 24 : 63 9 5 ;"
    ids = [IDS[BOS], *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert tokenizer.decode(ids) == f" <bos> {text}"
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits
        logits = F.linear(ours(torch.tensor([ids])), ours.embedding)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    generated = theirs.generate(torch.tensor([ids]), max_length=40, do_sample=False)[0].tolist()
    assert greedy(ours, [ids, ids[:5]], limit=40)[0] == generated
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == IDS[EOS]


def test_exactness_of_an_untrained_model_is_zero():
    assert exactness(Model(ModelConfig(layers=1)), 4)["leaf"] == 0


def test_what_holds_no_model_is_one_error(tmp_path):
    (tmp_path / "text.pt").write_text("text")
    torch.save({"config": {}}, tmp_path / "part.pt")
    torch.save({"config": {"hidden": 8}, "model": {}}, tmp_path / "other.pt")
    (tmp_path / "empty").mkdir()
    for name in ("nosuch", "text.pt", "part.pt", "other.pt", "empty"):
        with pytest.raises(InvalidInput, match=f"{name} holds no model"):
            export(tmp_path / name, tmp_path / "out")
    with pytest.raises(InvalidInput, match="nosuch holds no model"):
        read_model(tmp_path / "nosuch")
    assert not (tmp_path / "out").exists()
