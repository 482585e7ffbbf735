import itertools
import multiprocessing
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from plait.evals.benchmarks.countdown.problems import is_validation
from plait.rl.countdown import packed
from plait.rl.countdown.batch import collate
from plait.rl.countdown.mix import Documents, Mix
from plait.rl.countdown.model import Model, ModelConfig
from plait.rl.countdown.packed import DOCUMENTS, KIND, KINDS, LABELS, POSITIONS, TOKENS, Packer, columns
from plait.rl.countdown.tokenizer import VOCABULARY
from plait.rl.countdown.train import TrainConfig, Trainer
from plait.rl.countdown.workers import in_turn

TINY = ModelConfig(hidden=64, layers=2, heads=2, intermediate=64)
SHORT = Mix(seq4=0, mv4=0, path4=0)


def rows_of(documents, length):
    """All of the documents, in as many rows as it takes."""
    packer = Packer(length)
    made = [packer.add(columns(document, kind)) for kind, document in documents]
    rest = [packer._row(waiting) for waiting in packer._open]
    return np.stack([row for row in (*made, *rest) if row is not None], axis=1)


def test_rows_have_the_losses_of_their_documents():
    source = Documents(random.Random(0))
    documents = [(kind, source.make(kind)) for kind in ("leaf", "mv4", "end4", "seq4", "path4", "leaf", "end4")]
    torch.manual_seed(0)
    model = Model(TINY)
    block = rows_of(documents, 2048)
    assert block.shape[1] < len(documents)
    found = packed.batch(block, flex=False)
    losses = dict(zip(KINDS, found.losses(model).tolist(), strict=True))
    for kind in KINDS:
        alone = [collate([document], kind) for own, document in documents if own == kind]
        assert found.counts[kind] == sum(part.counts[kind] for part in alone)
        expected = sum(part.losses(model).item() for part in alone)
        assert losses[kind] == pytest.approx(expected, rel=1e-5)
    assert found.tokens == sum(len(document.words) for _, document in documents)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), max_size=80), length=st.integers(8, 64))
def test_every_document_that_fits_is_in_one_row_whole(sizes, length):
    packer = Packer(length)
    packer.OPEN = 3
    rows = []
    for name, size in enumerate(sizes):
        document = np.full((6, size), name, dtype=np.int16)
        document[POSITIONS] = np.arange(size)
        if (row := packer.add(document)) is not None:
            rows.append(row)
    rows += [packer._row(waiting) for waiting in packer._open]
    found = []
    for row in rows:
        assert row.shape == (6, length)
        for number in sorted(set(row[DOCUMENTS].tolist()) - {-1}):
            own = row[:, row[DOCUMENTS] == number]
            assert len(set(own[TOKENS].tolist())) == 1
            assert own[POSITIONS].tolist() == list(range(own.shape[1]))
            found.append((int(own[TOKENS, 0]), own.shape[1]))
        empty = row[:, row[DOCUMENTS] == -1]
        assert (empty[LABELS] < 0).all()
    assert sorted(found) == [(name, size) for name, size in enumerate(sizes) if size <= length]


def test_kinds_have_the_shares_of_the_mix_and_rows_are_nearly_full():
    mix = Mix()
    parts = list(itertools.islice(packed.stream(mix, length=2048)(random.Random(0), 2048 * 16), 20))
    kinds = torch.cat([part.columns[KIND][part.columns[DOCUMENTS] >= 0] for part in parts])
    for kind in ("leaf", "seq4", "mv4", "end4"):
        share = (kinds == KINDS.index(kind)).float().mean().item()
        assert share == pytest.approx(getattr(mix, kind) / 94, rel=0.25), kind
    assert sum(part.tokens for part in parts) > 0.97 * sum(part.columns[TOKENS].numel() for part in parts)


def test_held_out_problems_are_not_in_rows():
    block = next(packed.stream(SHORT, length=512)(random.Random(0), 8192)).columns
    seen = 0
    for row in range(block.shape[1]):
        for number in range(int(block[DOCUMENTS, row].max()) + 1):
            words = [VOCABULARY[i] for i in block[TOKENS, row][block[DOCUMENTS, row] == number]]
            if words[1] in ("apr", "seq", "mv", "step"):
                seen += 1
                assert not is_validation(map(int, words[4 : words.index(";")]), int(words[2]))
    assert seen > 30


def test_workers_make_what_this_process_would_and_end():
    def taken(workers):
        source = packed.stream(SHORT, length=256, workers=workers)(random.Random(0), 512)
        parts = list(itertools.islice(source, 3))
        source.close()
        return parts

    here, elsewhere = taken(0), taken(2)
    assert torch.equal(elsewhere[0].columns, here[0].columns)
    assert torch.equal(elsewhere[2].columns, here[1].columns)
    assert not torch.equal(elsewhere[1].columns, here[1].columns)
    assert not multiprocessing.active_children()


def test_a_worker_that_ends_is_told():
    source = in_turn(iter, [([1],)])
    assert next(source) == 1
    with pytest.raises(RuntimeError, match="ended with 0"):
        next(source)
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's own
def test_flex_attention_compiles_once_and_is_what_the_dense_mask_says(monkeypatch):
    # Only its kernels cannot run backward on the CPU.
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, compiled = Model(TINY), Model(TINY)
    compiled.load_state_dict(model.state_dict())
    compiled.compile(backend="aot_eager")
    before = counters["stats"]["unique_graphs"]
    for part in itertools.islice(packed.stream(Mix(seq4=0, mv4=0), length=256, flex=True)(random.Random(0), 512), 2):
        losses, expected = part.losses(compiled), replace(part, flex=False).losses(model)
        torch.testing.assert_close(losses, expected, atol=1e-2, rtol=1e-5)
        losses.sum().backward()
        expected.sum().backward()
        for a, b in zip(compiled.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-3)
    assert counters["stats"]["unique_graphs"] - before == 2  # the block, for all layers and batches, and the losses


def test_a_run_on_rows_learns_exports_and_goes_on(tmp_path):
    def trainer(tokens):
        config = TrainConfig(
            out=tmp_path / "run", export=tmp_path / "model", tokens=tokens, micro_tokens=512, accumulate=2, log_steps=2
        )
        return Trainer(config, packed.stream(SHORT, length=256), TINY)

    first = trainer(4000)
    first.run()
    assert (tmp_path / "model" / "config.json").exists()
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    second = trainer(8000)
    assert second.tokens == first.tokens
    second.run()
    assert second.steps > first.steps
    assert (tmp_path / "model" / "model.safetensors").read_bytes() != weights
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"tokenizer.json", "model.safetensors"}
    assert not list((tmp_path / "model").glob("*.part"))
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) >= 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flex_attention_on_a_gpu_is_what_the_dense_mask_says():
    torch._dynamo.reset()
    torch.manual_seed(0)
    config = ModelConfig(hidden=512, layers=2, heads=8, intermediate=1280)
    model, compiled = Model(config).cuda(), Model(config).cuda()
    compiled.load_state_dict(model.state_dict())
    compiled.compile()
    for part in itertools.islice(packed.stream(Mix(), length=2048, flex=True)(random.Random(0), 8192), 2):
        part = part.to("cuda")
        with torch.autocast("cuda", torch.bfloat16):
            losses, expected = part.losses(compiled), replace(part, flex=False).losses(model)
        torch.testing.assert_close(losses, expected, atol=1, rtol=1e-3)
        losses.sum().backward()
        expected.sum().backward()
        for a, b in zip(compiled.parameters(), model.parameters(), strict=True):
            assert (a.grad - b.grad).norm() < 0.03 * b.grad.norm()
