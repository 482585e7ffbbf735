"""Train = serve: log-probabilities that the native engine recorded, against transformers' forward over the samples."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait import (
    APR,
    Hogwild,
    InvalidInput,
    Method,
    Multiverse,
    Runtime,
    SamplingParams,
    SelfConsistency,
    Sequential,
    Trace,
    UnsupportedModel,
)
from plait.rl.frames import enable
from plait.rl.masks import part_masks, text_mask
from plait.rl.own_tokens import PIECES
from plait.rl.samples import IGNORED, Sample, collate, saved_samples, trace_dataset, trace_samples
from plait.rl.tree_mask import TreeMask
from plait.runtime.cli.main import main
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.trace.record import Piece, SpanRecord
from plait.runtime.trace.sights import sights
from plait.tests.rl.nested import Nested
from plait.tests.runtime.engines.native.helpers import tiny
from plait.tests.runtime.engines.native.test_views import Mirror, Row, Seen, dense_logits
from plait.tests.runtime.methods.apr.test_apr import ROOT, model
from plait.tests.runtime.methods.multiverse.tools import Par, Play, PlayedEngine, TagTokenizer, render
from plait.tests.runtime.tools import context
from plait.tests.runtime.trace.test_native_trace import operations

FAMILIES = ["llama", "qwen3"]
MODELS = {family: tiny(family, max_position_embeddings=4096) for family in FAMILIES}
LOADED = {family: load_model(folder) for family, (_, folder) in MODELS.items()}
ITEMS = ["a\n", Par({"1": [" xx"], "2": [" y\n", Par({"2.1": [" p"], "2.2": [" qqq"]}), "z"]}), "end"]


@pytest.fixture(autouse=True, scope="module")
def framed():
    for hf_model, _ in MODELS.values():
        enable(hf_model)
    yield
    for hf_model, _ in MODELS.values():
        hf_model.set_attn_implementation("sdpa")


def sampling(family: str, **options) -> NativeEngine:
    return NativeEngine(LOADED[family], TagTokenizer(), NativeOptions(kv_tokens=8192, **options))


def played(family: str, script) -> PlayedEngine:
    return PlayedEngine(LOADED[family], script)


def nested_script(text: str) -> str:
    play = Play(ITEMS)
    return play(text) if text.startswith("Q") else "free text"


ADD = TagTokenizer().encode("add these")
WORKERS: dict[str, Any] = {"workers": ("A", "B", "C"), "openers": ("I am A. ", "B here, ", "and C ")}
WORKERS |= {"max_step": 7, "conclusion": None, "answer": "regex:never", "check_repeats": False}
JOBS: dict[str, tuple[Callable[[str], NativeEngine], Method]] = {
    "sequential": (sampling, Sequential(prompt="12 apples", max_tokens=40, temperature=1.0)),
    "voting": (sampling, SelfConsistency(prompt="12 apples", n=4, max_tokens=12, temperature=1.0)),
    "apr": (lambda family: played(family, model()), APR(prompt=ROOT)),
    "multiverse": (lambda family: played(family, Play(ITEMS)), Multiverse(prompt="Q")),
    "multiverse, engine's positions": (
        lambda family: played(family, Play(ITEMS)),
        Multiverse(prompt="Q", positions="engine"),
    ),
    "hogwild": (sampling, Hogwild(prompt=ADD, max_tokens=40, temperature=1.0, **WORKERS)),
    "hogwild, contiguous": (
        sampling,
        Hogwild(prompt=ADD, max_tokens=30, temperature=1.0, layout="contiguous", **WORKERS),
    ),
    "hogwild, interleaved": (
        sampling,
        Hogwild(prompt=ADD, max_tokens=40, temperature=1.0, layout="interleaved", **WORKERS),
    ),
    "contexts": (
        sampling,
        Sequential(
            prompt="and so?", instruction="Read:\n", contexts=("one two", "three", "four five six"), max_tokens=20,
            encoding="parallel", context_temperature=1.0, context_scale=1.0, temperature=1.0,
        ),
    ),
    "one context": (
        sampling,
        Sequential(prompt="and so?", contexts=("one two",), encoding="parallel", max_tokens=20, temperature=1.0),
    ),
    "nested": (lambda family: played(family, nested_script), Nested()),
}  # fmt: skip


async def trace_of(engine: NativeEngine, method: Method) -> Trace:
    async with Runtime(engine=engine) as runtime:
        return (await (await runtime.submit(method, seed=3))).trace


async def served(name: str, family: str = "llama") -> Trace:
    make, method = JOBS[name]
    return await trace_of(make(family), method)


def found_and_recorded(hf_model, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of all labels by one forward over the samples as a batch, and those recorded."""
    batch = collate(samples, pad=1)
    labels = batch.pop("shift_labels")
    batch.pop("labels")
    with torch.no_grad():
        logprobs = hf_model(**batch).logits.log_softmax(-1)
    is_trained = labels != IGNORED
    found = logprobs.gather(-1, labels.clamp(min=0)[..., None])[..., 0][is_trained]
    recorded = torch.cat([sample.logprobs()[sample.shift_labels() != IGNORED] for sample in samples])
    return found, recorded


def sampled(trace: Trace) -> list[float]:
    return [p for s in trace.segments for piece in s.pieces if piece.kind == "sampled" for p in piece.logprobs or ()]


def check(family: str, trace: Trace) -> list[Sample]:
    samples = trace_samples(trace)
    found, recorded = found_and_recorded(MODELS[family][0], samples)
    torch.testing.assert_close(found, recorded, rtol=0, atol=1e-4)
    # Everything that was sampled is trained, once.
    assert sorted(recorded.tolist()) == pytest.approx(sorted(sampled(trace)), abs=1e-6) and len(recorded) > 10
    return samples


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", JOBS)
async def test_what_is_trained_is_what_was_served(name, family):
    samples = check(family, await served(name, family))
    # Workers that are as fast as each other may well find places that suit all of them.
    is_moving = any(sample.mask.is_moving for sample in samples)
    assert is_moving == (name in ("hogwild", "hogwild, contiguous")) or name == "hogwild, interleaved"
    # Threads and nested jobs that see nothing of each other are apart.
    assert len(samples) == {"apr": 3, "nested": 3}.get(name, 1)


async def test_moving_keys_matter():
    """Without frames the same forward gives something else."""
    trace = await served("hogwild")
    batch = collate(trace_samples(trace))
    with torch.no_grad():
        right = MODELS["llama"][0](**{k: v for k, v in batch.items() if "labels" not in k}).logits
        names = ("input_ids", "attention_mask", "position_ids")
        wrong = MODELS["llama"][0](**{name: batch[name] for name in names}).logits
    assert (right - wrong).abs().max() > 0.1


async def test_gradients_flow_through_moving_keys():
    """Against those of a forward pass that rotates and scores every pair of tokens by itself."""
    trace = await served("hogwild")
    (sample,) = trace_samples(trace)
    batch = {name: value for name, value in collate([sample]).items() if name != "labels"}
    labels = batch.pop("shift_labels")[0]
    hf_model = MODELS["llama"][0]
    mirror = Mirror()
    first = np.cumsum([0, *map(len, trace.segments)]).tolist()
    for segment in trace.segments:
        known = list(sights(trace, segment))
        for i, token in enumerate(segment.token_ids):
            seen = known[min(i, len(known) - 1)]
            row = Row(token, segment.position + i, [], [], [])
            row.sees = [Seen(first[s.segment] + j, s.shift) for s in seen for j in range(s.end)]
            row.sees += [Seen(first[segment.id] + j) for j in range(i)]
            mirror.rows.append(row)
    assert len(mirror.rows) == len(sample)
    gradients = []
    for logits in (hf_model(**batch).logits[0], dense_logits(hf_model, mirror)):
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)
        gradients.append(torch.autograd.grad(loss, list(hf_model.parameters())))
    assert max(gradient.abs().max() for gradient in gradients[0]) > 0.1
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


async def test_contexts_that_are_weighed_are_refused():
    method = JOBS["contexts"][1].model_copy(update={"context_temperature": 0.5, "context_scale": 0.9})
    trace = await trace_of(sampling("llama"), method)
    with pytest.raises(InvalidInput, match=r"weighed by temperature 0\.5 and scale 0\.9"):
        trace_samples(trace)


def test_models_that_rotate_otherwise_are_refused():
    for family in ("gemma2", "gemma3"):
        with pytest.raises(UnsupportedModel, match=family):
            enable(tiny(family)[0])


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(operations, st.sampled_from(FAMILIES))
async def test_random_trees(script, family):
    """Forks and rewinds at any place: several branches sample from one token."""
    native = sampling(family)
    await native.start()
    async with context(native) as ctx:
        branches = [ctx.open([3, 1, 4, 1, 5])]
        for name, which, amount in script:
            branch = branches[which % len(branches)]
            if name == "generate":
                await branch.generate(SamplingParams(max_tokens=amount, temperature=1.0, logprobs=0, ignore_eos=True))
            elif name == "extend":
                branch.extend([(amount * 7 + i) % 130 for i in range(amount)])
            elif name == "fork":
                branches += branch.fork(1 + amount % 2)
            elif name == "rewind":
                branch.rewind(max(1, branch.length * amount // 9))
        for branch in branches:
            await branch.generate(SamplingParams(max_tokens=11, temperature=1.0, logprobs=0, ignore_eos=True))
        check(family, ctx.state.trace)


def test_a_token_from_which_several_sample_is_echoed():
    trace = Trace()
    trace.add_prompt("0", 0, (), Piece(kind="prompt", token_ids=[7, 8], text=""))
    for tokens in ([1, 2], [3], [4]):
        segment = trace.new_segment("0", 2, (SpanRecord(segment=0, length=2),))
        segment.pieces.append(Piece(kind="sampled", token_ids=tokens, text="", logprobs=[-float(t) for t in tokens]))
    (sample,) = trace_samples(trace)
    assert sample.mask.token_ids == [7, 8, 1, 2, 3, 4, 8, 8]
    assert sample.mask.positions.tolist() == [0, 1, 2, 3, 2, 2, 1, 1]
    assert sample.shift_labels()[0].tolist() == [IGNORED, 1, 2, IGNORED, IGNORED, IGNORED, 3, 4]
    assert sample.logprobs()[0].nan_to_num(9).tolist() == [9, -1, -2, 9, 9, 9, -3, -4]
    dense = sample.mask.dense()[0, 0]
    assert dense[6].tolist() == [True, *[False] * 5, True, False] and dense[:, 6].sum() == 1


# -- rows, cutting, data sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["voting", "hogwild", "multiverse"])
async def test_rows_and_data_sets_give_samples_back(name, tmp_path):
    trace = await served(name)
    trace.save(tmp_path / "one.jsonl")
    trace.save(tmp_path / "two.jsonl.gz")
    (sample,) = trace_samples(trace)
    found = trace_dataset([tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz"])
    assert found["method"] == [trace.header["method"]["method"]] * 2 and found["part"] == [0, 0]
    for row in found:
        again = collate([Sample.from_row(row)])
        for key, value in collate([sample]).items():
            assert torch.equal(value, again[key])
        assert torch.equal(Sample.from_row(row).logprobs().nan_to_num(1), sample.logprobs().nan_to_num(1))
    assert len(trace_dataset([tmp_path / "one.jsonl"], max_tokens=len(sample))) == 1
    with pytest.raises(InvalidInput, match=f"no sample is left: 1 have more than {len(sample) - 1:,} tokens"):
        trace_dataset([tmp_path / "one.jsonl"], max_tokens=len(sample) - 1)
    (tmp_path / "bad.jsonl").write_text("x")
    with pytest.raises(InvalidInput, match="bad.jsonl"):
        trace_dataset([tmp_path / "bad.jsonl"])


NUMBERS = [*(field.name for field in dataclasses.fields(TreeMask) if field.name != "logprobs"), "target"]
SPOILED = {
    "missing": lambda row, name: row.pop(name),
    "empty": lambda row, name: row.update({name: None}),
    "text": lambda row, name: row.update({name: "abc"}),
    "texts": lambda row, name: row.update({name: ["a"] * len(row[name])}),
    "parts": lambda row, name: row.update({name: [value + 0.5 for value in row[name]]}),
    "short": lambda row, name: row.update({name: row[name][:-1]}),
    "long": lambda row, name: row.update({name: [*row[name], *row[name][:1]]}),
    "low": lambda row, name: row.update({name: [*map(int, row[name][:-1]), -(2**31)]}),
    "high": lambda row, name: row.update({name: [*map(int, row[name][:-1]), 2**31]}),
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", NUMBERS)
def test_what_no_sample_is_written_as_is_named(name, how, tmp_path):
    """Whichever column it is of, and where it stands."""
    whole = Sample.of(text_mask(render(ITEMS), TagTokenizer().encode, prompt=[5])).row()
    spoiled = dict(whole)
    SPOILED[how](spoiled, name)
    is_alone = how in ("missing", "text", "texts", "parts") or name == "is_sampled"  # a column has values of one kind
    rows = [spoiled] if is_alone else [whole, spoiled]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(InvalidInput, match=name if how == "missing" else f"sample {len(rows) - 1}: "):
        list(saved_samples(tmp_path / "set"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segments": 0}, "segments"),
        ({"segments": 7}, "two tables"),
        ({"logprobs": ["a"]}, "logprobs"),
        ({"logprobs": [1.0]}, "logprobs"),
        ({"row": [9] * 4}, "`row` holds 9"),
        ({"segment": [0, 0, 0, 9]}, "`segment` holds 9"),
        ({"source": [0, 0, 0, 4]}, "`source` holds 4"),
        ({"target": [1, 2, 3, 4]}, "`target` holds 4"),
        ({"positions": [0, 1, 2, -5]}, "`positions` holds -5"),
    ],
)
def test_numbers_that_name_nothing_are_named(fields, message):
    whole = Sample.of(text_mask("ab", lambda text: [ord(c) for c in text], prompt=[5, 6])).row()
    assert len(whole["token_ids"]) == 4 and whole["segments"] > 0
    assert Sample.from_row(whole).row().keys() == whole.keys()
    with pytest.raises(InvalidInput, match=message):
        Sample.from_row({**whole, **fields})


def test_a_sample_that_was_cut_gives_the_same_logits():
    mask = text_mask(render(ITEMS), TagTokenizer().encode, prompt=[5])
    whole = Sample.of(mask)
    part = whole.cut(60)
    assert len(part) == 60 < len(whole) and whole.cut(10_000) is whole
    labels = whole.shift_labels()[:, :60]
    seen = np.where(whole.target[:60] < 60, labels[0].numpy(), IGNORED)
    assert part.shift_labels()[0].tolist() == seen.tolist()
    hf_model = MODELS["llama"][0]
    with torch.no_grad():
        logits = [
            hf_model(s.mask.input_ids(), attention_mask=s.mask.dense(), position_ids=s.mask.position_ids()).logits
            for s in (whole, part)
        ]
    torch.testing.assert_close(logits[0][:, :60], logits[1], atol=1e-4, rtol=0)


async def test_lines_that_see_each_other_are_not_cut():
    (sample,) = trace_samples(await served("hogwild, contiguous"))
    with pytest.raises(InvalidInput, match="lines in them see each other"):
        sample.cut(len(sample) - 3)


async def test_parts_hold_what_the_whole_holds():
    trace = await served("apr")
    parts = part_masks(trace)
    own = sorted(token for segment in trace.segments for token in segment.token_ids)
    assert sorted(token for mask in parts for token in mask.token_ids) == own


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="the traces hold no sample"):
        trace_dataset([])
    datasets.Dataset.from_list([]).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(InvalidInput, match="is empty"):
        list(saved_samples(tmp_path / "set"))


@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        ("export", ["--model", "m"], "export runs no model"),
        ("export", ["--set", "attempts=2"], "export runs no model"),
        ("export", ["--device", "cpu"], "export runs no model"),
        ("export", ["--max-tokens", "0"], "--max-tokens"),
        ("export", ["--out", ""], "--out: a file or folder has a name"),
        ("curate", ["--model", "m", "--max-tokens", "5"], "--max-tokens is for export"),
    ],
)
def test_options_that_an_action_does_not_take_are_refused(action, options, message, tmp_path, capsys):
    try:
        status = main(["data", action, "nowhere", "--out", str(tmp_path / "set"), *options])
    except SystemExit as ended:
        status = ended.code
    assert status and message in capsys.readouterr().err and not (tmp_path / "set").exists()


async def test_traces_of_several_models_are_told(tmp_path, caplog):
    trace = await served("voting")
    for name in ("one", "other"):
        trace.header["model"] = name
        trace.save(tmp_path / f"{name}.jsonl")
    trace_dataset([tmp_path / "one.jsonl", tmp_path / "one.jsonl"])
    assert not caplog.records
    trace_dataset([tmp_path / "one.jsonl", tmp_path / "other.jsonl"])
    (record,) = caplog.records
    assert record.getMessage().endswith("several models, and their tokens may be, too: one, other")


async def test_traces_are_exported(tmp_path, capsys):
    (await served("apr")).save(tmp_path / "one.jsonl.gz")
    command = ["data", "export", str(tmp_path / "one.jsonl.gz"), "--out", str(tmp_path / "set")]
    assert await asyncio.to_thread(main, command) == 0
    assert "3 samples" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert await asyncio.to_thread(main, ["data", "export", "nowhere", "--out", str(tmp_path / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err
    found = datasets.load_from_disk(str(tmp_path / "set"))
    assert [row["part"] for row in found] == [0, 1, 2] and Sample.from_row(found[0]).is_trained.any()
    assert [bool(row[PIECES]) for row in found] == [True, False, False]
