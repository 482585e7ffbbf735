"""Steps with verdicts: lines that are read, places that frames give them, Countdown's."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput
from plait.rl.countdown.prm import GOOD, Samples
from plait.rl.countdown.steps import row, rows
from plait.rl.countdown.tokenizer import IDS
from plait.rl.prm.config import StepData
from plait.rl.prm.reading import read_trajectories
from plait.rl.prm.samples import collate, step_samples
from plait.rl.prm.trajectories import parse
from plait.runtime.engines.native.gguf_tokenizer import load_tokenizer
from plait.runtime.engines.registry import find_model
from plait.search.rewards.frames import ChatTurns, Plain
from plait.tests.rl.tools import REWRITING, folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"steps": ["a"], "labels": [True]}, "no `prompt`"),
        ({"prompt": "q", "steps": "a", "labels": [True]}, "no `steps`"),
        ({"prompt": "q", "steps": [], "labels": []}, "no `steps`"),
        ({"prompt": "q", "steps": ["a"], "labels": []}, "one for each step"),
        ({"prompt": "q", "steps": ["a"], "labels": ["+"]}, "a label is true or false"),
        ({"prompt": "q", "steps": ["a"], "labels": [0.5]}, "a label is true or false"),
        ({"prompt": "q", "steps": ["a"], "labels": [2]}, "a label is true or false"),
        ({"prompt": "q", "steps": ["a"], "labels": [1], "ended": 1}, "`ended`"),
    ],
)
def test_wrong_lines_are_named(line, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        parse(line)
    (tmp_path / "s.jsonl").write_text(json.dumps({"prompt": "q", "steps": ["a"], "labels": [1]}) + "\n")
    with (tmp_path / "s.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(InvalidInput, match=r"s\.jsonl:2: "):
        read_trajectories([StepData(kind="steps", paths=(str(tmp_path / "s.jsonl"),))])


def test_prompts_are_held_out_whole(tmp_path):
    text = "".join(f'{{"prompt": "q{i % 3}", "completions": ["a", "b"], "labels": [1, null]}}\n' for i in range(6))
    (tmp_path / "s.jsonl").write_text(text)
    source = StepData(kind="steps", paths=(str(tmp_path / "s.jsonl"),), held_out=1)
    trained, held = read_trajectories([source])
    assert [one.prompt for one in trained] == ["q0", "q1"] * 2 and [one.prompt for one in held] == ["q2"] * 2
    assert {one.labels for one in trained} == {(True, None)}


@given(st.lists(st.tuples(st.lists(st.integers(0, 6), max_size=6), st.integers(0, 4)), min_size=1, max_size=3))
def test_a_prompt_that_one_source_holds_out_is_trained_from_none(drawn):
    with tempfile.TemporaryDirectory() as folder:
        sources, held_out = [], set()
        for number, (prompts, held) in enumerate(drawn):
            path = Path(folder, f"{number}.jsonl")
            rows = [{"prompt": f"q{prompt}", "steps": ["a"], "labels": [1]} for prompt in prompts]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            sources.append(StepData(kind="steps", paths=(str(path),), held_out=held))
            different = list(dict.fromkeys(row["prompt"] for row in rows))
            held_out |= set(different[::-1][:held])
        trained, held = read_trajectories(sources)
    assert {one.prompt for one in held} == held_out
    assert {one.prompt for one in trained} == {f"q{i}" for prompts, _ in drawn for i in prompts} - held_out
    assert len(trained) + len(held) == sum(len(prompts) for prompts, _ in drawn)


def test_places_are_those_where_the_reward_reads(tmp_path):
    tokenizer = load_tokenizer(folder(tmp_path))
    line = parse({"prompt": "q", "steps": ["one;", "two;", "end"], "labels": [True, None, False]})
    (sample,) = step_samples(Plain(), tokenizer, line)
    assert tokenizer.decode(sample.tokens) == "qone;two;end<|end|>"
    assert {tokenizer.decode(sample.tokens[: place + 1]): good for place, good in sample.verdicts.items()} == {
        "qone;": True,
        "qone;two;end<|end|>": False,
    }
    (tagged,) = step_samples(Plain("|"), tokenizer, line)
    assert tokenizer.decode(tagged.tokens) == "qone;|two;|end|" and len(tagged.verdicts) == 2
    batch = collate((7, 8))([sample, tagged], 0)
    assert batch["attention_mask"].sum(1).tolist() == [len(sample), len(tagged)]
    assert [[v for v in told if v >= 0] for told in batch["labels"].tolist()] == [[8, 7], [8, 7]]


def test_a_template_that_rewrites_turns_gives_a_sequence_for_each_step(tmp_path):
    line = parse({"prompt": "q", "steps": ["one", "two"], "labels": [True, False]})
    for template, count in (({}, 1), ({"template": REWRITING}, 2)):
        tokenizer = load_tokenizer(folder(tmp_path / str(count), **template))
        samples = step_samples(ChatTurns(), tokenizer, line)
        assert len(samples) == count and sum(len(sample.verdicts) for sample in samples) == 2


@pytest.mark.parametrize("seed", range(30))
def test_lines_of_countdown_are_its_documents(seed):
    """The same tokens, and the verdicts at the same ones, as the documents."""
    document = Samples(random.Random(seed)).make()
    tokenizer = load_tokenizer(find_model("countdown").path)
    (sample,) = step_samples(Plain(), tokenizer, parse(row(document)))
    assert sample.tokens == [IDS["<bos>"], *(IDS[word] for word in document.words[:-1])]
    assert sample.verdicts == {at: label == GOOD for at, label in enumerate(document.labels) if label is not None}


def test_validation_problems_stand_at_the_end():
    found = list(rows(3, 5, seed=1))
    assert len(found) == 8 and len({line["prompt"] for line in found[3:]}) == 5
    assert all(len(line["prompt"].split()) == 8 for line in found[3:])
