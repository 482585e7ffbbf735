"""Environments and recipes, with real virtual environments that need no network."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from plait.agents import environments
from plait.agents.environments import Environment, Recipe, build, find_python, inspect
from plait.runtime.errors import InvalidInput
from plait.tests.agents.sandbox.tools import processes_with

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def without_uv(monkeypatch):
    which = environments.shutil.which
    monkeypatch.setattr(environments.shutil, "which", lambda name: None if name == "uv" else which(name))


@pytest.fixture
def fast(monkeypatch, without_uv):
    """Environments are made without pip, which takes seconds; counts them."""
    made = []
    run = environments._run

    async def counting(command, *arguments, **options):
        if command[1:3] == ["-m", "venv"]:
            made.append(command[-1])
            command = [*command[:3], "--without-pip", *command[3:]]
        await run(command, *arguments, **options)

    monkeypatch.setattr(environments, "_run", counting)
    return made


async def test_an_environment_is_made_once(fast, tmp_path):
    recipe = Recipe(python=VERSION, build=["echo built > built"], paths=["src"], variables={"A": "b"})
    first, second = [await build(recipe, tmp_path) for _ in range(2)]
    assert first == second == Environment(python=first.python, paths=("src",), variables={"A": "b"})
    assert len(fast) == 1
    interpreter = first.interpreter()
    assert interpreter.version == VERSION and interpreter.executable.startswith(str(tmp_path))
    assert first.python in interpreter.folders


async def test_builders_of_one_recipe_wait_for_the_first(fast, tmp_path):
    recipe = Recipe(python=VERSION, build=["sleep 0.3"])
    assert (
        len({environment.python for environment in await asyncio.gather(*(build(recipe, tmp_path) for _ in range(4)))})
        == 1
    )
    assert len(fast) == 1


async def test_a_builder_waits_for_another_process(fast, tmp_path):
    recipe = Recipe(python=VERSION)
    lock = f"{recipe.folder(tmp_path)}.lock"
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", hold, lock, stdin=pipe, stdout=pipe)
    assert await other.stdout.readline() == b"1\n"
    building = asyncio.create_task(build(recipe, tmp_path))
    done, _ = await asyncio.wait({building}, timeout=0.3)
    assert not done and fast == []
    await other.communicate(b"\n")
    await building
    assert len(fast) == 1


async def test_cancelling_a_builder_ends_what_runs(fast, tmp_path):
    marker = f"6{os.getpid()}"
    building = asyncio.create_task(
        build(Recipe(python=VERSION, build=[f"touch begun; sleep {marker} & wait"]), tmp_path)
    )
    for _ in range(500):
        await asyncio.sleep(0.02)
        if list(tmp_path.glob("*/begun")):
            break
    await asyncio.sleep(0.1)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    await asyncio.sleep(0.1)
    assert processes_with(f"sleep\0{marker}") == []
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


async def test_a_half_built_one_is_never_used(fast, tmp_path):
    recipe = Recipe(python=VERSION, build=["test -e allowed || { echo the reason; exit 1; }"])
    with pytest.raises(InvalidInput, match="the reason"):
        await build(recipe, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    # As a process leaves it that was killed.
    folder = recipe.folder(tmp_path)
    folder.mkdir()
    (folder / "allowed").touch()
    with pytest.raises(InvalidInput, match="the reason"):
        await build(recipe, tmp_path)


async def test_what_pip_says_is_the_error(tmp_path, without_uv, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InvalidInput, match="(?s)cannot be built.*no-such-package"):
        await build(Recipe(python=VERSION, packages=["no-such-package==1.0"]), tmp_path)


def test_recipes_share_a_folder_if_they_install_the_same(tmp_path):
    recipes = [
        Recipe(python="3.9", packages=["attrs==23.1.0"]),
        Recipe(python="3.9", packages=["attrs==23.1.0"], paths=["lib"]),
        Recipe(python="3.10", packages=["attrs==23.1.0"]),
        Recipe(python="3.9", packages=["attrs==23.2.0"]),
        Recipe(python="3.9", packages=["attrs==23.1.0"], build=["true"]),
    ]
    folders = [recipe.folder(tmp_path) for recipe in recipes]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_a_recipe_is_a_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('python = "3.9"\npackages = ["attrs==23.1.0"]\n')
    assert Recipe.read(path) == Recipe(python="3.9", packages=["attrs==23.1.0"])
    for text, message in (("python = 3.9", "python"), ("python =", "recipe.toml"), ('python = "3.9.1"', "3.9.1")):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=message):
            Recipe.read(path)
    with pytest.raises(InvalidInput, match="cannot read"):
        Recipe.read(tmp_path / "missing.toml")


def test_a_shim_that_does_not_run_is_passed_over(tmp_path, monkeypatch, without_uv):
    shim, real = tmp_path / "shims", tmp_path / "real"
    for folder, text in ((shim, "#!/bin/sh\nexit 127\n"), (real, f'#!/bin/sh\nexec {sys.executable} "$@"\n')):
        folder.mkdir()
        program = folder / f"python{VERSION}"
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim}:{real}")
    assert find_python(VERSION) == str(real / f"python{VERSION}")


def test_versions_of_pyenv_are_found(tmp_path, monkeypatch, without_uv):
    program = tmp_path / ".pyenv/versions/3.3.9/bin/python3.3"
    program.parent.mkdir(parents=True)
    answer = json.dumps(["/x", ["/x"], "3.3"])
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_python("3.3") == str(program)


def test_a_version_that_is_not_here_says_what_to_install(monkeypatch, without_uv):
    with pytest.raises(InvalidInput, match=r"install python3\.2 so that it is on PATH"):
        find_python("3.2")


def test_an_interpreter_that_does_not_run_is_an_input_error(tmp_path):
    for python in (str(tmp_path), str(tmp_path / "missing"), "/bin/false"):
        with pytest.raises(InvalidInput, match="no Python that runs"):
            Environment(python=python).interpreter()


def test_by_default_it_is_plait_s_own():
    assert Environment().interpreter() == inspect(sys.executable)


@pytest.mark.parametrize(
    "fields", [{"paths": ["../x"]}, {"paths": ["/x"]}, {"paths": ["a:b"]}, {"variables": {"A=B": ""}}]
)
def test_fields_that_cannot_be_are_refused(fields):
    with pytest.raises(InvalidInput, match="malformed"):
        Environment(**fields)
