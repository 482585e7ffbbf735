"""`Docker`: a container of an image that holds the repository, such as those of SWE-bench."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from typing import Literal

from pydantic import Field

from ...runtime.errors import InvalidInput
from ...runtime.settled import unhurried
from ..environments import Variables
from ..repository import Snapshot
from .base import SCRATCH, TREE, Execution, Limits, Sandbox, SandboxFailed
from .process import Killed, Watched, watch
from .script import apply_lines, check_command, execution, files_archive, patch_bytes

CONDA = "/opt/miniconda3/envs/testbed"
"""The environment of SWE-bench's images."""
INPUTS = "/tmp/plait"
KILL_SECONDS = 5
"""From the polite signal to the other one, inside."""
SLACK_SECONDS = 10.0
"""For the container to end by itself before it is killed from outside."""
TIMED_OUT, KILLED = 124, 137
"""Exit codes of `timeout`, and of a process that was killed."""


class Docker(Sandbox):
    """A fresh container for each command, without network and rights; it is removed afterwards.

    The image's `/testbed` stands for the commit: the snapshot's repository is not read, its patch is applied there.
    Memory, processes and processors are limited for all together, `/tmp` in size. Not enforced: what is written
    elsewhere in the container counts for no disk limit. A command that is killed inside without having timed out counts
    as out of memory.
    """

    sandbox: Literal["docker"] = "docker"
    """The sandbox's name."""
    image: str = Field(min_length=1, pattern=r"^[^-\s]\S*$")
    """The image's name; it must be on the machine."""
    cpus: float = Field(default=2.0, gt=0)
    """Processors at a time."""
    variables: Variables = {}
    """Further environment variables."""

    def check(self) -> None:
        if shutil.which("docker") is None:
            raise InvalidInput("docker is not installed: install it, or use the sandbox `bubblewrap`")
        if reason := _ask("version", "--format", "{{.Server.Version}}"):
            raise InvalidInput(f"docker runs no daemon here: start it, or use the sandbox `bubblewrap` ({reason})")
        if reason := _ask("image", "inspect", "--format", "{{.Id}}", self.image):
            raise InvalidInput(f"the image is not on this machine: docker pull {self.image} ({reason})")

    async def run(
        self,
        command: Sequence[str],
        snapshot: Snapshot,
        *,
        files: Mapping[str, str] | None = None,
        inside: bool = False,
        limits: Limits | None = None,
    ) -> Execution:
        check_command(command)
        limits = limits or self.limits
        name = f"plait-{uuid.uuid4().hex}"
        inner = _script(limits, has_patch=bool(snapshot.patch), inside=inside)
        arguments = [*self._container(name, limits), "/bin/sh", "-c", inner, "sh", *command]
        with ExitStack() as stack:
            stdin = stack.enter_context(tempfile.TemporaryFile())
            stdin.write(_inputs(files_archive(files or {}), patch_bytes(snapshot)))
            stdin.seek(0)

            async def probe(pid: int) -> Killed | None:
                return None

            async def kill(pid: int) -> None:
                await asyncio.to_thread(_ask, "kill", name)
                # The client of a container that is gone ends by itself; of one that never came, it may not.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

            try:
                watched = await watch(
                    arguments,
                    stdin=stdin.fileno(),
                    environment=dict(os.environ),
                    limits=limits.model_copy(update={"seconds": limits.seconds + KILL_SECONDS + SLACK_SECONDS}),
                    probe=probe,
                    kill=kill,
                )
                return self._execution(watched, limits)
            except SandboxFailed as error:
                raise SandboxFailed(f"docker: {error}") from error
            finally:
                await unhurried(asyncio.to_thread(_remove, name))

    def _execution(self, watched: Watched, limits: Limits) -> Execution:
        codes = {f"exit {TIMED_OUT}", f"exit {KILLED}"} & set(watched.status)
        if watched.killed is None and codes and watched.seconds >= limits.seconds:
            watched = replace(watched, killed="timeout")
        return execution(watched, out_of_memory=f"exit {KILLED}" in codes or watched.exit_code == KILLED)

    def _container(self, name: str, limits: Limits) -> list[str]:
        """The command line up to what runs inside."""
        memory = f"{limits.memory_mb}m"
        options = {
            "name": name,
            "network": "none",
            "pull": "never",
            "memory": memory,
            "memory-swap": memory,
            "pids-limit": str(limits.processes + 4),
            "cpus": str(self.cpus),
            "cap-drop": "ALL",
            "security-opt": "no-new-privileges",
            "tmpfs": f"/tmp:rw,exec,mode=1777,size={limits.disk_mb}m",
            "workdir": TREE,
            "entrypoint": "",
        }
        words = ["docker", "run", "--rm", "--interactive", "--init"]
        words += [f"--{option}={value}" for option, value in options.items()]
        words += [f"--ulimit=fsize={limits.file_mb << 20}", "--ulimit=core=0"]
        variables = {
            "HOME": "/tmp/home",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            **self.variables,
        }
        words += [f"--env={key}={value}" for key, value in variables.items()]
        return [*words, self.image]


def _script(limits: Limits, *, has_patch: bool, inside: bool) -> str:
    """As `script` has it, but the tree is there and standard input holds the other inputs."""
    lines = [
        "exec 3>&2 2>&1",
        f'mkdir -p "$HOME" {SCRATCH} {INPUTS} || exit 1',
        f"tar -x -C {INPUTS} -f - && exec </dev/null || exit 1",
        f"tar -x -C {SCRATCH} --no-same-owner -f {INPUTS}/files || exit 1",
        *apply_lines(TREE, f"{INPUTS}/patch" if has_patch else None),
        f"rm -r {INPUTS}",
        f"if test -d {CONDA}/bin; then export PATH={CONDA}/bin:$PATH CONDA_PREFIX={CONDA}; fi",
        f"cd {TREE if inside else SCRATCH} || exit 1",
        "echo begun >&3",
        f'timeout -k {KILL_SECONDS} {ceil(limits.seconds)} "$@" 3>&-',
        "code=$?",
        'echo "exit $code" >&3',
        "exit $code",
    ]
    return "\n".join(lines)


def _inputs(files: bytes, patch: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("files", files), ("patch", patch)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _ask(*arguments: str) -> str:
    """Run a docker command; returns why it failed, empty: it did not."""
    try:
        done = subprocess.run(
            ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _remove(name: str) -> None:
    """Remove the container if it is still there."""
    _ask("rm", "--force", name)
