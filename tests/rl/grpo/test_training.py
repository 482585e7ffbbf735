"""Whole runs on a tiny random model: it learns from its own rollouts, and goes on where it was stopped."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from plait import InvalidInput, PlaitError, PromptTooLong, Runtime, Sequential, Trace
from plait.evals.benchmark import Verdict
from plait.evals.config import MethodConfig
from plait.rl.checkpoints import STAGING, checkpoints
from plait.rl.grpo.config import IDLE_ENGINE, GRPOConfig
from plait.rl.grpo.forest import Forest
from plait.rl.grpo.rollouts import PLAIN, Request, Rollouts, sampled
from plait.rl.grpo.train import live_engine, train
from plait.rl.grpo.trainer import REFERENCE
from plait.runtime.cli.main import main
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.methods.nesting import all_methods
from plait.tests.rl.grpo.tools import Vowels, judge, save_tiny
from plait.tests.rl.tools import (
    check_goes_on,
    check_same_tokenizer,
    check_without_room,
    earlier_run,
    files,
    splitting_digits,
)
from plait.tests.rl.tools import folder as tiny_folder

APR = {"method": "apr", "max_children": 2, "max_rounds": 2}

SEARCH = {"method": "tree_search", "width": 2, "reward": "self_certainty"}
CHOICE = {"constraint": "choice", "choices": ["a", "b"]}


def nested(fields):
    """A method that holds one with these fields."""
    inner = {"method": "sequential", "prompt": "go", "max_tokens": 8, **fields}
    return {"method": "self_consistency", "n": 2, "generator": inner}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    save_tiny(path)
    return path


def config(folder, **fields):
    return GRPOConfig(
        **{
            "model": str(folder),
            "benchmark": {"name": "test_vowels"},
            "method": APR,
            "group": 4,
            "prompts": 3,
            "steps": 2,
            "learning_rate": 1e-2,
            "engine": {"kv_tokens": 16384},
            "traces_every": 1,
            **fields,
            "trainer": {"disable_tqdm": True, "save_steps": 2, **fields.get("trainer", {})},
        }
    )


def history(folder) -> list[dict[str, float]]:
    """What was logged at each step, without times."""
    state = json.loads((checkpoints(folder)[-1] / "trainer_state.json").read_text())
    return [
        {name: value for name, value in line.items() if "second" not in name and "time" not in name}
        for line in state["log_history"]
        if "loss" in line
    ]


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_a_run_learns_and_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    fields = {"credit": "per_thread", "chunks": 2, "latency": 0.1, "scale": "none"}
    held_out = {"held_out": {"benchmark": {"name": "test_vowels"}, "every": 2}}
    model = train(config(folder, steps=4, **fields, **held_out), tmp_path / "whole").model
    whole = history(tmp_path / "whole")
    assert len(whole) == 4 and all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in whole)
    assert all(0 < line["accuracy"] < 1 and line["rollout/branches"] > 1 for line in whole)
    # Sampler and trainer agree, after updates too.
    assert all(0 < line["importance/gap_mean"] < 1e-5 and line["importance/gap_max"] < 1e-4 for line in whole)
    assert all(line["packing/computed_tokens"] > 0 for line in whole)
    assert AutoConfig.from_pretrained(model).use_cache and not list(model.glob("*.bin"))
    before, after = weights(folder), weights(model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    looks = [json.loads(line) for line in (tmp_path / "whole" / "held_out.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [0, 2, 4] and all(look["of"] == 6 for look in looks)
    traces = sorted((tmp_path / "whole" / "traces").glob("*/*.jsonl.gz"))
    assert len(traces) == 8 and all(Trace.load(path).end is not None for path in traces)

    train(config(folder, steps=2, **fields), tmp_path / "parts")
    with pytest.raises(InvalidInput, match="other learning_rate: .*--fresh"):
        train(config(folder, steps=4, **fields, learning_rate=1e-3), tmp_path / "parts")
    with monkeypatch.context() as other, pytest.raises(InvalidInput, match="other data: .*--fresh"):
        problems = Vowels().load()
        other.setattr(Vowels, "load", lambda self: problems[::-1])
        train(config(folder, steps=4, **fields), tmp_path / "parts")
    (tmp_path / "parts" / STAGING / "checkpoint-3").mkdir(parents=True)  # as a kill leaves it
    resumed = train(config(folder, steps=4, **fields), tmp_path / "parts").model
    # Its optimiser's moments are rounded no other way; what was looked at in between changes nothing.
    assert [line["loss"] for line in history(tmp_path / "parts")] == [line["loss"] for line in whole]
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in after.items())


@pytest.mark.parametrize("count", [None, 7], ids=["trained", "held_out"])
def test_a_run_goes_on_with_what_stands_beside_its_questions(count, folder, tmp_path, monkeypatch):
    """Documents and tests, which are a problem's data, and files that a benchmark reads; by its `count`."""
    data, read = ({None: {"x", "y"}, 7: ["z"]} for _ in range(2))
    problems = Vowels().load()
    monkeypatch.setattr(Vowels, "load", lambda self: [dataclasses.replace(p, data=data[self.count]) for p in problems])
    monkeypatch.setattr(Vowels, "inputs", lambda self, _: {"file": read[self.count]})
    held_out = {"benchmark": {"name": "test_vowels", "count": 7}, "every": 9}
    given = config(folder, steps=1, method={"method": "sequential", "max_tokens": 4}, traces_every=0, held_out=held_out)
    train(given, tmp_path)
    for some in (data, read):
        with monkeypatch.context() as other, pytest.raises(InvalidInput, match="other data: .*--fresh"):
            other.setitem(some, count, "other")
            train(given, tmp_path)
    assert train(given, tmp_path).is_finished
    with monkeypatch.context() as gone, pytest.raises(InvalidInput, match="test_vowels: .*KeyError"):
        gone.delitem(read, count)
        train(given, tmp_path)


def test_the_tokenizer_of_the_rollouts_is_published(tmp_path):
    base = splitting_digits(tmp_path / "base")
    given = config(base, method={"method": "sequential", "max_tokens": 4}, steps=1)
    check_same_tokenizer(base, train(given, tmp_path / "out").model)


def test_a_run_that_diverges_is_one_error(folder, tmp_path):
    """In its second step on the same rollouts: others would have failed."""
    given = config(folder, learning_rate=1e30, trainer={"num_iterations": 2})
    with pytest.raises(PlaitError, match=r"^step 2: weights are not finite .* 1e\+30; there is no checkpoint$"):
        train(given, tmp_path / "out")
    assert not checkpoints(tmp_path / "out") and not (tmp_path / "out" / "model").exists()


def epochs(out):
    """Those that are logged, by steps."""
    state = json.loads((checkpoints(out)[-1] / "trainer_state.json").read_text())
    return [(said["step"], said["epoch"]) for said in state["log_history"]]


@pytest.mark.parametrize(
    "fields",
    [
        {"trainer": {"neftune_noise_alpha": 5.0}, "chunks": 2},
        {"trainer": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "num_iterations": 2}},
    ],
)
def test_noise_and_a_reference_that_follows_go_on_as_well(fields, folder, tmp_path):
    """Four steps, and two that a run of two goes on to, in the midst of the data's epoch; with dropout."""
    base = shutil.copytree(folder, tmp_path / "model")
    facts = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**facts, "attention_dropout": 0.3}))
    fields = {"prompts": 1, "learning_rate": 3e-2, **fields}
    whole = train(config(base, steps=4, **fields), tmp_path / "whole")
    train(config(base, steps=2, **fields), tmp_path / "parts")
    first, again = (train(config(base, steps=4, **fields), tmp_path / "parts") for _ in range(2))
    # Nothing was left to do then.
    assert first.losses == again.losses == whole.losses
    assert len(set(whole.losses.values())) > 2
    assert epochs(tmp_path / "parts") == epochs(tmp_path / "whole")
    kept = (checkpoints(tmp_path / "parts")[-1] / REFERENCE).exists()
    assert kept == ("sync_ref_model" in fields["trainer"])
    if kept:
        (checkpoints(tmp_path / "parts")[-1] / REFERENCE).unlink()
        with pytest.raises(InvalidInput, match="no reference model"):
            train(config(base, steps=6, **fields), tmp_path / "parts")


def test_a_run_that_is_out_of_time_stops_behind_the_last_step_of_its_rollouts(folder, tmp_path):
    """And goes on with the rollouts of a run that had the time."""
    given = config(folder, steps=4, trainer={"num_iterations": 2})
    hurried = config(folder, steps=4, trainer={"num_iterations": 2}, max_minutes=1e-6)
    whole = train(given, tmp_path / "whole")
    parts = [train(hurried, tmp_path / "parts") for _ in range(2)]
    assert [(part.steps, part.is_finished) for part in (*parts, whole)] == [(2, False), (4, True), (4, True)]
    assert parts[-1].losses == whole.losses


def test_a_run_without_checkpoints_begins_anew_and_tells_nothing_of_the_one_before(folder, tmp_path):
    fields = {"held_out": {"benchmark": {"name": "test_vowels"}}, "trainer": {"save_strategy": "no"}}
    train(config(folder, **fields), tmp_path)
    train(config(folder, **fields, steps=1, seed=1), tmp_path)
    looks = (tmp_path / "held_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in looks] == [0, 1]
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["step-00000"]


@pytest.mark.parametrize(
    ("method", "credit"),
    [
        ({"method": "sequential"}, "shared"),
        ({"method": "self_consistency", "n": 3}, "tree"),
        (nested({}), "shared"),
        (APR, "tree"),
        ({"method": "multiverse"}, "shared"),
    ],
)
def test_any_method_trains(folder, tmp_path, method, credit):
    trainer = {"beta": 0.01, "num_iterations": 2, "save_strategy": "no"}
    train(config(folder, method=method, credit=credit, traces_every=0, trainer=trainer), tmp_path)


def test_methods_inside_methods_sample_as_rollouts_do():
    """Whatever they are by default; all of them greedily where that is asked for."""
    config = MethodConfig(fields=nested(nested({})))
    benchmark = Vowels()
    for greedy, expected in ((False, {**PLAIN, "logprobs": True}), (True, {**PLAIN, "temperature": 0.0})):
        built = sampled(config, greedy=greedy).build(benchmark, benchmark.load()[0], None)
        found = list(all_methods(built))
        assert [one.method for one in found] == ["self_consistency", "self_consistency", "sequential"]
        assert all(getattr(one, name) == value for one in found for name, value in expected.items())


def test_a_step_without_log_probabilities_ends_the_run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Forest, "add", lambda *_: [])
    with pytest.raises(PlaitError, match="step 0: no rollout has a token with a log-probability"):
        train(config(folder), tmp_path)


@pytest.mark.parametrize(
    ("family", "fields"),
    [("gemma2", {"layer_types": ["full_attention"] * 2}), ("qwen3_moe", {"output_router_logits": True})],
)
def test_capped_scores_and_experts_train_as_they_sample(family, fields, tmp_path):
    """The reference model, too: before the first step nothing is between them."""
    base = tiny_folder(tmp_path / "model", family, **fields)
    train(config(base, steps=1, trainer={"beta": 0.1, "save_steps": 1}), tmp_path / "out")
    (line,) = history(tmp_path / "out")
    assert 0 < line["importance/gap_max"] < 1e-4 and abs(line["kl"]) < 1e-6


@pytest.mark.parametrize("packed", [True, False])
def test_the_engine_samples_from_the_updated_weights(folder, packed):
    """Greedy text of the engine is that of transformers, before and after a step, with the same prompt in its cache."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    engine = live_engine(model, folder, NativeOptions.of(config(folder).engine), packed=packed)
    prompt = [0, *range(7, 16)] * 4  # longer than a block
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    texts = []

    async def check():
        async with Runtime(engine=engine) as runtime:
            for _ in range(3):
                engine.refresh()
                job = await runtime.submit(Sequential(prompt=prompt, temperature=0.0, max_tokens=24))
                found = [piece for segment in (await job).trace.segments for piece in segment.pieces][-1].token_ids
                expected = model.generate(
                    torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=1, pad_token_id=2
                )
                assert found == expected[0, len(prompt) :].tolist()
                texts.append(found)
                model(torch.tensor([prompt]), labels=torch.tensor([prompt])).loss.backward()
                optimizer.step()

    asyncio.run(check())
    assert texts[0] != texts[1] != texts[2]


def test_options_of_the_chat_template_hold_for_rollouts(tmp_path):
    base = tiny_folder(tmp_path, template="{{ messages[0].content }}{% if loudly %}!{% endif %}")
    model = AutoModelForCausalLM.from_pretrained(base)
    engine = live_engine(model, base, NativeOptions.of({"chat_template_kwargs": {"loudly": True}, "kv_tokens": 1024}))
    tokenizer = engine.tokenizer
    assert tokenizer.decode(tokenizer.chat([{"role": "user", "content": "hi"}])) == "hi!"


def test_rollouts_are_graded_judged_and_the_same_again(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    benchmark = Vowels()
    requests = [Request(benchmark=benchmark, sample=s, seed=i) for s in benchmark.load() for i in range(4)]

    def made():
        engine = live_engine(model, folder, NativeOptions.of(config(folder).engine))
        with Rollouts(engine, MethodConfig(fields=APR), mode="per_thread", judge=judge, latency=0.5) as rollouts:
            found = rollouts.run(requests)
            assert engine.num_branches == 0
        return found

    first, second = made(), made()
    for one, other in zip(first, second, strict=True):
        assert one.trace.text_of("0") == other.trace.text_of("0") and one.told == other.told
    for rollout in first:
        joined = {child for join in rollout.trace.joins for child in join.children}
        assert set(rollout.told) == joined
        expected = rollout.outcome and 1.5 - 0.5 * rollout.usage.critical_tokens / rollout.usage.total_tokens
        assert rollout.reward == pytest.approx(expected)
    assert any(rollout.told for rollout in first) and {rollout.outcome for rollout in first} == {0.0, 1.0}


def test_a_rollout_that_takes_too_long_is_neither_right_nor_wrong(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    benchmark = Vowels()
    requests = [Request(benchmark=benchmark, sample=s, seed=0) for s in benchmark.load()]
    with Rollouts(
        live_engine(model, folder, NativeOptions.of(config(folder).engine)), MethodConfig(fields=APR), timeout=1e-6
    ) as rollouts:
        assert {(one.outcome, one.reward, one.reason) for one in rollouts.run(requests)} == {(None, None, "timeout")}


def test_a_prompt_that_is_too_long_is_neither_right_nor_wrong(folder):
    benchmark = Vowels()
    sample = dataclasses.replace(benchmark.load()[0], question="go " * 300)  # the model has 256 positions
    model = AutoModelForCausalLM.from_pretrained(folder)
    with Rollouts(live_engine(model, folder, NativeOptions.of({"kv_tokens": 1024})), MethodConfig(fields=APR)) as made:
        (one,) = made.run([Request(benchmark=benchmark, sample=sample, seed=0)])
    assert (one.outcome, one.reward, one.usage) == (None, None, None) and one.reason.startswith("PromptTooLong: ")


def verdict(correct) -> Verdict:
    return Verdict(correct=correct, extracted=None, reason="said")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (ValueError("boom"), "test_vowels on '0': ValueError: boom"),
        (SystemExit("boom"), "test_vowels on '0': SystemExit: boom"),
        (PlaitError("the sandbox is gone"), "the sandbox is gone"),
        (verdict("0.7"), "the verdict of test_vowels on '0': .*correct: "),
        (verdict(math.nan), "the verdict of test_vowels on '0': .*correct: "),
        (None, "the verdict of test_vowels on '0': it should be a Verdict, not NoneType"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("mode", ["shared", "tree"])
def test_without_a_verdict_a_rollout_is_neither_right_nor_wrong(mode, given, reason, folder, monkeypatch):
    """That of the whole answer, or of a leaf behind it."""
    grade, asked = Vowels.grade, Counter[str]()

    def odd(self, sample, answer, text):
        asked[sample.id] += 1
        if sample.id != "0" or (mode == "tree" and asked[sample.id] == 1):
            return grade(self, sample, answer, text)
        if isinstance(given, BaseException):
            raise given
        return given

    monkeypatch.setattr(Vowels, "grade", odd)
    benchmark = Vowels()
    requests = [Request(benchmark=benchmark, sample=sample, seed=0) for sample in benchmark.load()]
    method = MethodConfig(fields={"method": "self_consistency", "n": 2})
    engine = live_engine(AutoModelForCausalLM.from_pretrained(folder), folder, NativeOptions.of({"kv_tokens": 4096}))
    with Rollouts(engine, method, mode=mode) as made:
        first, *others = made.run(requests)
    assert (first.outcome, first.reward, first.told, first.grown) == (None, None, {}, {})
    assert re.match(f"no verdict: {reason}", first.reason) and first.usage.total_tokens and first.trace.segments
    assert {one.outcome for one in others} <= {0.0, 1.0} and all(bool(one.grown) == (mode == "tree") for one in others)


def test_a_benchmark_that_judges_is_not_asked_to_grade(folder, monkeypatch):
    """It is given the method and the result's details."""

    async def judge(self, sample, method, answer, text, details):
        return dataclasses.replace(verdict(np.bool_(True)), reason=f"{method.method}: {sorted(details)}")

    monkeypatch.setattr(Vowels, "judge", judge)
    monkeypatch.setattr(Vowels, "grade", None)
    benchmark = Vowels()
    engine = live_engine(AutoModelForCausalLM.from_pretrained(folder), folder, NativeOptions.of({"kv_tokens": 4096}))
    with Rollouts(engine, MethodConfig(fields={"method": "self_consistency", "n": 2})) as made:
        (one,) = made.run([Request(benchmark=benchmark, sample=benchmark.load()[0], seed=0)])
    assert one.outcome == one.reward == 1.0 and re.match(r"self_consistency: \[.*'votes'", one.reason)


def test_a_step_without_any_judged_rollout_ends_the_run_and_says_why(folder, tmp_path):
    with pytest.raises(PlaitError, match="step 0: 12 of 12 rollouts failed, mostly by: timeout"):
        train(config(folder, timeout=1e-6), tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_step_with_some_judged_rollouts_goes_on_and_says_what_failed(folder, tmp_path, monkeypatch, caplog):
    run = Rollouts.run

    def failing(self, requests):
        reasons = ["one", "other", "other"]
        fail = {"outcome": None, "reward": None, "usage": None}
        made = run(self, requests)
        return [dataclasses.replace(one, reason=r, **fail) for one, r in zip(made, reasons, strict=False)] + made[3:]

    monkeypatch.setattr(Rollouts, "run", failing)
    held_out = {"benchmark": {"name": "test_vowels"}, "every": 9}
    assert train(config(folder, steps=1, held_out=held_out), tmp_path).is_finished
    (line,) = history(tmp_path)
    assert line["failed"] == 0.25
    said = [record.getMessage() for record in caplog.records if record.name == "plait.rl.grpo.trainer"]
    assert said == ["step 0: 3 of 12 rollouts failed, mostly by: other"]
    looked = [record.getMessage() for record in caplog.records if record.name == "plait.rl.grpo.look"]
    assert looked == [f"step {step}, held out: 3 of 6 rollouts failed, mostly by: other" for step in (0, 1)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": {"method": "sequential", "temperature": 0.5}}, "temperature"),
        ({"method": nested({"temperature": 0.5})}, "sequential.temperature: rollouts sample from the model's own"),
        ({"method": nested({"logprobs": False})}, "sequential.logprobs: rollouts sample"),
        ({"method": nested(nested({"top_k": 3}))}, "sequential.top_k: rollouts sample"),
        ({"method": {"method": "sequential", "constraint": CHOICE}}, "sequential: texts under a constraint"),
        ({"method": nested({"constraint": CHOICE})}, "sequential: texts under a constraint"),
        (
            {"method": nested({"tools": [{"name": "add"}], "tool_choice": "required"})},
            "sequential: calls that have to be",
        ),
        ({"trainer": {"loss_type": "grpo"}}, "loss_type"),
        ({"chunks": 5}, "multiple of chunks"),
        ({"steps": 3, "trainer": {"num_iterations": 3}}, "save_steps must be a multiple of num_iterations"),
        ({"steps": 3, "trainer": {"num_iterations": 2}}, "steps = 3 is no multiple"),
        ({"trainer": {"num_iterations": 2, "save_steps": 0.5}}, "save_steps must be a multiple"),
        ({"trainer": {"num_iterations": 2, "save_strategy": "epoch"}}, "save_strategy"),
        ({"trainer": {"num_iterations": 0}}, "num_iterations is 0"),
        ({"trainer": {"num_iterations": "2"}}, "num_iterations is '2'"),
        ({"trainer": {"learning_rat": 1}}, "knows no learning_rat"),
        ({"trainer": {"lr_scheduler_type": "foo"}}, "foo is not a valid SchedulerType"),
        ({"trainer": {"beta": "x"}}, "beta: 'x' is no float"),
        ({"trainer": {"report_to": "foo"}}, "report_to: foo is not supported"),
        ({"trainer": {"eval_strategy": "steps"}}, "eval_strategy would do nothing"),
        ({"trainer": {"log_completions": True}}, "log_completions would do nothing"),
        ({"trainer": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor would do nothing"),
        ({"trainer": {"vllm_mode": "server"}}, "vllm_mode would do nothing"),
        ({"trainer": {"save_strategy": "best"}}, "nothing is evaluated"),
        ({"trainer": {"save_steps": 0}}, "save_steps is 0"),
        ({"trainer": {"eval_steps": 5, "do_eval": True}}, "eval_steps, do_eval would do nothing"),
        ({"trainer": {"hub_model_id": "a/b"}}, "hub_model_id would do nothing"),
        ({"trainer": {"metric_for_best_model": "reward"}}, "metric_for_best_model would do nothing"),
        ({"trainer": {"save_only_model": True}}, "save_only_model follows"),
        ({"trainer": {"beta": -0.1}}, "beta is -0.1: 0 at least"),
        ({"trainer": {"epsilon": -0.1}}, "epsilon is -0.1: 0 at least"),
        ({"trainer": {"delta": -1.0}}, "delta is -1.0: 1 at least"),
        ({"trainer": {"sync_ref_model": True, "ref_model_sync_steps": 0}}, "ref_model_sync_steps is 0: 1 at least"),
        ({"trainer": {"ref_model_mixup_alpha": 5.0}}, "ref_model_mixup_alpha is 5.0: 1 at most"),
        ({"trainer": {"ref_model_mixup_alpha": -0.1}}, "ref_model_mixup_alpha is -0.1: 0 at least"),
        ({"trainer": {"off_policy_mask_threshold": -0.1}}, "off_policy_mask_threshold is -0.1: 0 at least"),
        ({"trainer": {"entropy_coef_delta": -0.1}}, "entropy_coef_delta is -0.1: 0 at least"),
        ({"trainer": {"entropy_target": -0.1}}, "entropy_target is -0.1: 0 at least"),
        ({"trainer": {"sapo_temperature_neg": 1.0}}, "sapo_temperature_neg follows .* or is fixed"),
        ({"trainer": {"top_entropy_quantile": 1.5}}, "top_entropy_quantile is 1.5: 1 at most"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"method": {"method": "hogwild"}}, "hogwild cannot be trained"),
        (
            {"method": {"method": "self_consistency", "generator": {"method": "hogwild", "prompt": "go"}}},
            "hogwild cannot be trained",
        ),
        ({"method": {"method": "sequential", "contexts": ["a", "b"]}}, "sequential: parallel contexts"),
        ({"prompts": 7}, "7"),
        ({"latency": 0.1}, 'latency goes with scale = "none"'),
        (
            {"benchmark": {"name": "math500"}, "method": {"method": "multiverse"}, "credit": "per_thread"},
            "no judge for math500",
        ),
        ({"credit": "tree", "method": nested({})}, "credit tree: .* generator of self_consistency"),
        (
            {"credit": "tree", "method": {**SEARCH, "generator": {"method": "sequential", "prompt": "go"}}},
            "credit tree: .* generator of tree_search",
        ),
        ({"chunks": 2, "trainer": {"entropy_coef": 0.1}}, "trainer.entropy_coef: .* chunks = 1"),
        ({"chunks": 2, "trainer": {"use_adaptive_entropy": True}}, "trainer.use_adaptive_entropy: .* chunks = 1"),
        ({"chunks": 2, "trainer": {"top_entropy_quantile": 0.3}}, "trainer.top_entropy_quantile: .* chunks = 1"),
        ({"engine": {"speed": 1}}, "speed"),
        *(({"engine": {name: None}}, f"engine.{name} would do nothing") for name in IDLE_ENGINE),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, tmp_path, fields, message):
    with pytest.raises(InvalidInput, match=message):
        train(config(folder, **fields), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainer": {"adam_beta1": 1.5}}, r"^\[trainer\]: .*beta"),
        (
            {"method": {**SEARCH, "generator": {"method": "sequential", "prompt": "go"}}},
            "certainty",
        ),
    ],
)
def test_mistakes_that_only_the_model_shows_are_named_before_a_step(folder, tmp_path, fields, message, monkeypatch):
    monkeypatch.setattr(Rollouts, "run", None)
    with pytest.raises(PlaitError, match=message):
        train(config(folder, **fields), tmp_path / "out")


def test_a_model_without_weights_is_one_error_and_nothing_of_the_run_before_is_lost(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    given = config(tmp_path / "model")
    before = earlier_run(given, tmp_path / "out")
    with pytest.raises(InvalidInput, match="model cannot be loaded: .*no file named model"):
        train(given, tmp_path / "out", fresh=True)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize(("limit", "fits"), [(1, False), (64, True)])
def test_a_context_that_no_prompt_fits_loses_nothing_of_the_run_before(limit, fits, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Rollouts, "run", None)
    given = config(folder, engine={"kv_tokens": 16384, "context_limit": limit})
    before = earlier_run(given, tmp_path / "out")
    with pytest.raises(TypeError if fits else PromptTooLong, match=None if fits else "none of 6 problems can be asked"):
        train(given, tmp_path / "out", fresh=True)
    assert (files(tmp_path / "out") == before) != fits


def test_a_run_that_was_begun_with_what_does_nothing_goes_on(folder, tmp_path):
    given, idle = (config(folder, steps=1, traces_every=0, trainer=one) for one in ({}, {"hub_model_id": "a/b"}))
    check_goes_on(train, given, idle, tmp_path / "out", "hub_model_id would do nothing")


def test_a_model_that_finds_no_room_is_one_error_and_the_one_before_stays(folder, tmp_path):
    given = config(folder, steps=1, traces_every=0, trainer={"save_strategy": "no"})
    check_without_room(lambda: train(given, tmp_path / "out").model)


def test_from_the_shell(folder, tmp_path, capsys):
    lines = [
        f'model = "{folder}"',
        "group = 4",
        "prompts = 3",
        "steps = 1",
        "traces_every = 0",
        "[benchmark]",
        'name = "test_vowels"',
        "[method]",
        'method = "apr"',
        "max_children = 2",
        "max_rounds = 2",
        "[engine]",
        "kv_tokens = 16384",
        "[trainer]",
        "disable_tqdm = true",
        "save_steps = 1",
    ]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    assert main(["train", "grpo", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out")]) == 0
    assert "model:" in capsys.readouterr().out and (tmp_path / "out/model/config.json").exists()
    # Going on by the folder alone: there is nothing left to do.
    assert main(["train", "grpo", str(tmp_path / "out")]) == 0
    assert main(["train", "grpo", str(tmp_path / "run.toml"), "--set", "group=1"]) == 1
    assert "group" in capsys.readouterr().err
