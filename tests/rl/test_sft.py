"""`plait train sft`: what is trained, that a killed run goes on to the same losses, that its model is served."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import plait
from plait import InvalidInput, Multiverse, Runtime, SelfConsistency, Sequential, UnsupportedModel
from plait.rl.checkpoints import PREFIX, STAGING, checkpoints
from plait.rl.config import DataConfig, SFTConfig
from plait.rl.curriculum import MULTIVERSE, mixed, shuffled
from plait.rl.own_tokens import PIECES, check_column, check_spelling
from plait.rl.run_folder import MATERIAL
from plait.rl.samples import IGNORED, collate, trace_dataset, trace_samples
from plait.rl.sft import train
from plait.rl.texts import chat_samples, read_samples, text_sample
from plait.runtime.cli.main import main
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.engines.registry import find_model
from plait.runtime.methods.multiverse.grammar import TAGS
from plait.tests.rl.tools import (
    DIVERGING,
    REWRITING,
    SIZE,
    check_diverged,
    check_goes_on,
    check_same_tokenizer,
    check_without_room,
    earlier_run,
    files,
    folder,
    learned_positions,
    splitting_digits,
    text,
    texts,
    train_loss,
)
from plait.tests.runtime.methods.multiverse.tools import Par, render
from plait.tests.test_full_disk import full_at

pytestmark = pytest.mark.filterwarnings("ignore")
"""What TRL, peft and accelerate warn of is theirs."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("model"))


def config(folder: Path, data: Path, **fields) -> SFTConfig:
    trainer = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", **fields.pop("trainer", {})}
    source = {"kind": "texts", "paths": [str(data)], **fields.pop("source", {})}
    return SFTConfig(**{"model": str(folder), "data": [source], "trainer": trainer, "threads": 1, **fields})


# -- what is trained -------------------------------------------------------------------------------------------


def labelled(sample) -> list[int]:
    """What is trained, in the order of the text."""
    assert (sample.shift_labels()[0] != IGNORED).sum() == sample.is_trained.sum()
    return [sample.mask.token_ids[at] for at in sorted(sample.target[sample.is_trained].tolist())]


def test_texts_are_trained_whole_and_prompts_are_not(model, tmp_path):
    tokenizer = load_tokenizer(model)
    source = DataConfig(kind="texts", paths=(str(texts(tmp_path / "t.jsonl")),), suffix=" In parallel.")
    found = read_samples(source, tokenizer, 4096)
    assert len(found) == 6
    whole, plain = found.parallel[1], found.sequential[1]
    prompt = "<|start|>user\nq1? In parallel.<|end|>\n<|start|>assistant"
    assert tokenizer.decode(whole.mask.token_ids).startswith(prompt)
    assert tokenizer.decode(labelled(whole)) == text(1) + "<|end|>"
    assert tokenizer.decode(labelled(plain)) == "<Think>\nx1\n</Think><|end|>"
    assert "In parallel" not in tokenizer.decode(plain.mask.token_ids)
    dropped = read_samples(source, tokenizer, 50)
    assert len(dropped) + dropped.dropped == 6 and dropped.dropped
    cut = read_samples(source.model_copy(update={"too_long": "cut"}), tokenizer, 50)
    assert {len(sample) for sample in cut.parallel} == {50}


@pytest.mark.parametrize(("template", "count"), [(None, 1), (REWRITING, 2)])
def test_every_turn_of_the_assistant_is_trained(template, count, tmp_path):
    tokenizer = load_tokenizer(folder(tmp_path, **({} if template is None else {"template": template})))
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": content} for i, content in enumerate("abcd")]
    samples = chat_samples(tokenizer, messages)
    assert len(samples) == count
    assert "".join(tokenizer.decode(labelled(sample)) for sample in samples) == "b<|end|>d<|end|>"
    # Every turn stands behind the prompt it would be served with.
    for turn, sample in zip((3,), samples[-1:], strict=True):
        served = tokenizer.chat(messages[:turn])
        assert sample.mask.token_ids[: len(served)] == served
    with pytest.raises(InvalidInput, match="says nothing"):
        chat_samples(tokenizer, messages[:1])


def test_what_is_held_out_is_not_trained_as_a_part_of_something_else(tmp_path):
    """A block in another one, and a chat whose template rewrites earlier turns; two of each."""
    tokenizer = load_tokenizer(folder(tmp_path / "model", template=REWRITING))
    block = Par({"1": [" p\n", Par({"1.1": [" x"], "1.2": [" y"]}, "inner"), "q"], "2": [" r"]}, "outer")
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": content} for i, content in enumerate("abcd")]
    for kind, rows in (
        ("excerpts", [{"text": render(["<Think>\nAsk.\n", block, "Ask again.\n", block, "</Think>"])}]),
        ("chat", [{"messages": turns}] * 2),
    ):
        path = tmp_path / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = read_samples(DataConfig(kind=kind, paths=(str(path),)), tokenizer, 4096)
        assert [len(found.split(count)[1]) for count in range(6)] == [0, 2, 2, 4, 4, 4]
        assert [len(found.split(count)[0]) for count in range(6)] == [4, 2, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("texts", "[1]", r"one\.jsonl:2: not an object"),
        ("texts", '{"prompt": "a"}', r"one\.jsonl:2: no `text`"),
        ("texts", '{"prompt": 3, "text": "a"}', "neither text nor messages"),
        ("chat", '{"messages": [{"role": "user"}]}', "no list of objects"),
        ("chat", '{"messages": [{"role": "user", "content": "x"}]}', "says nothing"),
        ("chat", '{"prompt": "x"}', "no `completion`"),
        ("traces", "{}", "one.jsonl"),
    ],
)
def test_wrong_data_is_named(kind, line, message, model, tmp_path):
    good = {"texts": '{"text": "a"}', "chat": '{"prompt": "a", "completion": "b"}', "traces": "{}"}[kind]
    (tmp_path / "one.jsonl").write_text(f"{good}\n{line}\n")
    source = DataConfig(kind=kind, paths=(str(tmp_path / "one.jsonl"),))
    with pytest.raises(InvalidInput, match=message):
        read_samples(source, load_tokenizer(model), 4096)
    with pytest.raises(InvalidInput, match="no file"):
        read_samples(source.model_copy(update={"paths": (str(tmp_path / "none*"),)}), load_tokenizer(model), 4096)


def test_what_is_left_without_anything_to_learn_is_dropped(model, tmp_path):
    """Behind a prompt that is longer than a sample may be, or as long."""
    tokenizer = load_tokenizer(model)
    (tmp_path / "t.jsonl").write_text('{"prompt": "a question", "text": "so", "sequential": "so"}\n' * 2)
    whole = text_sample(tokenizer, tokenizer.encode("a question"), "so")
    begin = int(whole.mask.is_sampled.argmax())
    source = DataConfig(kind="texts", paths=(str(tmp_path / "t.jsonl"),), too_long="cut", chat=False)
    for length, kept in ((begin - 1, 0), (begin, 0), (begin + 1, 2), (len(whole), 2)):
        found = read_samples(source, tokenizer, length)
        assert (len(found), found.dropped) == (kept, 2 - kept)
        assert all(labelled(sample) for sample in (*found.parallel, *found.sequential))
    longer = source.model_copy(update={"suffix": " that is longer"})
    assert not len(read_samples(longer, tokenizer, begin + 1))
    with pytest.raises(InvalidInput, match="no sample to train on; 2"):
        given = config(model, tmp_path / "t.jsonl", source={"too_long": "cut", "chat": False}, max_tokens=begin)
        train(given, tmp_path / "out")


@pytest.fixture(scope="module")
def sampled(model, tmp_path_factory) -> Path:
    """A trace of the model's, of two branches and with halves of characters."""
    path = tmp_path_factory.mktemp("traces") / "own.jsonl.gz"

    async def run() -> None:
        async with Runtime(str(model), kv_tokens=1024) as runtime:
            job = SelfConsistency(prompt="q1 é?", chat=True, n=2, max_tokens=30, temperature=1.0)
            (await (await runtime.submit(job))).trace.save(path)

    asyncio.run(run())
    return path


@pytest.mark.parametrize(
    ("traces", "held"),
    [(["a", "b", "b", "b"], [0, 3, 3, 3, 4]), (["a", "a", None, None], [0, 1, 2, 4, 4]), (None, [0, 1, 2, 3, 4])],
)
def test_saved_samples_of_one_trace_are_held_out_together(traces, held, sampled, model, tmp_path):
    """As far as the data set tells."""
    from datasets import Dataset

    row = trace_dataset([sampled])[0]
    assert row.pop("trace") == str(sampled)
    rows = [row] * 4 if traces is None else [{**row, "trace": trace} for trace in traces]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    source = DataConfig(kind="samples", paths=(str(tmp_path / "saved"),))
    found = read_samples(source, load_tokenizer(model), 4096, SIZE)
    assert [len(found.split(count)[1]) for count in range(5)] == held


@pytest.mark.parametrize("kind", ["traces", "samples"])
def test_traces_of_another_model_are_refused(kind, sampled, model, tmp_path):
    """Also as samples, whose data set holds a trace of the other model behind."""
    other = tmp_path / "other"
    # The same tokens with other ids, as many of them.
    data = json.loads((model / "tokenizer.json").read_text())
    plain = [token for token, id in data["model"]["vocab"].items() if id > 2]
    data["model"]["vocab"] |= dict(zip(plain, range(len(plain) + 2, 2, -1), strict=True))
    shutil.copytree(model, other)
    (other / "tokenizer.json").write_text(json.dumps(data))
    path = sampled
    if kind == "samples":
        trace_dataset([sampled]).save_to_disk(str(path := tmp_path / "own.saved"))
    source = DataConfig(kind=kind, paths=(str(path),))
    (own,) = read_samples(source, load_tokenizer(model), 4096, SIZE).parallel
    assert own.is_trained.sum() > 30
    with pytest.raises(InvalidInput, match=r"own\..*: .*another model"):
        read_samples(source, load_tokenizer(find_model("countdown").path), 4096, SIZE)
    with pytest.raises(InvalidInput, match="spell other texts"):
        read_samples(source, load_tokenizer(other), 4096, SIZE)


def test_saved_samples_tell_whose_tokens_they_are_if_they_can(sampled, model, tmp_path):
    from datasets import Dataset, concatenate_datasets

    def read(rows) -> int:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        rows.save_to_disk(str(folder))
        return len(read_samples(DataConfig(kind="samples", paths=(str(folder),)), tokenizer, 4096, SIZE))

    tokenizer, found = load_tokenizer(model), trace_dataset([sampled])
    (pieces,) = found[PIECES]
    before = found.remove_columns(PIECES)  # as it was written before there was such a column
    assert read(before) == 1 and read(concatenate_datasets([before, found])) == 2
    wrong = [{**piece, "text": piece["text"][::-1] + "x"} for piece in pieces]
    for value, message in ((wrong, "spell other texts"), ([3], "no pieces of a trace"), ([{"text": "x"}], "no pieces")):
        with pytest.raises(InvalidInput, match=f"sample 1: .*{message}"):
            read(concatenate_datasets([before, Dataset.from_list([{**found[0], PIECES: value}])]))
    many = concatenate_datasets([before] * 1001 + [Dataset.from_list([{**found[0], PIECES: wrong}])])
    with pytest.raises(InvalidInput, match="sample 1001: .*spell other texts"):
        check_column(many, tokenizer)


def test_traces_may_be_spelled_a_little_otherwise(sampled, model):
    """Without special tokens, without blanks in front, with other signs for halves of characters."""
    trace, tokenizer = plait.Trace.load(sampled), load_tokenizer(model)
    for segment in trace.segments:
        for piece in segment.pieces:
            shown = tokenizer.decode([token for token in piece.token_ids if token > 2])
            piece.text = shown.strip().replace("\ufffd", "")
    check_spelling(trace, tokenizer)


def test_ids_beyond_the_vocabulary_are_refused(sampled, model, tmp_path):
    tokenizer = load_tokenizer(model)
    trace_dataset([sampled]).save_to_disk(str(tmp_path / "saved"))
    trace = plait.Trace.load(sampled)
    most = max(token for segment in trace.segments for token in segment.token_ids)
    for kind, path in (("traces", sampled), ("samples", tmp_path / "saved"), ("samples", tmp_path / "sav*")):
        source = DataConfig(kind=kind, paths=(str(path),))
        assert len(read_samples(source, tokenizer, 4096, most + 1)) == 1
        with pytest.raises(InvalidInput, match=f"{path.name[:3]}.*: token id {most} is outside"):
            read_samples(source, tokenizer, 4096, most)


@pytest.mark.parametrize(("last", "is_refused"), [(-5, True), (2047, False), (2048, True), (1_000_000, True)])
def test_positions_that_the_model_has_not_are_refused(last, is_refused, sampled, model, tmp_path):
    """It has 2,048, and the sample is shorter."""
    from datasets import Dataset

    row = trace_dataset([sampled])[0]
    Dataset.from_list([{**row, "positions": [*row["positions"][:-1], last]}]).save_to_disk(str(tmp_path / "saved"))
    given = config(model, tmp_path / "saved", source={"kind": "samples"})
    with pytest.raises(InvalidInput, match="saved: sample 0: .*position") if is_refused else contextlib.nullcontext():
        train(given, tmp_path / "out")
    assert (tmp_path / "out" / "model").exists() != is_refused


def test_a_curriculum_shows_every_sample_in_every_pass():
    order = mixed(20, MULTIVERSE, seed=1)
    passes = [order[i * 20 : (i + 1) * 20] for i in range(8)]
    assert all(sorted(i for i, _ in one) == list(range(20)) for one in passes)
    assert [sum(is_parallel for _, is_parallel in one) for one in passes] == [0, 0, 2, 10, 10, 18, 20, 20]
    halves = [{i for i, is_parallel in one if is_parallel} for one in passes[3:5]]
    assert not halves[0] & halves[1]
    assert mixed(20, MULTIVERSE, seed=1) == order != mixed(20, MULTIVERSE, seed=2)
    epochs = shuffled(9, 2, 0)
    assert sorted(epochs[:9]) == sorted(epochs[9:]) == list(range(9)) and epochs[:9] != epochs[9:]


# -- training --------------------------------------------------------------------------------------------------


def test_losses_fall_and_the_model_is_served(model, tmp_path):
    # What is held out is trained, too, and at a falling rate: else whether it is answered depends on how the processor
    # rounds.
    data = texts(tmp_path / "t.jsonl", 24)
    data.write_text(data.read_text() * 2)
    done = train(
        config(
            model, data, tags=True, epochs=8, source={"held_out": 1},
            trainer={"per_device_train_batch_size": 2, "lr_scheduler_type": "linear"},
            probe={"prompts": 3, "max_tokens": 200, "kv_tokens": 4096},
        ),
        tmp_path / "out",
    )  # fmt: skip
    losses = list(done.losses.values())
    assert done.is_finished and done.steps == len(losses) == 188
    assert losses[-1] < losses[0] / 3
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_loss" in entry for entry in log)
    probes = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert [(probes[when]["prompts"], probes[when]["answered"]) for when in ("before", "after")] == [(1, 0), (1, 1)]
    assert probes["after"]["branches"] == 2 and probes["after"]["total_tokens"] > probes["after"]["critical_tokens"]
    trace = plait.Trace.load(tmp_path / "out" / "probe" / "after" / "0.jsonl.gz")
    assert trace.joins and trace_samples(trace)
    # Tokens, not cells of the mask.
    assert max(entry.get("num_tokens", 0) for entry in log) < 47 * 8 * 200

    async def served():
        async with Runtime(str(done.model), kv_tokens=4096) as runtime:
            assert all(len(runtime.engine.tokenizer.encode(tag)) == 1 for tag in TAGS)
            job = Multiverse(prompt="q1?", chat=True, max_tokens=300, temperature=0.0)
            return await (await runtime.submit(job))

    result = asyncio.run(served())
    assert "<Parallel>" in result.text and len(result.trace.branches) > 1, result.text


@pytest.mark.parametrize(("family", "rows"), [("llama", SIZE - 20), ("llama", SIZE * 2), ("qwen3", SIZE - 20)])
def test_an_adapter_is_merged_with_the_rows_of_new_tags(family, rows, tmp_path):
    """`rows`: of the base's embedding: no room for the tags, or more than the published model has."""
    tied = family == "llama"
    base = folder(tmp_path / "model", family, tie_word_embeddings=tied, vocab_size=rows)
    data = texts(tmp_path / "t.jsonl", 4)
    given = config(
        base, data, tags=True, epochs=3, lora={"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    )
    done = train(given, tmp_path / "out")
    losses = list(done.losses.values())
    assert losses[-1] < losses[0]

    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = AutoModelForCausalLM.from_pretrained(done.model)
    first = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(done.model)
    assert merged.config.vocab_size % 64 == 0
    ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    pieces = [tokenizer.encode(tag.strip("<>"), add_special_tokens=False) for tag in TAGS]
    for table in ("get_input_embeddings", "get_output_embeddings"):
        new, old = getattr(merged, table)().weight, getattr(first, table)().weight
        # Only the tags' rows were trained.
        torch.testing.assert_close(new[: ids[0]], old[: ids[0]])
        begin = torch.stack([old[some].mean(0) for some in pieces])
        assert (new[ids] - begin).abs().amax(1).min() > 1e-3
    weights = [one.model.layers[0].self_attn.q_proj.weight for one in (first, merged)]
    assert (weights[0] - weights[1]).abs().max() > 1e-3
    assert (merged.get_input_embeddings().weight is merged.get_output_embeddings().weight) == tied

    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter").eval()
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "adapter").get_vocab() == tokenizer.get_vocab()
    every = torch.arange(len(tokenizer))[None]
    with torch.no_grad():
        logits = [one(every).logits[..., : len(tokenizer)] for one in (adapted, merged)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    kept = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert not [name for name, value in kept.items() if len(value) >= len(tokenizer)], "no whole table"

    async def served():
        async with Runtime(str(done.model), kv_tokens=2048) as runtime:
            result = await (await runtime.submit(Sequential(prompt="q1?", chat=True, max_tokens=5)))
            (segment,) = result.trace.segments
            return segment

    segment = asyncio.run(served())
    with torch.no_grad():
        logprobs = merged(torch.tensor([segment.token_ids])).logits[0].log_softmax(-1)
    first_sampled = len(segment.pieces[0].token_ids)
    for i, recorded in enumerate(segment.pieces[1].logprobs):
        at = first_sampled + i
        assert logprobs[at - 1, segment.token_ids[at]].item() == pytest.approx(recorded, abs=1e-4)


@pytest.mark.parametrize("method", ["texts", "samples"])
def test_packed_samples_have_the_gradients_of_samples_alone(method, model, tmp_path):
    """Also of samples that were saved."""
    from datasets import Dataset

    data = texts(tmp_path / "t.jsonl", 4)
    source = {"kind": method}
    if method == "samples":
        tokenizer = load_tokenizer(model)
        made = read_samples(DataConfig(kind="texts", paths=(str(data),), suffix="?"), tokenizer, 4096).parallel
        data = tmp_path / "saved"
        Dataset.from_list([one.row() for one in made]).save_to_disk(str(data))
    first = {}
    for pack, batches in ((None, 4), (100_000, 1)):
        trainer = {"max_steps": 1, "gradient_accumulation_steps": batches, "optim": "sgd", "learning_rate": 1.0}
        out = tmp_path / str(pack)
        done = train(config(model, data, pack=pack, source=source, trainer=trainer), out)
        first[pack] = done.losses[1], weights(out)
    assert first[None][0] == pytest.approx(first[100_000][0], rel=1e-4)
    for one, other in zip(first[None][1], first[100_000][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def weights(out: Path) -> list[torch.Tensor]:
    return [weight for _, weight in sorted(load_file(out / "model" / "model.safetensors").items())]


@pytest.mark.parametrize("what", ["nothing", "a folder", "other columns"])
def test_what_is_no_data_set_of_samples_is_named(what, model, tmp_path):
    from datasets import Dataset

    place = tmp_path / "saved"
    if what == "a folder":
        place.mkdir()
    elif what == "other columns":
        Dataset.from_list([{"text": "a"}]).save_to_disk(str(place))
    with pytest.raises(InvalidInput, match="saved"):
        read_samples(DataConfig(kind="samples", paths=(str(place),)), load_tokenizer(model), 4096)


def test_smoothed_labels_stay_in_their_places(model, tmp_path):
    """The loss of a step, against one computed from all logits."""
    from transformers import AutoModelForCausalLM

    data = texts(tmp_path / "t.jsonl", 2)
    trainer = {"max_steps": 1, "per_device_train_batch_size": 2, "label_smoothing_factor": 0.3}
    done = train(config(model, data, trainer=trainer), tmp_path / "out")
    source = DataConfig(kind="texts", paths=(str(data),))
    batch = collate(read_samples(source, load_tokenizer(model), 4096).parallel)
    labels = batch.pop("shift_labels")
    batch.pop("labels")
    with torch.no_grad():
        logprobs = AutoModelForCausalLM.from_pretrained(model)(**batch).logits.log_softmax(-1)[labels != IGNORED]
    own = logprobs.gather(-1, labels[labels != IGNORED][:, None])[:, 0]
    expected = -(0.7 * own + 0.3 * logprobs.mean(-1)).mean()
    assert done.losses[1] == pytest.approx(expected.item(), rel=1e-4)


def test_experts_are_trained_without_what_balances_them(tmp_path):
    """The masks of trees are not what that loss takes."""
    base = folder(tmp_path / "model", "qwen3_moe", output_router_logits=True)
    data = texts(tmp_path / "t.jsonl", 3)
    done = train(config(base, data, trainer={"per_device_train_batch_size": 3}, epochs=6), tmp_path / "out")
    losses = list(done.losses.values())
    assert len(losses) == 6 and losses[-1] < losses[0]


# -- going on --------------------------------------------------------------------------------------------------


def test_killed_runs_go_on_to_the_same_losses(model, tmp_path):
    """6 steps, against 3, a kill in the middle of the next, and the rest; with dropout, so that randomness counts."""
    data = texts(tmp_path / "t.jsonl")
    kinds = {"lora": {"lora": {"r": 4, "lora_dropout": 0.2}}, "muon": {"muon": True}}
    configs = {
        name: config(model, data, **kind, trainer={"save_steps": 3, "lr_scheduler_type": "cosine"}, seed=5)
        for name, kind in kinds.items()
    }
    for name, one in configs.items():
        (tmp_path / f"{name}.json").write_text(one.model_dump_json())
    # One start for both: what they import takes longer than they do.
    script = (
        "import os, signal, sys\n"
        "from plait.rl import sft, trainer\n"
        "from plait.rl.config import SFTConfig\n"
        "step = trainer.SampleTrainer.training_step\n"
        "def killed(self, *args, **options):\n"
        "    if self.state.global_step == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, *args, **options)\n"
        "trainer.SampleTrainer.training_step = killed\n"
        "from pathlib import Path\n"
        "for name in sys.argv[1:]:\n"
        "    if not (child := os.fork()):\n"
        "        sft.train(SFTConfig.model_validate_json(Path(f'{name}.json').read_text()), Path('killed', name))\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == signal.SIGKILL\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, *configs]
    subprocess.run(command, env=environment(), cwd=tmp_path, check=True)
    for name, one in configs.items():
        check_going_on(one, tmp_path / "straight" / name, tmp_path / "killed" / name)


def check_going_on(given, straight, out):
    whole = train(given, straight)
    assert [path.name for path in checkpoints(out)] == [f"{PREFIX}3"] and not (out / "model").exists()
    # A kill while a checkpoint was written leaves something of it.
    (out / STAGING / f"{PREFIX}6").mkdir(parents=True)
    resumed = train(given, out)
    assert resumed.losses == whole.losses and len(whole.losses) == 6
    assert not (out / STAGING).exists()
    straight_count, count = (
        [entry.get("num_tokens") for entry in json.loads((one / "trainer_state.json").read_text())["log_history"]]
        for one in (straight, out)
    )
    assert straight_count == count
    trained = [load_file(folder / "model" / "model.safetensors") for folder in (straight, out)]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(plait.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("steps", [4, 8], ids=["in the midst of an epoch", "at the end of one"])
def test_a_finished_run_only_publishes_again(steps, model, tmp_path):
    """Also one that was killed before it did."""
    given = config(model, texts(tmp_path / "t.jsonl", 8), trainer={"max_steps": steps})
    first = train(given, tmp_path)
    trained = weights(tmp_path)
    shutil.rmtree(tmp_path / "model")
    again = train(given, tmp_path)
    assert (again.steps, again.is_finished, again.losses) == (steps, True, first.losses)
    assert all(map(torch.equal, weights(tmp_path), trained))
    assert [path.name for path in checkpoints(tmp_path)] == [f"{PREFIX}{steps}"]


@pytest.mark.parametrize(
    ("logging", "is_told"), [({}, True), ({"logging_steps": 2}, False), ({"logging_strategy": "no"}, False)]
)
def test_the_loss_of_a_run_that_went_on_is_of_all_steps_or_left_out(logging, is_told, model, tmp_path):
    given = config(model, texts(tmp_path / "t.jsonl"), trainer={"max_steps": 3, **logging})
    train(given.model_copy(update={"max_minutes": 1e-5}), tmp_path)
    first = train_loss(tmp_path)
    assert first is not None
    losses = train(given, tmp_path).losses.values()
    assert train_loss(tmp_path) == (pytest.approx(sum(losses) / 3) if is_told else None) != first
    went_on = train_loss(tmp_path)
    train(given, tmp_path)
    assert train_loss(tmp_path) == went_on, "there was nothing left to do"


def test_time_that_is_up_ends_with_a_checkpoint_and_a_model(model, tmp_path):
    data = texts(tmp_path / "t.jsonl")
    given = config(model, data, epochs=3, max_minutes=1e-5)
    first = train(given, tmp_path / "out")
    assert first.steps == 1 and not first.is_finished and first.model.is_dir()
    assert [path.name for path in checkpoints(tmp_path / "out")] == [f"{PREFIX}1"]
    second = train(given.model_copy(update={"max_minutes": None}), tmp_path / "out")
    assert second.is_finished and len(second.losses) == 18
    with pytest.raises(InvalidInput, match="made with other epochs"):
        train(given.model_copy(update={"epochs": 4}), tmp_path / "out")
    shown = data.read_text()
    data.write_text(shown.replace("Answer: 3", "Answer: 4"))
    with pytest.raises(InvalidInput, match="made with other data: "):
        train(given, tmp_path / "out")
    data.write_text(shown)
    (tmp_path / "out" / "probe").mkdir()
    (tmp_path / "out" / "probe.json").write_text("{}")
    again = train(given.model_copy(update={"epochs": 1, "max_minutes": None}), tmp_path / "out", fresh=True)
    assert again.steps == 6 and not list((tmp_path / "out").glob("probe*"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_finds_no_room_is_one_error(file, model, tmp_path):
    given = config(model, texts(tmp_path / "t.jsonl"), trainer={"save_steps": 2})
    train(given.model_copy(update={"max_minutes": 1e-5}), tmp_path / "out")
    before = sorted((tmp_path / "out").rglob("*"))
    (last,) = checkpoints(tmp_path / "out")
    with pytest.raises(InvalidInput, match="cannot write .*out: "), full_at((last / file).stat().st_size - 1):
        train(given, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before


@pytest.mark.parametrize("kind", [{}, {"lora": {"r": 4}}], ids=["model", "adapter"])
def test_a_model_that_finds_no_room_is_one_error_and_the_one_before_stays(kind, model, tmp_path):
    given = config(model, texts(tmp_path / "t.jsonl"), trainer={"save_strategy": "no", "max_steps": 1}, **kind)
    check_without_room(lambda: train(given, tmp_path / "out").model)


@pytest.mark.parametrize(("limit", "kept"), [(2, [5, 6]), (0, [1, 2, 3, 4, 5, 6]), (-1, [1, 2, 3, 4, 5, 6])])
def test_old_checkpoints_go(limit, kept, model, tmp_path):
    """None where the limit is none. Also those that a run which was killed had no time to remove."""
    given = config(model, texts(tmp_path / "t.jsonl"), trainer={"save_steps": 1, "save_total_limit": limit})
    for _ in range(2):
        train(given, tmp_path / "out")
        assert [path.name for path in checkpoints(tmp_path / "out")] == [f"{PREFIX}{step}" for step in kept]
        shutil.copytree(tmp_path / "out" / f"{PREFIX}6", tmp_path / "out" / f"{PREFIX}1", dirs_exist_ok=True)


@pytest.mark.parametrize(("lora", "is_moved"), [(None, False), ({"r": 2}, True)])
def test_the_best_checkpoint_is_published(lora, is_moved, model, tmp_path, monkeypatch):
    """Not the last one; also where the best one is of a run before, and the folder was moved since. The best is the one
    with the highest loss here, which is the first on every processor."""
    monkeypatch.chdir(tmp_path)
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = {**often, "load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    given = config(model, texts(tmp_path / "t.jsonl"), trainer=trainer, source={"held_out": 2}, lora=lora)
    train(given.model_copy(update={"max_minutes": 1e-5}), Path("out"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = tmp_path / "out"
    if is_moved:
        out = out.rename(tmp_path / "elsewhere" / "moved")
    done = train(given, out)
    state = json.loads((out / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in reversed(state["log_history"]) if "eval_loss" in entry}
    best = out / f"{PREFIX}{max(losses, key=losses.__getitem__)}"
    assert done.steps == 4 and best == checkpoints(out)[0] == out / f"{PREFIX}1"
    for place in (out, *checkpoints(out)[is_moved:]):  # The first one was written before.
        assert json.loads((place / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    kept, published = (load_file(path / name) for path in (best, out / ("model" if lora is None else "adapter")))
    assert all(torch.equal(kept[name], published[name]) for name in published)
    if is_moved:  # once more, where nothing is left to be trained and no checkpoint written
        out = out.rename(tmp_path / "again")
        train(given, out)
        published = load_file(out / "adapter" / "adapter_model.safetensors")
        assert all(torch.equal(kept[name], published[name]) for name in published)


@pytest.mark.parametrize(("logging", "what"), [(1, "the loss is"), (9, "weights are")])
def test_a_run_that_diverges_is_one_error(logging, what, model, tmp_path):
    given = config(model, texts(tmp_path / "t.jsonl"), trainer={**DIVERGING, "logging_steps": logging})
    check_diverged(partial(train, given), tmp_path / "out", what)


def test_a_last_step_that_diverges_is_one_error(model, tmp_path):
    """Its weights are finite still, and its loss is that of the weights before."""
    given = config(model, texts(tmp_path / "t.jsonl"), trainer={**DIVERGING, "max_steps": 1}, source={"held_out": 2})
    check_diverged(partial(train, given), tmp_path / "out", "the eval_loss is", step=1)


def test_the_tokenizer_of_the_base_is_published(tmp_path):
    base = splitting_digits(tmp_path / "base")
    given = config(base, texts(tmp_path / "t.jsonl"), trainer={"max_steps": 1}, lora={"r": 2})
    check_same_tokenizer(base, train(given, tmp_path / "out").model)
    check_same_tokenizer(base, tmp_path / "out" / "adapter")


def test_weights_that_are_not_finite_are_not_published(model, tmp_path):
    """Where there are no checkpoints, and no loss was logged."""
    seldom = {"learning_rate": 1e30, "save_strategy": "no", "logging_steps": 9}
    given = config(model, texts(tmp_path / "t.jsonl"), trainer=seldom)
    with pytest.raises(plait.PlaitError, match="^step 6: weights are not finite .*; there is no checkpoint$"):
        train(given, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_an_adapter_that_overflows_where_it_is_merged_is_not_published(model, tmp_path):
    """It is finite itself, and nothing but its last step shows it."""
    lora = {"r": 1, "lora_alpha": 10**12, "target_modules": ["q_proj"]}
    given = config(model, texts(tmp_path / "t.jsonl"), lora=lora, trainer={"learning_rate": 1e30, "max_steps": 1})
    with pytest.raises(plait.PlaitError, match="^step 1: merged weights are not finite .*/checkpoint-1$"):
        train(given, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "checkpoint-1" / "adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert not (tmp_path / "out" / "adapter").exists() and not (tmp_path / "out" / "model").exists()


def test_two_processes(model, tmp_path):
    """The same samples, half of them each: the losses of one process with batches of two."""
    data = texts(tmp_path / "t.jsonl")
    alone = train(config(model, data, trainer={"per_device_train_batch_size": 2}), tmp_path / "alone")
    lines = [
        f'model = "{model}"', "threads = 1", "[[data]]", 'kind = "texts"', f'paths = ["{data}"]',
        "[trainer]", "learning_rate = 1e-2", 'lr_scheduler_type = "constant"', 'ddp_backend = "gloo"',
    ]  # fmt: skip
    (tmp_path / "c.toml").write_text("\n".join(lines))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "plait", "train", "sft", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
    try:
        status = process.wait(timeout=90)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, (tmp_path / "log").read_text()[-3000:]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    assert losses == pytest.approx(alone.losses, rel=1e-3) and len(losses) == 3
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "out" / MATERIAL).read_text())["num_processes"] == 2


# -- configurations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainer": {"learnin_rate": 1, "foo": 2}}, "knows no learnin_rate, foo"),
        ({"trainer": {"output_dir": "x"}}, "output_dir: decided by"),
        ({"trainer": {"packing": True}}, "packing: decided by"),
        ({"trainer": {"accelerator_config": "nofile.json"}}, r"^\[trainer\]: .*nofile\.json"),
        ({"trainer": {"router_aux_loss_coef": 0.1}}, "router_aux_loss_coef: decided by"),
        ({"trainer": {"save_strategy": "never"}}, r"\[trainer\]"),
        ({"trainer": {"learning_rate": "abc"}}, r"^\[trainer\]: "),
        ({"trainer": {"max_steps": 2.5}}, "max_steps: 2.5 is no int"),
        ({"trainer": {"bf16": 1}}, "bf16: 1 is no bool"),
        ({"trainer": {"per_device_train_batch_size": 0}}, "per_device_train_batch_size is 0: 1 at least"),
        ({"trainer": {"learning_rate": -0.1}}, "learning_rate is -0.1: 0 at least"),
        ({"trainer": {"logging_steps": -0.01}}, "logging_steps is -0.01: 0 at least"),
        ({"trainer": {"eval_steps": -1}}, "eval_steps is -1: 0 at least"),
        ({"trainer": {"adam_epsilon": -1.0}, "muon": True}, "adam_epsilon is -1.0: 0 at least"),
        ({"trainer": {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 0}}, "prefetch_factor is 0: 1 at"),
        ({"trainer": {"ddp_timeout": 0}}, "ddp_timeout is 0: 1 at least"),
        ({"trainer": {"ddp_bucket_cap_mb": 0}}, "ddp_bucket_cap_mb is 0: 1 at least"),
        ({"trainer": {"report_to": "foo"}}, "report_to: foo is not supported"),
        ({"trainer": {"eval_strategy": "steps", "eval_steps": 1}}, "nothing held out"),
        ({"trainer": {"neftune_noise_alpha": -1}}, "neftune_noise_alpha is -1: 0 at least"),
        ({"trainer": {"label_smoothing_factor": 2.0}}, "label_smoothing_factor is 2.0: 1 at most"),
        ({"trainer": {"max_steps": 0}}, "max_steps is 0: 1 at least"),
        ({"trainer": {"save_steps": 0}}, "save_steps is 0"),
        ({"trainer": {"dataloader_num_workers": -1}}, "dataloader_num_workers is -1: 0 at least"),
        ({"trainer": {"eval_accumulation_steps": 0}}, "eval_accumulation_steps is 0: 1 at least"),
        ({"trainer": {"gradient_checkpointing_kwargs": {"bogus": 1}}}, "torch knows no bogus"),
        ({"trainer": {"push_to_hub": True}}, "push_to_hub: decided by"),
        ({"trainer": {"max_steps": -5}}, "max_steps is -5: 1 at least"),
        ({"trainer": {"save_only_model": True}}, "save_only_model: decided by"),
        ({"trainer": {"ignore_data_skip": True}}, "ignore_data_skip: decided by"),
        ({"trainer": {"save_strategy": "best", "metric_for_best_model": "loss"}}, "nothing is evaluated"),
        ({"trainer": {"load_best_model_at_end": True, "save_strategy": "no"}}, "load_best_.*: nothing is evaluated"),
        ({"trainer": {"per_device_eval_batch_size": 2, "eval_steps": 5}}, "eval_batch_size, eval_steps would do noth"),
        ({"trainer": {"hub_model_id": "a/b"}}, "hub_model_id would do nothing"),
        ({"trainer": {"pad_to_multiple_of": 8, "label_names": ["x"]}}, "pad_to_multiple_of, label_names would do noth"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"lora": {"rank": 3}}, "LoraConfig knows no rank"),
        ({"lora": {}, "muon": True}, "^muon: "),
        ({"trainer": {"optim": "sgd"}, "muon": True}, "^muon: "),
        ({"trainer": {"adam_beta1": 1.5}, "muon": True}, "betas"),
        ({"max_tokens": 10}, "there is no sample to train on; 6"),
        ({"source": {"held_out": 9}}, "there is no sample to train on; 0 had .*, 6 are held out"),
        ({"curriculum": [2]}, "curriculum"),
        ({"curriculum": [0.5, 1], "epochs": 3}, "^epochs: .* how many passes there are, 2;"),
        ({"probe": {}}, "`held_out`"),
        ({"model": "nothing"}, "no model 'nothing'"),
    ],
)
def test_wrong_configurations_are_one_error(fields, message, model, tmp_path):
    with pytest.raises(plait.PlaitError, match=message):
        train(config(model, texts(tmp_path / "t.jsonl"), **fields), tmp_path / "out")


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"r": 0}, r"\[trainer\], \[lora\]: "),
        ({"target_modules": ["nope"]}, r"\[trainer\], \[lora\]: "),
        ({"target_modules": "[q"}, r"\[trainer\], \[lora\]: "),
        ({"lora_bias": True}, r"^\[lora\]: it cannot be merged .*lora_bias=True"),
        ({"alora_invocation_tokens": [5, 6]}, r"^\[lora\]: alora_invocation_tokens: .* cannot be merged"),
        ({"layer_replication": [[0, 2], [0, 2]]}, r"^\[lora\]: layer_replication: .* cannot be merged"),
    ],
)
def test_an_adapter_that_cannot_be_is_one_error_and_nothing_is_trained_or_lost(lora, message, model, tmp_path):
    probed = {"probe": {"prompts": 1}, "source": {"held_out": 1}}
    given = config(model, texts(tmp_path / "t.jsonl"), lora=lora, **probed)
    before = earlier_run(given, tmp_path / "out")
    with pytest.raises(InvalidInput, match=message):
        train(given, tmp_path / "out", fresh=True)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("other", [{"prompts": 2}, {"temperature": 1.0}, None])
def test_what_is_probed_before_and_after_is_the_same(other, model, tmp_path):
    data, source = texts(tmp_path / "t.jsonl"), {"held_out": 2}
    before = earlier_run(config(model, data, source=source, probe={"prompts": 1}), tmp_path / "out")
    with pytest.raises(InvalidInput, match="made with other probe: .*--fresh"):
        train(config(model, data, source=source, probe=other), tmp_path / "out")
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_the_embedding_is_served_as_it_was_trained_or_refused(tied, tmp_path):
    base = folder(tmp_path / "model", tie_word_embeddings=tied)
    lora = {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}
    data = texts(tmp_path / "t.jsonl", 4)
    given = config(base, data, lora=lora, source={"held_out": 2}, trainer={"max_steps": 2})
    if tied:
        with pytest.raises(InvalidInput, match=r"^\[lora\]: .*modules_to_save"):
            train(given, tmp_path / "out")
        whole = {"lora": {"r": 4, "modules_to_save": ["lm_head"]}, "tags": True}
        with pytest.raises(InvalidInput, match=r"^\[lora\]: modules_to_save: lm_head: .* rows of it"):
            train(given.model_copy(update=whole), tmp_path / "out")
        given = given.model_copy(
            update={"lora": {**lora, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}}
        )
    done = train(given, tmp_path / "out")
    # What the published model says of the same samples, at a rate that changes nothing.
    still = config(done.model, data, source={"held_out": 2}, trainer={"max_steps": 1, "learning_rate": 0.0})
    train(still, tmp_path / "again")
    assert loss(tmp_path / "again") == pytest.approx(loss(tmp_path / "out"), abs=1e-4)
    untrained = still.model_copy(update={"model": str(base)})
    train(untrained, tmp_path / "before")
    assert loss(tmp_path / "before") != pytest.approx(loss(tmp_path / "out"), abs=1e-2)


@pytest.mark.parametrize(
    ("idle", "message"),
    [
        ({"trainer": {"pad_to_multiple_of": 8}}, "pad_to_multiple_of would do nothing"),
        ({"trainer": {"per_device_eval_batch_size": 2}}, "per_device_eval_batch_size would do nothing"),
        ({"trainer": {"metric_for_best_model": "loss"}}, "nothing is evaluated"),
        ({"lora": {"r": 4, "rank_pattern": {"nope": 2}}}, "no layer with an adapter matches nope"),
        ({"lora": {"r": 4, "modules_to_save": ["nope"]}}, "the model has no nope"),
    ],
)
def test_a_run_that_was_begun_with_what_does_nothing_goes_on(idle, message, model, tmp_path):
    data, least = texts(tmp_path / "t.jsonl", 2), {"max_steps": 1}
    given = config(model, data, trainer=least, **({"lora": {"r": 4}} if "lora" in idle else {}))
    other = config(model, data, **{**idle, "trainer": {**least, **idle.get("trainer", {})}})
    check_goes_on(train, given, other, tmp_path / "out", message)


def loss(out: Path) -> float:
    """Of what is held out, in the end."""
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["eval_loss"] for entry in log if "eval_loss" in entry][-1]


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"optim": "grokadamw"}, "grokadamw"),
        ({"adam_beta1": 1.5}, "beta"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_one_error(trainer, message, model, tmp_path):
    if trainer.get("optim") and importlib.util.find_spec(message) is not None:
        pytest.skip("it is installed")
    with pytest.raises(InvalidInput, match=rf"^\[trainer\]: .*{message}"):
        train(config(model, texts(tmp_path / "t.jsonl"), trainer=trainer), tmp_path / "out")
    assert not checkpoints(tmp_path / "out")


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"bogus": 1}}, "bogus"),
        ({"log_level": "bogus"}, "bogus"),
        ({"parallelism_config": {"a": 1}}, "dict"),
        (
            {
                "metric_for_best_model": "eval_bogus",
                "load_best_model_at_end": True,
                "eval_strategy": "steps",
                "eval_steps": 1,
                "save_steps": 1,
            },
            "eval_bogus",
        ),
    ],
)
def test_what_the_trainer_fails_by_when_it_begins_is_one_error(trainer, message, model, tmp_path):
    given = config(model, texts(tmp_path / "t.jsonl", 3), source={"held_out": 1}, trainer={"max_steps": 1, **trainer})
    with pytest.raises(InvalidInput, match=rf"^\[trainer\].*{message}"):
        train(given, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(("batch", "held_out"), [(6, 0), (3, 1)])
def test_a_pass_without_a_whole_batch_is_one_error(batch, held_out, model, tmp_path):
    trainer = {"dataloader_drop_last": True, "per_device_train_batch_size": batch, "max_steps": -1}
    given = config(model, texts(tmp_path / "t.jsonl", 5), source={"held_out": held_out}, trainer=trainer)
    with pytest.raises(InvalidInput, match="no whole batch"):
        train(given, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_that_a_cpu_would_ignore_is_refused(model, tmp_path):
    with pytest.raises(InvalidInput, match="fp16 would do nothing on a CPU"):
        train(config(model, texts(tmp_path / "t.jsonl"), trainer={"fp16": True}), tmp_path / "out")


def test_what_is_so_anyway_may_be_said(model, tmp_path):
    given = {"hub_strategy": "every_save", "fp16": False, "load_best_model_at_end": False, "max_steps": 1}
    assert train(config(model, texts(tmp_path / "t.jsonl"), trainer=given), tmp_path / "out").is_finished


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_activations_go_nowhere_without_a_gpu(model, tmp_path):
    with pytest.raises(InvalidInput, match="activation_offloading"):
        train(config(model, texts(tmp_path / "t.jsonl"), trainer={"activation_offloading": True}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is not None, reason="it is installed")
def test_kernels_that_are_not_installed_are_one_error(model, tmp_path):
    with pytest.raises(InvalidInput, match="needs the package liger-kernel"):
        train(config(model, texts(tmp_path / "t.jsonl"), trainer={"use_liger_kernel": True}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_windows_that_hide_what_a_mask_shows_are_refused(tmp_path):
    base = folder(tmp_path / "model", "mistral", sliding_window=16)
    with pytest.raises(UnsupportedModel, match="see 16 tokens"):
        train(config(base, texts(tmp_path / "t.jsonl")), tmp_path / "out")


def test_texts_longer_than_the_positions_that_a_model_learns_are_refused(tmp_path):
    base = learned_positions(tmp_path / "model", 128)
    with pytest.raises(InvalidInput, match="the model has 128 positions"):
        train(config(base, texts(tmp_path / "t.jsonl")), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_command(model, tmp_path, capsys, monkeypatch):
    data = texts(tmp_path / "t.jsonl", 2)
    (tmp_path / "c.toml").write_text(f'model = "{model}"\nthreads = 1\n[[data]]\nkind = "texts"\npaths = ["t.jsonl"]\n')
    out = tmp_path / "out"
    command = ["train", "sft", str(tmp_path / "c.toml"), "--out", str(out), "--set", "trainer.max_steps=1"]
    assert main(command) == 0
    assert "1 steps, done" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["trainer"] == {"max_steps": 1}
    # By the folder alone, or the same file by another name: there is nothing left to do.
    assert main(["train", "sft", str(out)]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "sft", "c.toml", *command[3:]]) == 0
    assert main(["train", "sft", "out"]) == 0
    assert main(["train", "sft", str(tmp_path / "none.toml")]) == 1
    assert "cannot read the training" in capsys.readouterr().err
    assert data.is_file()


def test_a_run_goes_on_from_another_folder(model, tmp_path, monkeypatch):
    """Data and the model named relative to where it was begun."""
    place = tmp_path / "a[1]"
    shutil.copytree(model, place / "model")
    texts(place / "t1.jsonl", 2)
    (place / "c.toml").write_text('model = "model"\nthreads = 1\n[[data]]\nkind = "texts"\npaths = ["t*.jsonl"]\n')
    monkeypatch.chdir(place)
    assert main(["train", "sft", "c.toml", "--out", "out", "--set", "trainer.max_steps=1"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "sft", "a[1]/out"]) == 0
