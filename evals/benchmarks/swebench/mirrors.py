"""Where the repositories of instances are: local git mirrors, or clones that are made when they are allowed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from ....agents.git import environment
from ....runtime.errors import InvalidInput


def names(repo: str) -> list[str]:
    """Paths under which a folder of mirrors may hold `owner/name`."""
    owner, _, name = repo.partition("/")
    found = [f"{owner}__{name}", f"{owner}+{name}/repo", f"{owner}+{name}", repo, name]
    return [path + suffix for path in found for suffix in ("", ".git")]


def find_mirror(folder: Path, repo: str) -> Path | None:
    """The mirror, or the checkout, of a repository; None: there is none."""
    return next((path for name in names(repo) if is_repository(path := folder / name)), None)


def is_repository(path: Path) -> bool:
    """A bare repository, a checkout or a worktree, by what lies there."""
    return (path / ".git").exists() or ((path / "objects").is_dir() and (path / "HEAD").is_file())


def clone(url: str, repo: str, folder: Path) -> Path:
    """A mirror of a repository in the folder: made once, whoever asks for it. Blocks, for minutes. Raises
    `InvalidInput`."""
    path = folder / f"{repo.replace('/', '__')}.git"
    folder.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            _clone(url, part)
            part.rename(path)
    return path


def _clone(url: str, path: Path) -> None:
    # Proxies and certificates are the user's.
    variables = {name: value for name, value in os.environ.items() if name.lower().endswith(("_proxy", "_cainfo"))}
    allowed = {"GIT_ALLOW_PROTOCOL": "https:ssh:file", "HOME": str(Path.home())}
    try:
        done = subprocess.run(
            ["git", "-c", "gc.auto=0", "clone", "--quiet", "--mirror", "--", url, str(path)],
            env=environment({**variables, **allowed}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise InvalidInput(f"cannot clone {url}: {error}") from None
    if done.returncode:
        shutil.rmtree(path, ignore_errors=True)
        raise InvalidInput(f"cannot clone {url}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
