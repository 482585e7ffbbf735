"""The folder of an evaluation: what survives a crash, and what is refused."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from plait import InvalidInput
from plait.evals.rows import Key, Measured, Row, Unit
from plait.evals.store import Store, differences, read_settings, read_units

FULL = Path("/dev/full")
SETTINGS = {"seed": 0, "methods": [{"n": 4}, {"n": 16}]}
ENVIRONMENT: dict[str, dict[str, str]] = {"versions": {}, "hardware": {}}


def unit(sample, error=None):
    row = Row(
        window=None,
        correct=error is None,
        extracted="a",
        reason="correct",
        finish="eos",
        error=error,
        counts={"concluded": 1},
        measured=Measured(seconds=1.5, peak_kv_blocks=3, mean_kv_blocks=2.5),
        threads=[("0", None, "root", 3, "eos", "abc")],
    )
    return Unit(key=Key(method="m", budget=0, sample=sample, attempt=0), rows=(row,))


def opened(folder, settings=SETTINGS, **options):
    return Store(folder).open(settings, ENVIRONMENT, **options)


def fill(folder, *units, settings=SETTINGS):
    with opened(folder, settings) as store:
        for one in units:
            store.add(one)


def test_units_come_back(tmp_path):
    fill(tmp_path, unit("a"), unit("b", error="broke"))
    with opened(tmp_path) as store:
        assert [key.sample for key in store.units] == ["a", "b"]
        kept = store.units[unit("a").key]
        assert json.dumps(kept.to_json()) == json.dumps(unit("a").to_json())
        assert kept.rows[0].measured == unit("a").rows[0].measured
        assert store.environment == ENVIRONMENT


def test_a_result_is_on_disk_when_add_returns(tmp_path, monkeypatch):
    path, synced = tmp_path / "results.jsonl", []
    fsync = os.fsync

    def noted(descriptor):
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with opened(tmp_path) as store:
        # Without the settings nobody can go on.
        settings = (tmp_path / "settings.json").stat()
        assert (settings.st_ino, settings.st_size) in synced
        synced.clear()
        for count, name in enumerate("ab", 1):
            store.add(unit(name))
            assert path.read_bytes().count(b"\n") == count  # seen by others while the store is open
            assert synced[-1] == (path.stat().st_ino, path.stat().st_size) and len(synced) == count
            assert list(store.units)[-1].sample == name


@pytest.mark.parametrize("lost", [1, 2, 40, 200])
def test_a_torn_line_is_dropped_and_the_rest_is_kept(tmp_path, lost):
    fill(tmp_path, unit("a"), unit("b"))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with opened(tmp_path) as store:
        assert [key.sample for key in store.units] == ["a"]
        store.add(unit("b"))
    assert path.read_bytes() == whole


def test_a_torn_line_of_a_process_that_ends_meanwhile_costs_no_other(tmp_path, monkeypatch):
    fill(tmp_path, unit("a"))
    path, lock = tmp_path / "results.jsonl", fcntl.flock

    def killed_before(*options):
        monkeypatch.undo()
        fill(tmp_path, unit("b"))
        path.write_bytes(path.read_bytes() + b'{"key"')
        lock(*options)

    monkeypatch.setattr(fcntl, "flock", killed_before)
    opened(tmp_path).close()
    assert [key.sample for key in Store(tmp_path).read().units] == ["a", "b"]


def test_another_evaluation_that_ends_meanwhile_is_not_gone_on_with(tmp_path, monkeypatch):
    lock = fcntl.flock

    def filled_before(*options):
        monkeypatch.undo()
        fill(tmp_path, unit("a"), settings={**SETTINGS, "seed": 7})
        lock(*options)

    monkeypatch.setattr(fcntl, "flock", filled_before)
    with pytest.raises(InvalidInput, match=r"other settings .*seed: 7 before"):
        opened(tmp_path)


def test_failures_are_left_out_on_request(tmp_path):
    fill(tmp_path, unit("a", error="broke"), unit("b"))
    with opened(tmp_path) as store:
        assert len(store.units) == 2
    with opened(tmp_path, retry_failed=True) as store:
        assert [key.sample for key in store.units] == ["b"]
    with opened(tmp_path, retry_failed=True) as store:
        store.add(unit("a"))
    with opened(tmp_path) as store:
        assert len(store.units) == 2 and not any(kept.has_failed for kept in store.units.values())


def test_other_settings_are_refused_with_what_differs(tmp_path):
    fill(tmp_path, unit("a", error="broke"))
    changed = {"seed": 1, "methods": [{"n": 4}, {"n": 8}], "windows": [512]}
    with pytest.raises(InvalidInput) as caught:
        opened(tmp_path, changed, retry_failed=True)
    for phrase in ("seed: 0 before, 1 now", "methods[1].n: 16 before, 8 now", "windows: nothing before, [512] now"):
        assert phrase in str(caught.value)


@pytest.mark.parametrize("left", [b"", b'{"key"', None])
def test_without_a_result_a_folder_is_begun_anew(tmp_path, left):
    """As of an evaluation that was refused, or killed, before its first."""
    fill(tmp_path)
    path = tmp_path / "results.jsonl"
    path.unlink() if left is None else path.write_bytes(left)
    other = SETTINGS | {"seed": 1}
    with opened(tmp_path) as running:
        with pytest.raises(InvalidInput, match="another evaluation"):
            opened(tmp_path, other)
        assert read_settings(tmp_path)["settings"] == running.settings == SETTINGS
    with Store(tmp_path).open(other, {"versions": {"plait": "later"}}) as store:
        assert store.settings == other and store.environment == {"versions": {"plait": "later"}}
        store.add(unit("a"))
    assert list(Store(tmp_path).read().units) == [unit("a").key]


def test_settings_of_another_program_are_not_written_over(tmp_path):
    (tmp_path / "settings.json").write_text('{"editor": 1}')
    with pytest.raises(InvalidInput, match=r"settings\.json is damaged"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_what_changes_no_answer_may_change(tmp_path):
    settings = {"engine": {"kv_tokens": 160, "dtype": "bfloat16"}}
    path = tmp_path / "more"
    fill(path, unit("a"), settings=settings)
    for capacity in ({"kv_tokens": 4096}, {"num_threads": 1, "swap_tokens": 0}, {}):
        opened(path, {"engine": {"dtype": "bfloat16", **capacity}}).close()
    with pytest.raises(InvalidInput, match='engine.dtype: "bfloat16" before, "float32" now'):
        opened(path, {"engine": {"kv_tokens": 160, "dtype": "float32"}})


def test_more_time_for_each_job_is_no_other_evaluation(tmp_path):
    fill(tmp_path, unit("a"), settings=SETTINGS | {"timeout": 2.0})
    opened(tmp_path, SETTINGS | {"timeout": 60.0}).close()
    with pytest.raises(InvalidInput, match=r"timeout: 60\.0 before, 2\.0 now"):
        opened(tmp_path, SETTINGS | {"timeout": 2.0})
    opened(tmp_path, SETTINGS).close()
    with pytest.raises(InvalidInput, match=r"timeout: nothing before, 60\.0 now"):
        opened(tmp_path, SETTINGS | {"timeout": 60.0})


def test_what_may_change_holds_from_then_on(tmp_path):
    fill(tmp_path, unit("a"), settings=SETTINGS | {"timeout": 2.0, "engine": {"kv_tokens": 160}})
    first = read_settings(tmp_path)
    more = SETTINGS | {"timeout": 60.0, "engine": {"kv_tokens": 4096, "num_threads": 2}}
    with Store(tmp_path).open(more, {"versions": {"plait": "later"}}) as store:
        assert store.settings == more
    assert read_settings(tmp_path) == first | {"settings": more}
    with pytest.raises(InvalidInput, match="seed"):
        opened(tmp_path, more | {"seed": 1, "timeout": 90.0})
    with opened(tmp_path, more), pytest.raises(InvalidInput, match="another evaluation"):
        opened(tmp_path, more | {"timeout": 90.0})
    assert read_settings(tmp_path) == first | {"settings": more}


def test_two_at_a_time_are_refused(tmp_path):
    with opened(tmp_path), pytest.raises(InvalidInput, match="another evaluation"):
        opened(tmp_path)
    opened(tmp_path).close()


@pytest.mark.parametrize(("name", "text"), [("settings.json", "{}"), ("settings.json", "x"), ("results.jsonl", "{}\n")])
def test_damaged_folders_are_refused(tmp_path, name, text):
    fill(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=name):
        opened(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": []}, {"environment": 1}, {"environment": {"versions": {}, "hardware": "fast"}}, {"started": 3},
        {"environment": {"versions": None, "hardware": {}}},
    ],
)  # fmt: skip
def test_settings_of_another_kind_are_refused(tmp_path, change):
    fill(tmp_path)
    path = tmp_path / "settings.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | change))
    with pytest.raises(InvalidInput, match=r"settings\.json is damaged"):
        read_settings(tmp_path)
    path.write_text(json.dumps(kept))
    assert read_settings(tmp_path) == kept


@pytest.mark.parametrize("number", [1, 2])
def test_a_line_that_is_no_result_is_named(tmp_path, number):
    fill(tmp_path, unit("a"))
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    lines.insert(number - 1, "{}")
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(InvalidInput, match=rf"results\.jsonl:{number}: "):
        read_units(tmp_path)


def test_results_without_settings_are_refused(tmp_path):
    fill(tmp_path, unit("a"))
    (tmp_path / "settings.json").unlink()
    with pytest.raises(InvalidInput, match="no settings"):
        opened(tmp_path)


def test_differences_of_lists_of_other_lengths():
    assert differences([1], [1, 2], "windows") == ["windows: [1] before, [1, 2] now"]
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/none")):
        with pytest.raises(InvalidInput, match="cannot write"):
            opened(folder)
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "odd" / "results.jsonl").mkdir(parents=True)
    with pytest.raises(InvalidInput):
        opened(tmp_path / "odd")


@pytest.mark.skipif(not FULL.exists(), reason="no full device")
def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    fill(tmp_path, unit("a"))
    with opened(tmp_path) as store:
        with FULL.open("ab") as full:
            kept, store._file = store._file, full
            with pytest.raises(InvalidInput, match="No space left"):
                store.add(unit("b"))
            assert len(store.units) == 1
            store.close()
        kept.close()
    fill(tmp_path, unit("b"))
    with opened(tmp_path) as store:
        assert [key.sample for key in store.units] == ["a", "b"]


@pytest.mark.parametrize(("length", "shown"), [(78, "x" * 78), (79, "x" * 76 + "...")])
def test_long_differences_are_shortened(length, shown):
    """To 80 characters, the quotation marks among them."""
    (phrase,) = differences("x" * length, 1, "text")
    assert phrase == f'text: "{shown}{chr(34) if length == 78 else ""} before, 1 now'


def test_what_is_there_can_be_read_while_another_writes(tmp_path):
    with opened(tmp_path) as store:
        store.add(unit("a"))
        other = Store(tmp_path).read()
        assert [key.sample for key in other.units] == ["a"]
        assert (other.settings, other.environment, other.started) == (SETTINGS, ENVIRONMENT, store.started)


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    odd = unit("b")
    odd = replace(odd, rows=(replace(odd.rows[0], counts={"concluded": -1}),))
    with opened(tmp_path) as store:
        store.add(unit("a"))
        with pytest.raises(InvalidInput, match=r"m/0/b/0 cannot be kept: rows\.0\.counts\.concluded"):
            store.add(odd)
    assert [key.sample for key in read_units(tmp_path)[0]] == ["a"]
