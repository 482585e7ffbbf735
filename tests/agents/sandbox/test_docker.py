"""Docker's command lines, deadlines and cleaning, against a program that does as docker does with bubblewrap."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import pytest

from plait.agents.repository import Snapshot
from plait.agents.sandbox.base import Limits, SandboxFailed
from plait.agents.sandbox.docker import Docker
from plait.runtime.errors import InvalidInput
from plait.tests.agents.sandbox.tools import make_repository, needs_bubblewrap, processes_with

FAKE = """#!{python}
import json, os, signal, subprocess, sys
from pathlib import Path
home = Path({home!r})
with (home / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
kind, *words = sys.argv[1:]
failing = home / f"fail-{{kind}}"
if failing.exists():
    sys.exit(failing.read_text())
if kind == "run":
    options = [word for word in words[:words.index("/bin/sh")] if word.startswith("--")]
    name = next(word for word in options if word.startswith("--name=")).partition("=")[2]
    command = words[words.index("/bin/sh"):]
    box = ["bwrap", "--unshare-pid", "--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr", "--ro-bind-try",
           "/etc/alternatives", "/etc/alternatives"]
    for path in ("bin", "lib", "lib64", "sbin"):
        box += ["--symlink", f"usr/{{path}}", f"/{{path}}"]
    box += ["--bind", str(home / "tree"), "/testbed", "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev"]
    box += ["--setenv", "PATH", "/usr/bin:/bin"]
    for word in options:
        if word.startswith("--env="):
            key, _, value = word.removeprefix("--env=").partition("=")
            box += ["--setenv", key, value]
    print("WARNING: this is no docker", file=sys.stderr, flush=True)
    process = subprocess.Popen(box + command)
    (home / name).write_text(str(process.pid))
    code = process.wait()
    (home / name).unlink(missing_ok=True)
    sys.exit(137 if code == -9 else code)
if kind == "kill":
    os.kill(int((home / words[0]).read_text()), signal.SIGKILL)
    (home / words[0]).unlink(missing_ok=True)  # whatever becomes of who started it
if kind == "rm" and not (home / words[-1]).exists():
    sys.exit("no such container")
"""
FIX = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-A = 1\n+A = 2\n"


class Fake:
    def __init__(self, home):
        self.home = home
        program = home / "bin/docker"
        program.parent.mkdir()
        program.write_text(FAKE.format(python=sys.executable, home=str(home)))
        program.chmod(0o755)
        snapshot = make_repository(home / "tree", {"a.py": "A = 1\n"})
        self.snapshot = Snapshot(repository=home / "nowhere", commit=snapshot.commit)

    def calls(self, kind):
        lines = (self.home / "calls").read_text().splitlines()
        return [words[1:] for words in map(json.loads, lines) if words[0] == kind]

    def containers(self):
        return list(self.home.glob("plait-*"))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = Fake(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return made


@pytest.fixture
def docker():
    return Docker(image="example/image:1", limits=Limits(seconds=30, memory_mb=500, processes=20, disk_mb=70))


async def test_the_command_line_confines(fake, docker):
    (fake.home / "fail-run").write_text("there is no such image")
    with pytest.raises(SandboxFailed, match="docker: it could not be set up: there is no such image"):
        await docker.run(["true"], fake.snapshot)
    (words,) = fake.calls("run")
    assert {
        "--rm",
        "--network=none",
        "--pull=never",
        "--memory=500m",
        "--memory-swap=500m",
        "--pids-limit=24",
        "--cpus=2.0",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--ulimit=core=0",
    } < set(words)
    assert words.index("example/image:1") < words.index("/bin/sh")
    name = next(word for word in words if word.startswith("--name=")).partition("=")[2]
    assert fake.calls("rm") == [["--force", name]]


@needs_bubblewrap
async def test_a_command_runs_with_the_patch_on_the_image_s_files(fake, docker):
    snapshot = Snapshot(repository=fake.snapshot.repository, commit=fake.snapshot.commit, patch=FIX)
    command = ["sh", "-c", "cat x.py /testbed/a.py; pwd; cat; exit 3"]
    done = await docker.run(command, snapshot, files={"x.py": "X\n"})
    assert (done.output, done.exit_code, done.ended) == ("X\nA = 2\n/tmp/repro\n", 3, "exit")
    inside = await docker.run(["pwd"], fake.snapshot, inside=True)
    assert inside.output == "/testbed\n"
    assert fake.containers() == []


@needs_bubblewrap
async def test_a_patch_that_does_not_apply_is_an_outcome(fake, docker):
    snapshot = Snapshot(
        repository=fake.snapshot.repository, commit=fake.snapshot.commit, patch=FIX.replace("1\n+", "7\n+")
    )
    done = await docker.run(["echo", "ran"], snapshot)
    assert (done.ended, done.exit_code) == ("patch", 1) and "ran" not in done.output
    assert (fake.home / "tree/a.py").read_text() == "A = 1\n"


@needs_bubblewrap
async def test_variables_are_those_of_the_fields(fake, monkeypatch):
    monkeypatch.setenv("PLAIT_SECRET", "x")
    docker = Docker(image="i", variables={"WORD": "a b"})
    done = await docker.run(["sh", "-c", 'env; echo "$WORD"'], fake.snapshot)
    assert "PLAIT_SECRET" not in done.output and done.output.endswith("a b\n")


@needs_bubblewrap
async def test_an_overrun_ends_inside(fake, docker):
    done = await docker.run(["sh", "-c", "echo begun; sleep 50"], fake.snapshot, limits=Limits(seconds=1))
    assert (done.ended, done.exit_code, done.output) == ("timeout", 1, "begun\n")
    assert fake.calls("kill") == [] and fake.containers() == []


@needs_bubblewrap
async def test_one_that_nothing_inside_ends_is_killed_from_outside(fake, docker, monkeypatch):
    monkeypatch.setattr("plait.agents.sandbox.docker.KILL_SECONDS", 60)
    monkeypatch.setattr("plait.agents.sandbox.docker.SLACK_SECONDS", -59.0)
    started = time.monotonic()
    command = ["sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.1; done"]
    done = await docker.run(command, fake.snapshot, limits=Limits(seconds=1))
    assert (done.ended, done.exit_code, done.output) == ("timeout", 1, "begun\n")
    assert time.monotonic() - started < 20
    assert len(fake.calls("kill")) == 1
    assert fake.containers() == []


@needs_bubblewrap
async def test_one_that_is_killed_before_its_time_was_out_of_memory(fake, docker):
    done = await docker.run(["sh", "-c", "kill -9 $$"], fake.snapshot)
    assert (done.ended, done.exit_code) == ("memory", 1)


@needs_bubblewrap
async def test_cancelling_kills_the_container(fake, docker):
    marker = f"marker-{os.urandom(8).hex()}"
    task = asyncio.create_task(docker.run(["sh", "-c", "sleep 60", marker], fake.snapshot))
    for _ in range(500):
        await asyncio.sleep(0.02)
        if any(line.startswith("sleep 60") for line in processes_with("sleep")) and processes_with(marker):
            break
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(fake.calls("kill")) == 1 and len(fake.calls("rm")) == 1


def test_what_is_missing_is_said_before_any_work(fake, docker, tmp_path, monkeypatch):
    docker.check()
    (fake.home / "fail-image").write_text("no such image")
    with pytest.raises(InvalidInput, match=r"docker pull example/image:1 \(no such image\)"):
        docker.check()
    (fake.home / "fail-version").write_text("Cannot connect to the Docker daemon")
    with pytest.raises(InvalidInput, match="no daemon here: start it"):
        docker.check()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match="docker is not installed"):
        docker.check()


@pytest.mark.parametrize("image", ["", "--privileged", "a b"])
def test_an_image_is_no_option(image):
    with pytest.raises(InvalidInput, match="image"):
        Docker(image=image)
