"""`Instance`: one row of SWE-bench, and where rows come from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field

from ....agents.patches import is_empty, touched
from ....agents.unified import PatchError, read_patch
from ...hub import HubSet, hub_rows
from ...records import Filled, Record, Text, read_rows

NO_TESTS = (".json", ".png", ".csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml")
"""Files of a test patch that are data for tests."""
START, END = ">>>>> Start Test Output", ">>>>> End Test Output"
"""Around the tests' command in an evaluation script, and around their output in a log."""


def _parsed(value: Any, what: str) -> Any:
    """`what` is published as JSON in a string, too."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError(f"{what}, or one as JSON in a string") from None


def _listed(value: Any) -> Any:
    value = _parsed(value, "a list of tests is a list")
    return tuple(value) if isinstance(value, list) else value


def _assets(value: Any) -> Any:
    """As the harness reads it: most rows have none."""
    return _parsed(value or "{}", "it is an object") or {}


def _named(tests: tuple[str, ...]) -> tuple[str, ...]:
    """No run gives a test without a name, so nothing would resolve the issue."""
    if not all(test.strip() for test in tests):
        raise ValueError("a test has no name")
    return tests


def _ended(patch: str) -> str:
    """With a last newline: without it git takes the last hunk for a broken one."""
    if is_empty(patch):
        raise ValueError("it is no patch of any file")
    return patch if patch.endswith("\n") else f"{patch}\n"


Tests = Annotated[tuple[Text, ...], BeforeValidator(_listed)]


class Instance(Record):
    """One issue. The last five fields are those of rows for the official harness since its version 5."""

    id: Text = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", validation_alias=AliasChoices("instance_id", "id"))
    repo: Text = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*$")
    """Owner and name."""
    version: Text = ""
    base_commit: Text = Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")
    problem_statement: Annotated[Text, Filled]
    patch: Text = ""
    """The fix that was made. Local grading looks whether it works here where tests do not start without it."""
    test_patch: Annotated[Text, AfterValidator(_ended)]
    FAIL_TO_PASS: Annotated[Tests, AfterValidator(_named)] = Field(min_length=1)
    """Without one, changing nothing would resolve the issue."""
    PASS_TO_PASS: Tests
    image: Text = ""
    log_parser: Text = ""
    eval_type: Literal["", "pass_and_fail", "fail_only"] = ""
    """What the harness takes for failing; empty: `pass_and_fail`."""
    eval_script: Text = ""
    image_assets: Annotated[dict[str, Any], BeforeValidator(_assets)] = {}
    """Of SWE-bench Multimodal: `test_patch` and `patch` -> the images of it, `path` and `url`, which the harness puts
    beside the tests."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # An evaluation knows its problems by these: most have no images, and stay what they were before there were any.
        return ((name, value) for name, value in super().__repr_args__() if name != "image_assets" or value)

    @property
    def is_official(self) -> bool:
        """Does it say all that the official harness needs?"""
        return bool(self.image and self.log_parser and self.eval_type and self.eval_script)

    @property
    def test_paths(self) -> list[str]:
        """The files that the test patch changes."""
        return touched(self.test_patch)

    @property
    def test_files(self) -> list[str]:
        """Those of them that hold tests and are there afterwards."""
        try:
            paths = [file.new for file in read_patch(self.test_patch) if file.new is not None]
        except PatchError:
            paths = self.test_paths
        return [path for path in dict.fromkeys(paths) if PurePosixPath(path).suffix not in NO_TESTS]

    @property
    def test_command(self) -> str:
        """What the evaluation script runs between its marks; empty: it says nothing."""
        lines = self.eval_script.split("\n")
        marks = [number for mark in (START, END) for number, line in enumerate(lines) if mark in line][:2]
        return "\n".join(lines[marks[0] + 1 : marks[1]]).strip() if len(marks) == 2 else ""


def read_instances(path: Path) -> list[Instance]:
    """Raises `InvalidInput` that names the line and field that is wrong."""
    return read_rows(path, Instance)


def load_instances(name: str, split: str) -> list[Instance]:
    """The instances of a data set of the Hugging Face hub. Raises `InvalidInput`."""
    return hub_rows(HubSet(name=name, split=split), Instance, extra="swebench")
