"""The output folder: what of an earlier run stays, what a run that goes on may have changed, and what is another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from transformers.integrations.integration_utils import default_logdir

from plait import InvalidInput
from plait.rl.checkpoints import checkpoints
from plait.rl.config import SFTConfig, TrainConfig
from plait.rl.grpo.config import GRPOConfig
from plait.rl.prm.config import PRMConfig
from plait.rl.run_folder import CONFIG, MATERIAL, RunFolder
from plait.runtime.cli.main import main
from plait.runtime.disk import holding
from plait.runtime.spec import Spec

OUTCOMES = ("looks.jsonl", "traces")


OTHERS: list[tuple[Callable[..., Spec], dict[str, Any]]] = [
    (SFTConfig, {"data": [{"kind": "texts", "paths": ["t"]}]}),
    (PRMConfig, {"data": [{"kind": "steps", "paths": ["t"]}]}),
    (GRPOConfig, {"benchmark": {"name": "countdown"}, "method": {"method": "sequential"}}),
]
"""Configurations of other kinds of training."""


def claim(out, fresh=False, num_processes=1, data=b"", **fields) -> None:
    config = TrainConfig(**{"model": "m", **fields})
    folder = RunFolder(out=out, config=config, may_change=["threads"], outcomes=OUTCOMES, fresh=fresh)
    before = content(out)
    folder.check()
    assert content(out) == before
    folder.claim(num_processes, [data])


def content(out: Path) -> dict[str, bytes | None]:
    """Of all files and folders below."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in out.rglob("*")}


def left(out, *, checkpoint: bool) -> None:
    """As a run leaves it."""
    claim(out)
    (out / "looks.jsonl").write_text("{}")
    for folder in ("traces", "adapter", "model", "notes", *(["checkpoint-2"] if checkpoint else [])):
        (out / folder).mkdir()
        (out / folder / "file").write_text("")


@pytest.mark.parametrize("below", [(), ("below",)])
def test_a_folder_that_cannot_be_made_is_refused(below, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write .*file"):
        left(tmp_path.joinpath("file", *below), checkpoint=False)


def again(out, fresh=False, **fields) -> list[str]:
    claim(out, fresh, **fields)
    assert json.loads((out / CONFIG).read_text())["seed"] == fields.get("seed", 0)
    return sorted(path.name for path in out.iterdir())


def test_a_run_that_goes_on_keeps_all_and_its_configuration(tmp_path):
    left(tmp_path, checkpoint=True)
    whole = sorted(path.name for path in tmp_path.iterdir())
    assert again(tmp_path) == again(tmp_path, threads=2) == whole
    with pytest.raises(InvalidInput, match="other seed: .*--fresh"):
        again(tmp_path, seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == whole


def test_a_run_that_begins_anew_and_is_killed_leaves_no_part_of_a_checkpoint(tmp_path, monkeypatch):
    left(tmp_path, checkpoint=True)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("os.unlink", Mock(side_effect=KeyboardInterrupt))
        claim(tmp_path, fresh=True)
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [({"num_processes": 2}, "num_processes"), ({"data": b"x"}, "data")],
)
def test_a_run_goes_on_with_its_processes_and_data(other, message, tmp_path):
    left(tmp_path, checkpoint=True)
    before = content(tmp_path)
    with pytest.raises(InvalidInput, match=f"other {message}: .*--fresh"):
        again(tmp_path, **other)
    assert content(tmp_path) == before
    again(tmp_path)
    (tmp_path / MATERIAL).unlink()  # as earlier versions left it
    again(tmp_path, **other)
    with pytest.raises(InvalidInput, match=f"other {message}: "):
        again(tmp_path)
    again(tmp_path, fresh=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_checkpoint_nothing_is_told_of_the_run_before(tmp_path, seed):
    left(tmp_path, checkpoint=False)
    assert again(tmp_path, seed=seed) == ["adapter", CONFIG, MATERIAL, "model", "notes"]


def test_fresh_leaves_nothing_of_the_run_before(tmp_path):
    left(tmp_path, checkpoint=True)
    assert again(tmp_path, fresh=True, seed=1) == [CONFIG, MATERIAL, "notes"]


@pytest.mark.parametrize(
    ("is_ours", "checkpoint", "fresh", "goes"),
    [(True, False, False, True), (True, True, True, True), (True, True, False, False), (False, False, True, False)],
    ids=["nothing_to_go_on_from", "fresh", "goes_on", "not_ours"],
)
def test_curves_go_with_the_run_that_they_are_of(is_ours, checkpoint, fresh, goes, tmp_path):
    """Those that transformers wrote where nobody said where."""
    if is_ours:
        left(tmp_path, checkpoint=checkpoint)
    written, elsewhere = (tmp_path / place / "events.out.tfevents.1.vm.2.0" for place in (default_logdir(), "runs/x"))
    for file in (written, elsewhere):
        file.parent.mkdir(parents=True)
        file.write_text("")
    again(tmp_path, fresh)
    assert written.parent.exists() != goes and elsewhere.exists()


def kept(out, message, fresh) -> None:
    """It is refused, and all that is there stays."""
    before = content(out)
    with pytest.raises(InvalidInput, match=f"{message}.*: give another --out"):
        claim(out, fresh)
    assert content(out) == before


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"model": "m", "model_type": "llama"}',
        *(kind(model="m", **fields).model_dump_json() for kind, fields in OTHERS),
    ],
)
def test_a_folder_by_another_configuration_stays_as_it_is(text, checkpoint, fresh, tmp_path):
    left(tmp_path, checkpoint=checkpoint)
    (tmp_path / CONFIG).write_text(text)
    kept(tmp_path, "damaged" if text == "{" else "something else", fresh)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["checkpoint-2", "adapter", "model", MATERIAL, *OUTCOMES])
def test_what_no_run_made_is_not_written_over(name, fresh, tmp_path):
    (tmp_path / "notes").write_text("mine")
    assert again(tmp_path) == [CONFIG, MATERIAL, "notes"]
    for file in (CONFIG, MATERIAL):
        (tmp_path / file).unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text("")
    kept(tmp_path, f"holds {name}, but no {CONFIG}", fresh)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("model", "is_refused"),
    [
        ("out/model", True),
        ("./other/../out/checkpoint-2", True),
        ("link/adapter", True),
        ("link/model/part", True),
        ("out/notes", False),
        ("other", False),
        ("\0", False),
        ("m" * 5000, False),
    ],
)
def test_a_model_that_the_run_writes_over_is_not_begun_from(model, is_refused, fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    left(out, checkpoint=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(out)
    (out / "model" / "part").mkdir()
    (out / CONFIG).write_text(TrainConfig(model=model).model_dump_json())
    if is_refused:
        before = content(out)
        with pytest.raises(InvalidInput, match=f"the model {model} lies where out is to hold .*: give another --out"):
            claim(out, fresh, model=model)
        assert content(out) == before
    else:
        claim(out, fresh, model=model)


def test_a_folder_without_a_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["train", "sft", "c.toml", "--out", ""])
    assert "--out: a file or folder has a name" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sft", "prm", "grpo"])
def test_a_folder_that_another_run_works_in_stays_as_it_is(kind, tmp_path, monkeypatch, capsys):
    (tmp_path / "c.toml").write_text('model = "none"\n')
    out = tmp_path / "out"
    (out / "checkpoint-2").mkdir(parents=True)
    with holding(out):
        before = content(out)
        for more in ([], ["--fresh"]):
            assert main(["train", kind, str(tmp_path / "c.toml"), "--out", str(out), *more]) == 1
            assert f"another run is working in {out}" in capsys.readouterr().err and content(out) == before
        monkeypatch.setenv("RANK", "1")  # another process of that run
        assert main(["train", kind, str(tmp_path / "c.toml"), "--out", str(out)]) == 1
        assert "another run" not in capsys.readouterr().err


def test_what_is_refused_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "c.toml").write_text('model = "none"\n[[data]]\nkind = "texts"\npaths = ["t.jsonl"]\n')
    for command in (["train", "sft", str(tmp_path / "c.toml")], ["data", "export", str(tmp_path / "none")]):
        assert main([*command, "--out", str(tmp_path / "runs" / "out")]) == 1
        assert capsys.readouterr().err.startswith("plait: ") and not (tmp_path / "runs").exists()
