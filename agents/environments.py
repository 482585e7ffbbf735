"""`Environment`: the Python of a repository. `Recipe`: how one is made."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from ..runtime.errors import InvalidInput
from ..runtime.spec import Several, Spec

DONE = "plait.json"
"""Written last into an environment: one without it was never finished."""
LOCK_SECONDS = 0.1
"""Between two looks at whether another builder is done."""


def _check_path(path: str) -> str:
    if (
        not path
        or ":" in path
        or "\0" in path
        or PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
    ):
        raise ValueError(f"{path!r} is no folder of the repository")
    return path


def _check_variables(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            raise ValueError(f"{name!r} is no name of an environment variable, or its value holds NUL")
    return variables


TreePath = Annotated[str, AfterValidator(_check_path)]
"""Folder of a repository, relative to its root; `.`: the root."""
Variables = Annotated[dict[str, str], AfterValidator(_check_variables)]


class Environment(Spec):
    """The Python that runs a repository's code, and what it sees."""

    refusal = InvalidInput

    python: str | None = None
    """An interpreter, or the folder of a virtual environment; None: the interpreter that runs plait."""
    paths: Several[TreePath] | None = None
    """Folders of the repository on PYTHONPATH; None: `src` and `lib` if they hold packages, the root, then the two if
    they hold other Python modules, and none that is called as one of Python's own."""
    variables: Variables = {}
    """Further environment variables."""

    def interpreter(self) -> Interpreter:
        """What `python` is. Blocks the first time. Raises `InvalidInput`."""
        if self.python is None:
            return inspect(sys.executable)
        path = Path(self.python).expanduser().absolute()
        return inspect(str(path / "bin/python" if path.is_dir() else path))


class Interpreter(Spec):
    """A Python and where its files are."""

    executable: str
    """What to start."""
    folders: Several[str]
    """Everything it reads, besides what belongs to the system."""
    version: str
    """Such as `3.9`."""


_INSPECT = """
import json, os, sys
base = getattr(sys, "base_prefix", sys.prefix)
own = sys.executable if sys.prefix != base else os.path.realpath(sys.executable)
print(json.dumps([own, [sys.prefix, base, os.path.realpath(sys.prefix), os.path.realpath(base)],
                  "%d.%d" % sys.version_info[:2]]))
"""


@lru_cache
def inspect(executable: str) -> Interpreter:
    """Ask an interpreter. Blocks. Raises `InvalidInput` if it does not run."""
    environment = {"PATH": os.defpath}
    try:
        done = subprocess.run(
            [executable, "-I", "-c", _INSPECT], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        own, folders, version = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise InvalidInput(
            f"{executable} is no Python that runs: name an interpreter or the folder of a virtual environment"
        ) from None
    return Interpreter(executable=own, folders=tuple(dict.fromkeys(folders)), version=version)


class Recipe(Spec):
    """How the environment of a repository is made; a TOML file holds the fields."""

    refusal = InvalidInput

    python: Annotated[str, AfterValidator(lambda version: _check_version(version))]
    """Version such as `3.9`."""
    packages: Several[str] = ()
    """Requirements, pinned (`attrs==23.1.0`)."""
    paths: Several[TreePath] | None = None
    """See `Environment`."""
    build: Several[str] = ()
    """Shell commands after the packages are there, in the environment's folder with its programs first on PATH."""
    variables: Variables = {}
    """See `Environment`; the build has them, too."""

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a TOML file. Raises `InvalidInput`."""
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise InvalidInput(f"{path}: {error}") from None
            raise InvalidInput(f"cannot read the recipe {path}: {error}") from None

    def folder(self, cache_folder: Path) -> Path:
        """Where the environment lies, the same for recipes that make the same."""
        made_of = self.model_dump_json(include={"python", "packages", "build", "variables"})
        key = hashlib.sha256(made_of.encode()).hexdigest()[:16]
        return cache_folder.absolute() / f"python{self.python}-{key}"


def _check_version(version: str) -> str:
    if not re.fullmatch(r"\d+\.\d+", version):
        raise ValueError(f"{version!r} is no version such as 3.9")
    return version


async def build(recipe: Recipe, cache_folder: Path) -> Environment:
    """The environment of a recipe: made once, then found in the cache folder. Several builders of one recipe, in any
    process, wait for the first. What a recipe names is installed and run with the rights of this user. Raises
    `InvalidInput` with the last lines of what failed. Cancelling ends what runs."""
    folder = recipe.folder(cache_folder)
    if not (folder / DONE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        async with _locked(folder.parent / f"{folder.name}.lock"):
            if not (folder / DONE).exists():
                await _make(recipe, folder)
    return Environment(python=str(folder), paths=recipe.paths, variables=recipe.variables)


async def _make(recipe: Recipe, folder: Path) -> None:
    # A virtual environment knows its own place, so it cannot be made elsewhere and moved.
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    try:
        await _install(recipe, folder)
        marker = folder / f"{DONE}.part"
        marker.write_text(recipe.model_dump_json(indent=1))
        marker.rename(folder / DONE)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise InvalidInput(f"an environment cannot be built in {folder}: {error.strerror or error}") from None
        raise


async def _install(recipe: Recipe, folder: Path) -> None:
    uv = shutil.which("uv")
    python = await asyncio.to_thread(find_python, recipe.python)
    await _run([uv, "venv", "--python", python, str(folder)] if uv else [python, "-m", "venv", str(folder)])
    own = str(folder / "bin/python")
    if recipe.packages:
        install = [uv, "pip", "install", "--python", own] if uv else [own, "-m", "pip", "install", "--no-input"]
        await _run([*install, *recipe.packages])
    path = f"{folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
    variables = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(folder), **recipe.variables}
    for command in recipe.build:
        await _run(["/bin/sh", "-c", command], cwd=folder, env=variables)


async def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        last = "\n".join(output.decode(errors="replace").strip().splitlines()[-10:])
        raise InvalidInput(f"an environment cannot be built: {' '.join(command)} failed:\n{last}")


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock that other processes see, too; the system lets go of it when this one dies."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_SECONDS)
        yield


def find_python(version: str) -> str:
    """An interpreter of this version, as `3.9`. Blocks. Raises `InvalidInput` that says what to install."""
    name = f"python{version}"
    candidates = [str(Path(folder) / name) for folder in os.get_exec_path()]
    candidates += map(str, sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/{name}"), reverse=True))
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == version:
        candidates.append(sys.executable)
    for candidate in candidates:
        # A shim of pyenv is there for every version that any of its Pythons has, and fails for most.
        if os.access(candidate, os.X_OK) and _runs(candidate, version):
            return candidate
    uv = shutil.which("uv")
    if uv is not None:
        done = subprocess.run([uv, "python", "find", version], capture_output=True, text=True, check=False)
        if done.returncode == 0 and _runs(done.stdout.strip(), version):
            return done.stdout.strip()
    raise InvalidInput(
        f"there is no Python {version} here: install {name} so that it is on PATH "
        f"(uv python install {version}, or pyenv install {version})"
    )


def _runs(executable: str, version: str) -> bool:
    try:
        return inspect(executable).version == version
    except InvalidInput:
        return False
