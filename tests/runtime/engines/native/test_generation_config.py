"""generation_config.json against transformers' reading of it, and in a job from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import logits_process as processors

import plait
from plait import InvalidInput, Runtime, SamplingDefaults, Sequential
from plait.runtime.engines.native.generation_config import read_defaults
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.tests.runtime.engines.native.helpers import tiny

MODELS = Path(plait.__file__).parent / "models"
MODEL, FOLDER = tiny()

READ = {
    "no file": (None, {}),
    "greedy": ({"do_sample": False, "eos_token_id": 2}, {}),
    "nothing about sampling": ({"bos_token_id": 1}, {}),
    "sampling, nothing else": ({"do_sample": True}, {"temperature": 1.0}),
    "sampling, nulls": ({"do_sample": True, "temperature": None, "top_k": None}, {"temperature": 1.0}),
    "Qwen2.5": (
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
    ),
    "legacy top_k": ({"do_sample": True, "top_k": 50}, {"temperature": 1.0, "top_k": 50}),
    "a temperature for nothing": ({"temperature": 0.6, "top_p": 0.9}, {"top_p": 0.9}),
    "a penalty while greedy": ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
}


def write(folder: Path, data: object) -> Path:
    (folder / "generation_config.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return folder


@pytest.mark.parametrize("name", READ)
def test_what_a_file_says(name, tmp_path):
    data, expected = READ[name]
    if data is not None:
        write(tmp_path, data)
    assert read_defaults(tmp_path) == SamplingDefaults(**expected)


def test_a_model_in_one_file_has_none(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"")
    assert read_defaults(tmp_path / "model.gguf") == SamplingDefaults()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "generation_config.json is not valid JSON"),
        ([1], "JSON object"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"do_sample": True, "temperature": -1}, "generation_config.json: temperature"),
        ('{"do_sample": true, "temperature": NaN}', "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": "many"}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
    ids=str,
)
def test_what_cannot_be_sampled_with_is_refused(data, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        read_defaults(write(tmp_path, data))


WARPERS = {
    "temperature": (processors.TemperatureLogitsWarper, "temperature", 1.0),
    "top_k": (processors.TopKLogitsWarper, "top_k", 0),
    "top_p": (processors.TopPLogitsWarper, "top_p", 1.0),
    "min_p": (processors.MinPLogitsWarper, "min_p", 0.0),
    "repetition_penalty": (processors.RepetitionPenaltyLogitsProcessor, "penalty", 1.0),
}
files = st.fixed_dictionaries(
    {"do_sample": st.just(True)},
    optional={
        "temperature": st.floats(0.1, 2.0),
        "top_k": st.integers(0, 60),
        "top_p": st.floats(0.1, 1.0),
        "min_p": st.floats(0.01, 0.5),
        "repetition_penalty": st.floats(0.8, 1.5),
    },
)


@settings(max_examples=60, deadline=None)
@given(data=files)
def test_generate_would_use_the_same_numbers(data, tmp_path_factory):
    """The processors that transformers builds for the file hold the numbers that were read from it."""
    folder = write(tmp_path_factory.mktemp("file"), data)
    found = read_defaults(folder)
    config, _ = MODEL._prepare_generation_config(GenerationConfig.from_pretrained(folder))
    chain = MODEL._get_logits_processor(config, input_ids_seq_length=3, logits_processor=LogitsProcessorList())
    for name, (cls, attribute, off) in WARPERS.items():
        values = [getattr(p, attribute) for p in chain if isinstance(p, cls)]
        expected = values[0] if values else off
        if name == "top_k" and "top_k" not in data:
            expected = off  # where the file is silent transformers may put its old default
        assert getattr(found, name) == pytest.approx(expected), name


@pytest.mark.parametrize("name", ["countdown", "countdown_prm", "recall"])
def test_shipped_models_decode_greedily(name):
    assert read_defaults(MODELS / name) == SamplingDefaults()


def test_several_ends_of_sequence(tmp_path):
    shutil.copytree(MODELS / "recall", tmp_path / "model")
    write(tmp_path / "model", {"eos_token_id": [2, 5], "do_sample": True, "temperature": 0.5})
    assert HFTokenizer.load(tmp_path / "model").eos_ids == (2, 5)
    assert read_defaults(tmp_path / "model").temperature == 0.5


async def test_a_job_samples_as_the_models_makers_do(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "countdown", folder)
    texts = {}
    for name, data, fields in (
        ("greedy", {"do_sample": False}, {}),
        ("the model's own", {"do_sample": True, "temperature": 2.5, "top_k": 40}, {}),
        ("asked for", {"do_sample": False}, {"temperature": 2.5, "top_k": 40}),
        ("greedy all the same", {"do_sample": True, "temperature": 2.5}, {"temperature": 0}),
    ):
        write(folder, {"eos_token_id": 1002, "bos_token_id": 1001, **data})
        async with Runtime(folder, kv_tokens=4096) as runtime:
            job = Sequential(prompt="seq 24 : 63 9 5 2 ;", max_tokens=40, **fields)
            result = await (await runtime.submit(job, seed=3))
            texts[name] = result.text, result.trace.header["settings"]["sampling"]
    assert texts["the model's own"] == texts["asked for"] != texts["greedy"]
    assert texts["greedy all the same"] == texts["greedy"]
    assert texts["the model's own"][1] == {
        "temperature": 2.5, "top_k": 40, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 40,
    }  # fmt: skip
