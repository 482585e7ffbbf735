"""Rows, recipes and mirrors: what is read, and what is said of wrong ones."""

from __future__ import annotations

import json

import pytest

from plait import InvalidInput
from plait.evals.benchmarks.swebench.instances import Instance, read_instances
from plait.evals.benchmarks.swebench.mirrors import clone, find_mirror, names
from plait.evals.benchmarks.swebench.recipes import SHIPPED, Recipes, TestRecipe
from plait.tests.agents.sources import git, repository

ROW = {
    "instance_id": "acme__x-1",
    "repo": "acme/x",
    "version": "1.0",
    "base_commit": "0" * 40,
    "problem_statement": "It breaks.",
    "patch": "",
    "test_patch": "diff --git a/tests/t.py b/tests/t.py\n--- a/tests/t.py\n+++ b/tests/t.py\n@@ -1 +1 @@\n-a\n+b\n",
    "FAIL_TO_PASS": '["tests/t.py::test_a[1-x y]"]',
    "PASS_TO_PASS": [],
}
SCRIPT = """#!/bin/bash
set -uxo pipefail
cd /testbed
: '>>>>> Start Test Output'
pytest -rA tests/t.py
: '>>>>> End Test Output'
git checkout x
"""


def read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_instances(path)


def test_rows_of_both_formats(tmp_path):
    image = {"image": "swe/x:latest", "log_parser": "parse_log_pytest", "eval_type": "pass_and_fail"}
    new = {**ROW, **image, "instance_id": "acme__x-2", "FAIL_TO_PASS": ["a"], "eval_script": SCRIPT, "hints_text": "no"}
    old, official = read(tmp_path, ROW, new)
    assert (old.id, old.FAIL_TO_PASS, old.PASS_TO_PASS) == ("acme__x-1", ("tests/t.py::test_a[1-x y]",), ())
    assert not old.is_official and old.test_command == ""
    assert official.is_official and official.test_command == "pytest -rA tests/t.py"
    assert TestRecipe(python="3.11").command(official) == "pytest -rA tests/t.py"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance_id": "../x"}, "rows.jsonl:1: instance_id: "),
        ({"repo": "acme"}, "rows.jsonl:1: repo: "),
        ({"repo": "../x"}, "rows.jsonl:1: repo: "),
        ({"base_commit": "HEAD"}, "rows.jsonl:1: base_commit: "),
        ({"FAIL_TO_PASS": "test_a"}, "rows.jsonl:1: FAIL_TO_PASS: a list of tests is a list, or one as JSON"),
        ({"FAIL_TO_PASS": []}, "rows.jsonl:1: FAIL_TO_PASS: "),
        ({"FAIL_TO_PASS": "[]"}, "rows.jsonl:1: FAIL_TO_PASS: "),
        ({"FAIL_TO_PASS": [1]}, r"rows.jsonl:1: FAIL_TO_PASS\[0\]: "),
        ({"FAIL_TO_PASS": [""]}, "rows.jsonl:1: FAIL_TO_PASS: a test has no name: "),
        ({"FAIL_TO_PASS": '["a", " "]'}, "rows.jsonl:1: FAIL_TO_PASS: a test has no name: "),
        ({"problem_statement": ""}, "rows.jsonl:1: problem_statement: "),
        ({"problem_statement": " \n"}, "rows.jsonl:1: problem_statement: there is nothing in it"),
        ({"test_patch": ""}, "rows.jsonl:1: test_patch: it is no patch of any file: "),
        ({"test_patch": " \n"}, "rows.jsonl:1: test_patch: it is no patch of any file: "),
        ({"test_patch": "garbage"}, "rows.jsonl:1: test_patch: it is no patch of any file: "),
        ({"image_assets": "x.png"}, "rows.jsonl:1: image_assets: it is an object, or one as JSON in a string"),
        ({"image_assets": ["x.png"]}, "rows.jsonl:1: image_assets: "),
        ({"eval_type": "fail"}, "rows.jsonl:1: eval_type: this should be .*'pass_and_fail' or 'fail_only'"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, message):
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, {**ROW, **change})


def test_a_missing_field_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="rows.jsonl:1: a problem needs the field 'test_patch'"):
        read(tmp_path, {name: value for name, value in ROW.items() if name != "test_patch"})


def test_a_test_patch_has_a_last_newline(tmp_path):
    """Whatever goes behind it, git reads its last hunk as a whole one."""
    (instance,) = read(tmp_path, {**ROW, "test_patch": ROW["test_patch"].removesuffix("\n")})
    assert instance.test_patch == ROW["test_patch"]


def test_files_of_the_test_patch():
    removed = "diff --git a/old_test.py b/old_test.py\ndeleted file mode 100644\n"
    removed += "--- a/old_test.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
    data = ROW["test_patch"].replace("t.py", "t.json")
    instance = Instance.model_validate({**ROW, "test_patch": ROW["test_patch"] + removed + data})
    assert instance.test_paths == ["tests/t.py", "old_test.py", "tests/t.json"]
    assert instance.test_files == ["tests/t.py"]


# -- recipes -------------------------------------------------------------------------------------------------------


def test_commands_name_the_test_files():
    two = ROW["test_patch"] + ROW["test_patch"].replace("tests/t.py", "tests/a b/u.py")
    instance = Instance.model_validate({**ROW, "test_patch": two})
    assert TestRecipe(python="3.9", test="x -v").command(instance) == "x -v tests/t.py 'tests/a b/u.py'"
    assert TestRecipe(python="3.9", test="x", targets="modules").command(instance) == "x t 'a b.u'"
    with pytest.raises(InvalidInput, match="acme__x-1: nothing says how its tests are run"):
        TestRecipe(python="3.9").command(instance)


def test_recipes_are_found_by_instance_then_by_version(tmp_path):
    path = tmp_path / "recipes.toml"
    path.write_text(
        '[repos."acme/x"."1.0"]\npython = "3.9"\n[repos."acme/x"."2.0"]\npython = "3.10"\n'
        '[instances.acme__x-1]\npython = "3.11"\n'
    )
    recipes = Recipes.read(path)

    def found(**change):
        recipe = recipes.find(Instance.model_validate({**ROW, **change}))
        return recipe and recipe.python

    assert found() == "3.11" and found(instance_id="acme__x-2") == "3.9"
    assert found(instance_id="acme__x-2", version="2.0") == "3.10" and found(instance_id="y-1", version="3") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repos = 1", "repos"),
        ('[repos."a/b"."1"]\npython = "3"', "python"),
        ('[repos."a/b"."1"]\npython = "3.9"\ntests = "x"', "tests"),
        ("[", "cannot read the recipes in .*wrong.toml"),
    ],
)
def test_a_wrong_file_of_recipes_is_named(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        Recipes.read(path)


def test_those_that_come_with_plait():
    repos = Recipes.read(SHIPPED).repos
    assert {"pallets/flask", "sympy/sympy", "pytest-dev/pytest"} <= repos.keys()
    assert all(recipe.test for versions in repos.values() for recipe in versions.values())


# -- mirrors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names("acme/x"))
def test_mirrors_are_found_by_several_names(tmp_path, name):
    assert find_mirror(tmp_path, "acme/x") is None
    (tmp_path / name).mkdir(parents=True)
    assert find_mirror(tmp_path, "acme/x") is None, "an empty folder is none"
    git(tmp_path / name, "init", "-q", "--bare")
    assert find_mirror(tmp_path, "acme/x") == tmp_path / name


def test_clones_are_made_once_and_whole(tmp_path):
    source = repository(tmp_path / "source", {"a": "1\n"})
    path = clone(source.as_uri(), "acme/x", tmp_path / "clones")
    assert git(path, "rev-parse", "HEAD") == git(source, "rev-parse", "HEAD")
    assert clone("file:///nowhere", "acme/x", tmp_path / "clones") == path
    with pytest.raises(InvalidInput, match="cannot clone file:///nowhere"):
        clone("file:///nowhere", "acme/y", tmp_path / "clones")
    assert not [entry for entry in (tmp_path / "clones").iterdir() if "y" in entry.name and entry.suffix != ".lock"]


def test_tests_are_files_that_are_there_afterwards(tmp_path):
    """By what git does with the same changes."""
    names = ["tests/old.py", "tests/empty.py", "tests/with blank.py", "tests/stays.py", "tests/data.json"]
    folder = repository(tmp_path / "r", {name: "" if "empty" in name else f"# {name}\n" * 9 for name in names})
    git(folder, "mv", "tests/old.py", "tests/new name.py")
    git(folder, "rm", "-q", "tests/empty.py", "tests/with blank.py")
    for name in ("stays.py", "data.json", "added.py"):
        (folder / "tests" / name).write_text("1\n")
    git(folder, "add", "-A")
    patch = git(folder, "diff", "--cached", "-M")
    (instance,) = read(tmp_path, {**ROW, "test_patch": patch})
    assert sorted(instance.test_files) == ["tests/added.py", "tests/new name.py", "tests/stays.py"]
