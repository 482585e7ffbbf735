"""Fingerprints of models: they change with a model's files, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.runtime.engines.model_digest import model_digest, option_digests

MIB = 1 << 20


@pytest.mark.parametrize("scheme", ["", "native:", "vllm:"])
@pytest.mark.parametrize("name", ["m.gguf", "folder"])
def test_another_model_in_the_same_place_is_another(tmp_path, scheme, name):
    path = tmp_path / name
    file = path
    if name == "folder":
        path.mkdir()
        file = path / "m.gguf"
    digests = []
    for content in (b"one", b"two", b"longer", b"a" + bytes(3 * MIB), b"b" + bytes(3 * MIB), bytes(3 * MIB) + b"b"):
        file.write_bytes(content)
        digests.append(model_digest(f"{scheme}{path}"))
        assert digests[-1] is not None and model_digest(f"{scheme}{path}") == digests[-1]
    assert len({*digests}) == len(digests)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin", "tokenizer.model", "config.json", "model.safetensors", "chat_template.jinja", "merges.txt",
        "additional_chat_templates/tool_use.jinja",
    ],
)  # fmt: skip
def test_every_file_of_a_folder_that_makes_the_model_counts(tmp_path, name):
    found = []
    for text in ("one", "two"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        found.append(model_digest(str(tmp_path)))
        (tmp_path / "README.md").write_text(text)
        assert model_digest(str(tmp_path)) == found[-1]
    assert found[0] != found[1] and None not in found


def test_what_is_not_on_this_disk_has_no_digest(tmp_path):
    (tmp_path / "README.md").write_text("no model")
    assert model_digest(str(tmp_path)) is None
    unread = "/proc/self/mem"
    for model in (
        "org/name",
        "org/name:FILE.gguf",
        "openai:http://127.0.0.1:1/v1",
        "",
        "x" * 5000,
        "replay:none",
        unread,
    ):
        assert model_digest(model) is None, model
    assert model_digest("countdown") == model_digest("native:countdown") is not None


def test_options_count_that_name_a_place(tmp_path, monkeypatch):
    """And none that is called as a folder here, or as a model that is shipped."""
    monkeypatch.chdir(tmp_path)
    for name in ("cuda", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    other = {"device": "cuda", "dtype": "auto", "weights": "countdown", "context_limit": 9, "none": None}
    tuned, own = model_digest("tuned"), model_digest("countdown")
    places = {"lora": "tuned", "tokenizer": "countdown", "adapter": str(tmp_path / "tuned"), "path": Path("tuned")}
    expected = {"lora": tuned, "tokenizer": own, "adapter": tuned, "path": tuned}
    assert option_digests({**other, **places}) == expected and None not in (tuned, own)
    assert option_digests({"lora": "org/name", "tokenizer": "org/name"}) == {}
