"""Git as a program, kept from doing anything a repository or the user's settings ask for besides."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..runtime.errors import InvalidInput

_OPTIONS = (
    # The repository may belong to somebody else: nothing that it configures is run.
    "-c safe.directory=* -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.untrackedCache=false "
    "-c core.splitIndex=false -c core.quotePath=true -c gc.auto=0 -c maintenance.auto=false"
).split()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables of a git process: none of this process's but the search path."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        # What a partial clone lacks is not fetched.
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_LAZY_FETCH": "1",
        **(extra or {}),
    }


def git(*arguments: str, folder: Path, stdin: bytes = b"", extra: Mapping[str, str] | None = None) -> bytes:
    """Standard output of a git command that runs in a folder. Blocks. Raises `GitError`, and `InvalidInput` where there
    is no git."""
    try:
        done = subprocess.run(
            ["git", *_OPTIONS, *arguments], cwd=folder, input=stdin, env=environment(extra), capture_output=True
        )
    except FileNotFoundError:
        raise InvalidInput("git is not installed, or the folder is gone") from None
    if done.returncode != 0:
        raise GitError(done.stderr.decode(errors="replace").strip() or f"git {arguments[0]} failed")
    return done.stdout


class GitError(Exception):
    """What git says went wrong."""
