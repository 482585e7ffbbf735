"""The loss of two rollouts, one of a single call and one of three, in all modes of credit: against a computation in
plain torch that knows nothing of packing, weights or TRL."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig

from plait.evals.benchmark import Sample
from plait.rl.grpo.batch import Shape, chunks, credited, padded, scale_of
from plait.rl.grpo.credit import Told
from plait.rl.grpo.forest import Forest
from plait.rl.grpo.packed import token_cost
from plait.rl.grpo.rollouts import Rollout
from plait.rl.grpo.trainer import ThreadTrainer
from plait.tests.rl.grpo.tools import TraceWriter, save_tiny

SAMPLE = Sample(id="0", question="go a")
SQRT2 = math.sqrt(2)

# (context, what was sampled behind it, its log-probabilities then) of each call.
ONE = [([0, 6, 7], [8, 9, 1], [-1.0, -2.0, -1.5])]
THREE = [
    ([0, 6, 7], [8, 10, 3], [-1.0, -1.2, -2.5]),  # the main call up to `spawn`, which is taken back
    ([0, 6, 8], [11, 1], [-0.9, -2.0]),  # a child
    ([0, 6, 7, 8, 10, 4, 11, 5], [12, 13, 14, 1], [-2.0, -2.1, -0.7, -1.1]),  # the main call behind the join
]
ADVANTAGES = {
    # The first rollout is wrong and the second right: -1 and 1.
    "shared": [[-1.0], [1.0, 1.0, 1.0]],
    # Three children in the group, of whom the second rollout's told the truth and two of another lied: mean 1/3.
    "per_thread": [[-1.0], [1.0, SQRT2, 1.0]],
    # The second rollout has a single child, which had nothing to be better than.
    "tree": [[-1.0], [1.0, 1.0, 1.0]],
}


def rollouts(mode: str) -> list[Rollout]:
    first = TraceWriter()
    first.segment(first.branch("0"), (ONE[0][0], None), ONE[0][1:])
    second = TraceWriter()
    main = second.segment(second.branch("0"), (THREE[0][0], None), THREE[0][1:])
    second.segment(second.branch("1", "0"), (THREE[1][0], None), THREE[1][1:])
    second.segment("0", ([4, 11, 5], None), THREE[2][1:], view=[(main, 5)])
    # Another rollout's children were asked the same, and lied.
    others = {"x": Told("q", 0.0), "y": Told("q", 0.0)} if mode == "per_thread" else {}
    told = [others, {"1": Told("q", 1.0)}]

    def rollout(trace, reward, told):
        return Rollout(sample=SAMPLE, trace=trace, outcome=reward, reason="", reward=reward, usage=None, told=told)

    return [rollout(first.trace, 0.0, told[0]), rollout(second.trace, 1.0, told[1])]


def test_rows_that_fill_a_chunk_up_weigh_nothing_and_change_nothing():
    forest = Forest()
    calls = credited(forest, [rollouts("shared")], "shared")
    shape = Shape(share=True, token_cost=1, row_tokens=64, pass_tokens=64)
    (chunk,) = chunks(forest, calls, 1, 2, shape, 1.0)
    longer = padded(chunk, 7)
    assert set(longer) == set(chunk) and len(calls) == 4
    for name, value in chunk.items():
        if name == "layout":
            assert longer[name].passes is value.passes and longer[name].num_tokens == value.num_tokens
            value, filled = value.index, longer[name].index
        else:
            filled = longer[name]
        if value.dim():
            assert filled.shape == (7, *value.shape[1:]) and filled.dtype == value.dtype
            assert torch.equal(filled[:4], value) and not filled[4:].any()
        else:
            assert torch.equal(filled, value)
    same = padded(chunk, 4)
    assert torch.equal(same["completion_ids"], chunk["completion_ids"])


def expected(model, reference, advantages, beta: float) -> torch.Tensor:
    """Mean over rollouts of the mean over calls of the mean over tokens: the clipped loss, and `beta` times the
    divergence from the reference, weighed by the ratio as TRL does."""
    total = torch.zeros(())
    for calls, values in zip((ONE, THREE), advantages, strict=True):
        for (context, tokens, old), advantage in zip(calls, values, strict=True):
            ids = torch.tensor([context + tokens])

            def logprobs(of, ids=ids, tokens=tokens):
                found = of(ids).logits[0].log_softmax(-1)[-len(tokens) - 1 : -1]
                return found[range(len(tokens)), tokens]

            own, kept = logprobs(model), logprobs(reference).detach()
            ratio = (own - torch.tensor(old)).exp()
            loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            loss = loss + beta * ratio * ((kept - own).exp() - (kept - own) - 1)
            total = total + loss.mean() / len(calls) / 2
    return total


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    save_tiny(path)
    return path


def trainer_of(model, folder, out, shape, mode="shared", **given):
    arguments = GRPOConfig(
        output_dir=str(out), per_device_train_batch_size=2, num_generations=2, loss_type="dapo", use_cpu=True,
        bf16=False, report_to=[], gradient_checkpointing=False, remove_unused_columns=False, **given,
    )  # fmt: skip
    return ThreadTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict({"prompt": ["go a"] * 4}),
        processing_class=AutoTokenizer.from_pretrained(folder), rollouts=None, benchmark=None, samples=[SAMPLE],
        mode=mode, scale="std", shape=shape, traces=out, traces_every=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "share", "count", "beta"),
    [
        ("shared", True, 1, 0.0),
        ("shared", False, 3, 0.0),
        ("per_thread", True, 2, 0.0),
        ("tree", True, 2, 0.0),
        ("shared", True, 2, 0.1),
    ],
)
def test_loss_and_gradient_of_two_rollouts(folder, tmp_path, mode, share, count, beta):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    shape = Shape(share=share, token_cost=token_cost(32, 48), row_tokens=64, pass_tokens=64)
    trainer = trainer_of(model, folder, tmp_path, shape, mode, gradient_accumulation_steps=count, beta=beta)
    trainer.current_gradient_accumulation_steps = count
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.train()

    forest = Forest()
    calls = credited(forest, [rollouts(mode)], mode)
    flat = [value for values in ADVANTAGES[mode] for value in values]
    assert [one.advantage for one in calls] == pytest.approx(flat)
    parts = chunks(forest, calls, count, 2.0, shape, scale_of(calls))
    assert sum(int((part["tool_mask"] > 0).any(-1).sum()) for part in parts) == 4
    total = torch.zeros(())
    for part in parts:
        if beta:
            part["ref_per_token_logps"] = trainer.reference_logps(part["layout"])
        loss = trainer._compute_loss(model, part)
        loss.backward()
        total = total + loss.detach()
    found = [parameter.grad.clone() for parameter in model.parameters()]

    model.zero_grad()
    golden = expected(model, reference, ADVANTAGES[mode], beta)
    golden.backward()
    assert float(total) == pytest.approx(golden.item(), abs=1e-6)
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
def test_tokens_of_high_entropy_are_those_whatever_they_weigh(threshold, folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    shape = Shape(share=True, token_cost=1, row_tokens=64, pass_tokens=64)
    trainer = trainer_of(model, folder, tmp_path, shape)
    forest = Forest()
    (chunk,) = chunks(forest, credited(forest, [rollouts("shared")], "shared"), 1, 2.0, shape, 1.0)
    weights = chunk["completion_mask"] * chunk["tool_mask"]
    entropies = torch.rand(weights.shape, generator=torch.Generator().manual_seed(0))
    found = trainer.get_high_entropy_mask(entropies, weights, threshold)
    is_token = chunk["completion_mask"] > 0
    assert len(weights[is_token].unique()) > 1
    assert torch.equal(found, is_token & (entropies >= entropies[is_token].quantile(threshold)))


@pytest.mark.parametrize(("weights", "count"), [("calls", 1), ("calls", 8), ("tokens", 1)])
def test_calls_are_off_the_policy_by_the_mean_over_their_tokens_whatever_they_weigh(weights, count, folder, tmp_path):
    """A wrong rollout of many short calls, every other one sampled far off, and right ones of a single call."""
    short, right = 20, 7
    each = [([8 + i % 8, 1], [-1.0 if i % 2 else -4.0] * 2) for i in range(short)]
    writers = [TraceWriter() for _ in range(1 + right)]
    for writer, sampled in zip(writers, [each] + [[([9], [-1.0])]] * right, strict=True):
        top = writer.segment(writer.branch("0"), ([0, 6], None))
        for i, one in enumerate(sampled):
            writer.segment(writer.branch(f"0.{i}", "0"), one, view=[(top, 2)])
    group = [
        Rollout(sample=SAMPLE, trace=one.trace, outcome=reward, reason="", reward=reward, usage=None)
        for one, reward in zip(writers, [0.0] + [1.0] * right, strict=True)
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    shape = Shape(share=False, token_cost=1, row_tokens=64, pass_tokens=64)
    trainer = trainer_of(
        model, folder, tmp_path, shape, gradient_accumulation_steps=count, off_policy_mask_threshold=1.0
    )
    trainer.current_gradient_accumulation_steps = count
    forest = Forest()
    credits = credited(forest, [group], "shared", scale="none", weights=weights)
    parts = chunks(forest, credits, count, len(group), shape, scale_of(credits))
    # Or the means that TRL tells of a part are too small where it is light ...
    lightest = [float(part["tool_mask"][part["completion_mask"] > 0].min()) for part in parts]
    assert min(lightest) == pytest.approx(1.0)
    # ... and weigh the parts of several processes wrongly where these have scales of their own.
    whole = sum(float(part["tool_mask"].sum()) for part in parts)
    assert whole == pytest.approx(scale_of(credits) * sum(one.weight * len(one.call.tokens) for one in credits))
    total = sum(float(trainer._compute_loss(model, part).detach()) for part in parts)

    rate = right / len(group)
    calls = [(*one, -rate, 1 / short) for one in each] + [([9], [-1.0], 1 - rate, 1.0)] * right
    tokens = sum(len(one[0]) for one in calls)
    golden, kept = 0.0, 0
    for ids, old, advantage, share in calls:
        with torch.no_grad():
            own = model(torch.tensor([[0, 6, *ids]])).logits[0, 1:-1].log_softmax(-1)[range(len(ids)), ids]
        if advantage < 0 and float((torch.tensor(old) - own).mean()) > 1.0:
            continue
        kept += 1
        ratio = (own - torch.tensor(old)).exp()
        loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        golden += share * float(loss.mean()) / len(group) if weights == "calls" else float(loss.sum()) / tokens
    assert right < kept < len(calls)
    assert total == pytest.approx(golden, abs=1e-6)


def test_a_rollout_that_nobody_could_judge_counts_in_the_mean_and_teaches_nothing():
    made = rollouts("shared")
    unknown = Rollout(sample=SAMPLE, trace=made[1].trace, outcome=None, reason="timeout", reward=None, usage=None)
    calls = credited(Forest(), [[*made, unknown]], "tree")
    assert [one.advantage for one in calls] == pytest.approx([-1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("mode", list(ADVANTAGES))
def test_what_was_wrong_may_weigh_less(mode):
    flat = [value for values in ADVANTAGES[mode] for value in values]
    assert min(flat) < 0 < max(flat)
    for negative in (0.0, 0.25):
        calls = credited(Forest(), [rollouts(mode)], mode, negative=negative)
        assert [one.advantage for one in calls] == pytest.approx([x if x > 0 else negative * x for x in flat])


def test_a_token_may_weigh_the_same_in_whatever_call():
    """Not less in the rollout of three calls than in that of one."""
    calls = credited(Forest(), [rollouts("shared")], "shared", weights="tokens")
    total = sum(len(tokens) for _, tokens, _ in [*ONE, *THREE])
    assert [one.weight for one in calls] == pytest.approx([2 / total] * 4)
