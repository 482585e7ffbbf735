"""What the repositories hold: code with one bug each, an issue, hidden tests and the code without the bug.

They are kept as `assets/NAME/`, every file with `.txt` behind its name, so that nothing takes the code for ours:
`problem.toml`, `issue.txt`, `files/` (the repository), `fixed/` (files of it without the bug), `hidden/` (tests).
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ....agents.git import GitError, git
from ....agents.patches import make_patch
from ....agents.repository import Repository, is_test_file
from ....runtime.disk import cache_folder
from ....runtime.errors import InvalidInput

ASSETS = Path(__file__).with_name("assets")
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "plait"), ("EMAIL", "plait@localhost"), ("DATE", "2024-01-01T00:00:00Z"))
}
"""Who commits, and when: equal files have equal hashes."""
TAG = "issue"
"""Of the commit that the issue is about, whatever somebody commits on top of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One repository and its bug."""

    name: str
    project: str
    kind: str
    """Of the bug: `off by one`, `missing check`, `wrong operator`, `swapped arguments`, `missing case`."""
    issue: str
    files: Mapping[str, str]
    """The repository, by path."""
    fixed: Mapping[str, str]
    """Those files whose text is another one without the bug."""
    hidden: Mapping[str, str]
    """Tests that show the bug, by file name."""

    @property
    def gold(self) -> str:
        """The patch that takes the bug out."""
        return make_patch(self.files, self.fixed)

    @property
    def visible(self) -> dict[str, str]:
        """The repository's own tests, by path; they pass in spite of the bug."""
        return {path: text for path, text in self.files.items() if is_test_file(path) and text}

    @property
    def tests(self) -> dict[str, str]:
        """All tests, by file name."""
        return {**{PurePosixPath(path).name: text for path, text in self.visible.items()}, **self.hidden}

    @property
    def count(self) -> int:
        """How many tests that are."""
        return sum(len(re.findall(r"^    def test_", text, re.MULTILINE)) for text in self.tests.values())

    def repository(self, cache: Path) -> Repository:
        """Its git repository, at the commit that the issue is about: made in a folder of the cache if it is not there
        yet. Blocks. Raises `InvalidInput` where it cannot be written."""
        text = json.dumps(dict(self.files), sort_keys=True)
        folder = cache.expanduser().absolute() / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        try:
            if not folder.exists():
                _make(folder, self.files)
        except (OSError, GitError) as error:
            raise InvalidInput(f"cannot make the repository {folder}: {error}") from None
        return Repository(folder, TAG)


def read_problems() -> list[Problem]:
    """All of them, by name."""
    return [_read(folder) for folder in sorted(ASSETS.iterdir())]


def default_cache() -> Path:
    """Where repositories are made if no folder is named."""
    return cache_folder("repairs")


def _read(folder: Path) -> Problem:
    about = tomllib.loads((folder / "problem.toml").read_text(encoding="utf-8"))
    return Problem(
        name=folder.name,
        project=about["project"],
        kind=about["kind"],
        issue=(folder / "issue.txt").read_text(encoding="utf-8"),
        **{part: _texts(folder / part) for part in ("files", "fixed", "hidden")},
    )


def _texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix().removesuffix(".txt"): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.txt"))
    }


def _make(folder: Path, files: Mapping[str, str]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        part = Path(name) / "part"
        for path, text in files.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text, encoding="utf-8")
        git("init", "--quiet", "--template=", "--object-format=sha1", "--initial-branch=main", folder=part)
        git("add", "--all", "--force", folder=part)
        git("commit", "--quiet", "--message", "first version", folder=part, extra=WHO)
        git("tag", TAG, folder=part)
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():  # Else somebody else was faster.
                raise
