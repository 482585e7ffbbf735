"""`plait schema`: valid, whole, and of the jobs that are taken."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest
from jsonschema import Draft202012Validator

import plait
from plait import APR, JobSpec
from plait.runtime.cli.main import main
from plait.runtime.methods.registry import METHODS
from plait.tests.runtime.methods.apr.test_paper import ROOT


@pytest.fixture(autouse=True)
def only_ours(monkeypatch):
    """Without the methods that other tests register."""
    monkeypatch.setattr(METHODS, "_things", {})


@pytest.mark.parametrize("name", [None, *sorted(entry_points(group="plait.methods").names)])
def test_schemas_are_valid_and_describe_every_field(name, capsys):
    assert main(["schema", *([] if name is None else [name])]) == 0
    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema.get("$defs", {}).values()):
        for field, described in part.get("properties", {}).items():
            assert described.get("description"), field


def test_the_schema_of_a_job_takes_jobs_and_nothing_else(capsys):
    assert main(["schema"]) == 0
    schema = Draft202012Validator(json.loads(capsys.readouterr().out))
    good = JobSpec(method=APR(prompt=ROOT), budget=plait.Budget(seconds=1.5), seed=3).model_dump(mode="json")
    assert schema.is_valid(good) and schema.is_valid({"method": {"method": "sequential", "prompt": "x"}})
    for wrong in ({"method": {"method": "nothing"}}, {"method": {"method": "apr"}}, {**good, "sed": 1}):
        assert not schema.is_valid(wrong)


def test_an_unknown_method_has_no_schema(capsys):
    assert main(["schema", "telepathy"]) == 1
    assert "unknown method 'telepathy'; known: apr, " in capsys.readouterr().err
