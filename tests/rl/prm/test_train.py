"""`plait train prm`: it learns to judge, goes on where it was stopped, and the reward `PRM` loads its models."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import plait
from plait import InvalidInput
from plait.rl.checkpoints import PREFIX, STAGING, checkpoints
from plait.rl.prm.config import PRMConfig
from plait.rl.prm.train import VERDICTS, _samples, train
from plait.rl.run_folder import CONFIG, MATERIAL
from plait.runtime.cli.main import main
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.search.node import Node
from plait.search.rewards.prm import PRM
from plait.search.rewards.tree import TreeScorer
from plait.tests.rl.tools import (
    DIVERGING,
    check_diverged,
    check_goes_on,
    check_same_tokenizer,
    earlier_run,
    files,
    folder,
    learned_positions,
    splitting_digits,
    train_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore")
"""What TRL, peft and accelerate warn of is theirs."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    # Dropout is drawn by each process for itself.
    return folder(tmp_path_factory.mktemp("model"), classifier_dropout=0.0)


def lines(path: Path, count: int = 40) -> Path:
    """Steps that are good as long as no plan was bad."""
    rng = random.Random(0)
    rows = []
    for i in range(count):
        said = [rng.random() < 0.75 for _ in range(3)]
        steps = [f"{'so' if good else 'no'} {rng.randrange(9)};" for good in said]
        rows.append({"prompt": f"q{i}: ", "steps": steps, "labels": [all(said[: k + 1]) for k in range(3)]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(model: Path, data: Path, **fields) -> PRMConfig:
    trainer = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", **fields.pop("trainer", {})}
    source = {"kind": "steps", "paths": [str(data)], **fields.pop("source", {})}
    return PRMConfig(**{"model": str(model), "data": [source], "trainer": trainer, "threads": 1, **fields})


async def scored(model: Path, steps: list[str], *, headless: bool) -> list[float]:
    """By the reward, as a search would ask it."""
    reward = PRM(model=str(model))
    frame, head = reward._load(model, load_tokenizer(model))
    engine = NativeEngine.load(model, headless=headless, kv_tokens=2048)
    reward.check(engine)
    await engine.start()
    scorer = TreeScorer(engine, frame, head, "q99: ", job="j", priority=0)
    node, found = Node(score=1.0), []
    for number, step in enumerate(steps, start=1):
        node = Node(parent=node, text=step, is_complete=number == len(steps))
        found += await scorer.score([node])
    scorer.close()
    await engine.close()
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head": "classifier"},
        {"head": "classifier", "format": "math_shepherd", "tags": True, "lora": {"r": 8, "lora_alpha": 16}},
        {"format": "math_shepherd", "tags": True},
    ],
    ids=["words", "classifier", "adapter", "math_shepherd"],
)
async def test_it_learns_and_the_reward_loads_it(fields, model, tmp_path):
    given = config(model, lines(tmp_path / "s.jsonl", 100), source={"held_out": 10}, epochs=6, **fields)
    done = train(given, tmp_path / "out")
    verdicts = json.loads((tmp_path / "out" / VERDICTS).read_text())
    assert verdicts["before"]["steps"] == verdicts["after"]["steps"] == 30
    assert verdicts["after"]["accuracy"] >= 0.9 > verdicts["before"]["accuracy"]
    assert verdicts["after"]["auc"] > 0.95
    assert verdicts["after"]["loss"] < verdicts["before"]["loss"] / 2
    headless = given.head == "classifier"
    good = await scored(done.model, ["so 1;", "so 2;", "so 3;"], headless=headless)
    bad = await scored(done.model, ["so 1;", "no 2;", "so 3;"], headless=headless)
    assert min(good) > 0.5 and bad[0] == pytest.approx(good[0], abs=1e-4) and max(bad[1:]) < 0.5
    assert (tmp_path / "out" / "adapter").is_dir() == (given.lora is not None)
    if given.lora is not None:
        from peft import AutoPeftModelForTokenClassification
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        adapted = AutoPeftModelForTokenClassification.from_pretrained(tmp_path / "out" / "adapter").eval()
        merged = AutoModelForTokenClassification.from_pretrained(done.model).eval()
        every = torch.arange(len(AutoTokenizer.from_pretrained(tmp_path / "out" / "adapter")))[None]
        with torch.no_grad():
            torch.testing.assert_close(adapted(every).logits, merged(every).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["words", "classifier"])
def test_a_run_goes_on_to_the_same_losses(head, model, tmp_path):
    data = lines(tmp_path / "s.jsonl", 40)
    fields = {"head": head, "trainer": {"save_steps": 2, "lr_scheduler_type": "cosine", "max_steps": 4}, "seed": 3}
    straight = train(config(model, data, **fields), tmp_path / "straight")
    cut = config(model, data, **fields, max_minutes=1e-5)
    first = train(cut, tmp_path / "out")
    assert first.steps == 1 and not first.is_finished
    assert [path.name for path in checkpoints(tmp_path / "out")] == [f"{PREFIX}1"]
    (tmp_path / "out" / STAGING / f"{PREFIX}6").mkdir(parents=True)  # as a kill leaves it
    resumed = train(config(model, data, **fields), tmp_path / "out")
    assert resumed.losses == straight.losses and len(straight.losses) == 4
    whole = pytest.approx(sum(straight.losses.values()) / 4)
    assert train_loss(tmp_path / "straight") == whole and train_loss(tmp_path / "out") == whole
    weights = [load_file(tmp_path / one / "model" / "model.safetensors") for one in ("straight", "out")]
    assert all((value == weights[1][name]).all() for name, value in weights[0].items())
    # There is nothing left to do.
    again = train(config(model, data, **fields), tmp_path / "out")
    assert (again.steps, again.losses) == (4, straight.losses) and train_loss(tmp_path / "out") == whole
    published = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all((value == published[name]).all() for name, value in weights[0].items())
    with pytest.raises(InvalidInput, match="made with other seed"):
        train(config(model, data, **{**fields, "seed": 4}), tmp_path / "out")
    data.write_text(data.read_text().replace("false", "true", 1))
    with pytest.raises(InvalidInput, match="made with other data"):
        train(config(model, data, **fields), tmp_path / "out")


def test_steps_are_judged_anew_where_a_run_begins_anew(model, tmp_path):
    """A kill before the first checkpoint leaves what another model was worth."""
    given = config(model, lines(tmp_path / "s.jsonl", 8), source={"held_out": 2}, trainer={"max_steps": 1})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CONFIG).write_text(given.model_dump_json())
    (tmp_path / "out" / VERDICTS).write_text('{"before": "another model"}')
    train(given, tmp_path / "out")
    found = json.loads((tmp_path / "out" / VERDICTS).read_text())
    assert found["before"]["steps"] == found["after"]["steps"] > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("head", ["words", "classifier"])
def test_a_step_is_the_same_however_it_is_divided(head, smoothing, model, tmp_path):
    """Samples with one to three verdicts, one step of plain descent."""
    rows = [
        {"prompt": f"q{i}: ", "steps": ["so 1;", "no;", "2;"], "labels": [i % 3 == 0] * (1 + i % 3)} for i in range(8)
    ]
    (tmp_path / "s.jsonl").write_text(
        "".join(json.dumps({**row, "labels": [*row["labels"], None, None][:3]}) + "\n" for row in rows)
    )
    found = []
    for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
        trainer = {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "label_smoothing_factor": smoothing,
            "optim": "sgd",
        }
        done = train(config(model, tmp_path / "s.jsonl", head=head, trainer=trainer), tmp_path / f"{batch}")
        found.append((load_file(done.model / "model.safetensors"), done.losses))
    (weights, losses), *others = found
    for other, said in others:
        assert said == pytest.approx(losses, rel=1e-4)
        assert all(torch.allclose(other[name], value, atol=1e-6) for name, value in weights.items())


@pytest.mark.parametrize("head", ["words", "classifier"])
def test_the_tokenizer_of_the_base_is_published(head, tmp_path):
    base = splitting_digits(tmp_path / "base")
    given = config(base, lines(tmp_path / "s.jsonl", 4), head=head, trainer={"max_steps": 1})
    check_same_tokenizer(base, train(given, tmp_path / "out").model)


@pytest.mark.parametrize("head", ["words", "classifier"])
def test_a_run_that_diverges_is_one_error(head, model, tmp_path):
    given = config(model, lines(tmp_path / "s.jsonl", 24), head=head, trainer=DIVERGING)
    check_diverged(partial(train, given), tmp_path / "out", "the loss is")


@pytest.mark.parametrize("head", ["words", "classifier"])
def test_a_last_step_that_diverges_is_one_error(head, model, tmp_path):
    """Its weights are finite still, and its loss is that of the weights before."""
    trainer = {**DIVERGING, "max_steps": 1}
    given = config(model, lines(tmp_path / "s.jsonl", 8), head=head, trainer=trainer, source={"held_out": 2})
    check_diverged(partial(train, given), tmp_path / "out", "the loss of held-out steps is", step=1)
    assert json.loads((tmp_path / "out" / VERDICTS).read_text()).keys() == {"before"}


@pytest.mark.parametrize("head", ["words", "classifier"])
def test_two_processes(head, model, tmp_path):
    """The same samples, half of them each, in two parts: the losses of one process with batches of four as large."""
    data = lines(tmp_path / "s.jsonl", 24)
    alone = train(config(model, data, head=head, trainer={"per_device_train_batch_size": 8}), tmp_path / "alone")
    text = [
        f'model = "{model}"', f'head = "{head}"', "threads = 1", "[[data]]", 'kind = "steps"', 'paths = ["s.jsonl"]',
        "[trainer]", "learning_rate = 1e-2", 'lr_scheduler_type = "constant"', 'ddp_backend = "gloo"',
        "per_device_train_batch_size = 2", "gradient_accumulation_steps = 2",
    ]  # fmt: skip
    (tmp_path / "c.toml").write_text("\n".join(text))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "plait", "train", "prm", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path(plait.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    assert losses == pytest.approx(alone.losses, rel=1e-3) and len(losses) == 3
    assert (tmp_path / "out" / "model" / "prm.json").is_file()
    assert json.loads((tmp_path / "out" / MATERIAL).read_text())["num_processes"] == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "qwen", "tag": "x"}, "has its own"),
        ({"head": "classifier", "good": "+"}, "a classifier needs no words"),
        ({"good": "very good"}, "'very good' must be one token"),
        ({"good": "-"}, "the same token"),
        ({"format": "math_shepherd"}, "must be one token"),
        ({"trainer": {"packing": True}}, "packing: decided by"),
        ({"trainer": {"speed": 1}}, "knows no speed"),
        (
            {"trainer": {"eval_strategy": "epoch"}, "source": {"held_out": 1}},
            "judged before and after the training only",
        ),
        ({"trainer": {"metric_for_best_model": "loss"}}, "metric_for_best_model: nothing is evaluated"),
        *(
            (
                {"head": head, "trainer": {"per_device_eval_batch_size": 2}},
                "per_device_eval_batch_size would do nothing",
            )
            for head in ("words", "classifier")
        ),
        ({"trainer": {"adam_beta1": 1.5}}, r"\[trainer\]: .*beta"),
        ({"head": "classifier", "trainer": {"adam_beta1": 1.5}}, r"\[trainer\]: .*beta"),
        ({"lora": {"r": 0}}, r"\[lora\]"),
        ({"lora": {"bias": "some"}}, r"\[lora\]: bias: 'some' is none of"),
        ({"head": "classifier", "lora": {"target_modules": ["nope"]}}, r"\[lora\]"),
        ({"head": "classifier", "lora": {"lora_bias": True}}, r"^\[lora\]: it cannot be merged"),
        ({"max_tokens": 3}, "there is no step to train on; 2"),
        ({"source": {"benchmark": {"name": "countdown"}}}, "only then"),
        ({"source": {"kind": "traces"}}, "benchmark"),
        ({"source": {"delimiters": ["\n"]}}, "`delimiters` says where steps of traces end"),
        # What is so anyway may be said.
        ({"trainer": {"eval_delay": 0, "include_for_metrics": []}, "model": "nothing"}, "no model 'nothing'"),
    ],
)
def test_wrong_configurations_are_one_error(fields, message, model, tmp_path):
    with pytest.raises(plait.PlaitError, match=message):
        train(config(**{"model": model, "data": lines(tmp_path / "s.jsonl", 2), **fields}), tmp_path / "out")


def test_of_a_text_that_is_too_long_the_verdicts_that_fit_are_trained(model, tmp_path):
    """Another one that shares its first step has no verdict on that. The third has none that fits."""
    rows = [
        {"prompt": "q", "steps": ["so;", "long " * 50, "end"], "labels": [True, False, False]},
        {"prompt": "q", "steps": ["so;", "short"], "labels": [None, False]},
        {"prompt": "q", "steps": ["long " * 50], "labels": [False]},
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = load_tokenizer(model)
    trained, held_out = _samples(config(model, tmp_path / "s.jsonl", max_tokens=20), tokenizer)
    assert [(tokenizer.decode(one.tokens), list(one.verdicts.values())) for one in trained] == [
        ("qso;", [True]),
        ("qso;short<|end|>", [False]),
    ]
    assert not held_out
    first = trained[0]
    (place,) = first.verdicts
    assert first.cut(place + 1) == first and not first.cut(place).tokens
    whole, _ = _samples(config(model, tmp_path / "s.jsonl"), tokenizer)
    assert [list(one.verdicts.values()) for one in whole] == [[True, False, False], [False], [False]]


@pytest.mark.parametrize("head", ["words", "classifier"])
def test_steps_longer_than_the_positions_that_a_model_learns_are_refused(head, tmp_path):
    base = learned_positions(tmp_path / "model", 8)
    with pytest.raises(InvalidInput, match="the model has 8 positions"):
        train(config(base, lines(tmp_path / "s.jsonl", 2), head=head), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    "fields", [{"good": "very good"}, {"head": "classifier", "lora": {"target_modules": ["nope"]}}]
)
def test_a_mistake_loses_nothing_of_the_run_before(fields, model, tmp_path):
    given = config(model, lines(tmp_path / "s.jsonl", 2), **fields)
    before = earlier_run(given, tmp_path / "out")
    with pytest.raises(InvalidInput):
        train(given, tmp_path / "out", fresh=True)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("idle", "message"),
    [
        ({"source": {"delimiters": [";"]}}, "`delimiters` says where steps of traces end"),
        ({"trainer": {"per_device_eval_batch_size": 2}}, "per_device_eval_batch_size would do nothing"),
        ({"lora": {"r": 4, "alpha_pattern": {"nope": 2}}}, "no layer with an adapter matches nope"),
        ({"head": "classifier", "lora": {"r": 4, "alpha_pattern": {"nope": 2}}}, "no layer with an adapter matches"),
    ],
)
def test_a_run_that_was_begun_with_what_does_nothing_goes_on(idle, message, model, tmp_path):
    data, least = lines(tmp_path / "s.jsonl", 3), {"max_steps": 1}
    kept = {**({"lora": {"r": 4}} if "lora" in idle else {}), "head": idle.get("head", "words")}
    given = config(model, data, trainer=least, source={"held_out": 1}, **kept)
    fields = {"trainer": {**least, **idle.get("trainer", {})}, "source": {"held_out": 1, **idle.get("source", {})}}
    check_goes_on(train, given, config(model, data, **{**idle, **fields}), tmp_path / "out", message)


def test_the_command(model, tmp_path, capsys):
    lines(tmp_path / "s.jsonl", 8)
    (tmp_path / "c.toml").write_text(
        f'model = "{model}"\nthreads = 1\n[[data]]\nkind = "steps"\npaths = ["s.jsonl"]\nheld_out = 2\n'
    )
    out = tmp_path / "out"
    assert main(["train", "prm", str(tmp_path / "c.toml"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "18 steps to learn from" in said and "after: " in said and "1 steps, done" in said
    assert main(["train", "prm", str(out)]) == 0
