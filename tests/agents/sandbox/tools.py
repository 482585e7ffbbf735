"""Repositories for the tests of sandboxes, and what may be left of a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from plait.agents.repository import Snapshot


def why_no_bubblewrap(*prefix: str) -> str | None:
    """Why it cannot be used on this machine, by what `prefix` makes of this user; None: it can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    command = [*prefix, "bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    return f"bubblewrap may not make namespaces here: {done.stderr.strip()}" if done.returncode else None


REASON = why_no_bubblewrap()
needs_bubblewrap = pytest.mark.skipif(REASON is not None, reason=REASON or "")

AUTHOR = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main")
EMPTY_HOME = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *AUTHOR, *arguments], cwd=folder, env=EMPTY_HOME, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make_repository(folder: Path, files: dict[str, str | bytes]) -> Snapshot:
    """A repository of one commit."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "first")
    return Snapshot(repository=folder, commit=git(folder, "rev-parse", "HEAD"))


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in a folder: kind, time of change, content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        found[str(path)] = (info.st_mode, info.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def processes_with(marker: str) -> list[str]:
    """Command lines of other processes that hold the marker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            is_dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if marker.encode() in words and not is_dead and int(folder.name) != os.getpid():
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def leftovers(marker: str) -> list[str]:
    """Processes with a word of the command, folders and control groups that are still there."""
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/plait-{os.getpid()}-*")]
    folders = [str(path) for path in Path(tempfile.gettempdir()).glob("plait-*")]
    return processes_with(marker) + groups + folders
