import random

import pytest
import torch

from plait.rl.countdown.batch import IGNORED, collate
from plait.rl.countdown.mix import Documents, Mix
from plait.rl.countdown.packed import KINDS
from plait.rl.countdown.samples import sample, samples, save_samples
from plait.rl.countdown.tokenizer import VOCABULARY
from plait.rl.packing import packed
from plait.rl.samples import collate as rows_of
from plait.runtime.errors import InvalidInput


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_what_the_batches_of_documents_are(kind):
    documents = Documents(random.Random(3))
    for _ in range(6):
        document = documents.make(kind)
        batch, made = collate([document], kind), sample(document, kind)
        n = batch.inputs.shape[1]
        assert made.mask.token_ids[:n] == batch.inputs[0].tolist()
        assert made.shift_labels()[0, :n].tolist() == batch.labels[0].tolist()
        assert (made.shift_labels()[0, n:] == IGNORED).all()
        positions = torch.arange(n) if batch.positions is None else batch.positions[0]
        assert torch.equal(made.mask.position_ids()[0, :n], positions)
        mask = torch.ones(n, n, dtype=torch.bool).tril() if batch.mask is None else batch.mask[0, 0]
        assert torch.equal(made.mask.dense()[0, 0, :n, :n], mask)


def test_no_tokens_are_no_data_set(tmp_path):
    with pytest.raises(InvalidInput, match="no sample"):
        save_samples((one.row() for _, one in samples(Mix(), 0, 0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_data_set_has_the_shares_of_the_mix():
    mix, sizes = Mix(), dict.fromkeys(KINDS, 0)
    for kind, one in samples(mix, 200_000, 0):
        sizes[kind] += len(one)
    total, shares = sum(sizes.values()), sum(getattr(mix, kind) for kind in KINDS)
    assert 200_000 <= total < 203_000
    for kind in ("leaf", "seq4", "mv4", "end4"):
        assert sizes[kind] / total == pytest.approx(getattr(mix, kind) / shares, rel=0.25), kind


def test_packed_samples_see_themselves_alone():
    made = [one for _, one in samples(Mix(), 30_000, 1)]
    rows = packed(made, 1024)
    assert sum(map(len, rows)) == sum(map(len, made))
    assert all(len(row) <= 1024 or any(len(one) == len(row) for one in made) for row in rows)
    assert len(rows) < 0.6 * len(made)
    whole = {tuple(one.mask.token_ids): one for one in made}
    row = next(row for row in rows if len(row) <= 1024 and row.mask.token_ids.count(VOCABULARY.index("<bos>")) > 2)
    batch = rows_of([row])
    mask, begin = batch["attention_mask"][0, 0], 0
    while begin < len(row):
        length = next(
            n for n in range(len(row) - begin, 0, -1) if tuple(row.mask.token_ids[begin : begin + n]) in whole
        )
        own = whole[tuple(row.mask.token_ids[begin : begin + length])]
        part = slice(begin, begin + length)
        assert torch.equal(mask[part, part], own.mask.dense()[0, 0])
        assert int(mask[part].sum()) == int(own.mask.dense().sum())
        assert torch.equal(batch["shift_labels"][0, part], own.shift_labels()[0])
        assert torch.equal(batch["position_ids"][0, part], own.mask.position_ids()[0])
        begin += length
