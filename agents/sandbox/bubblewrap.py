"""`Bubblewrap`: namespaces, and limits that the kernel enforces."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Literal

from ...runtime.errors import InvalidInput
from ..environments import Environment
from ..repository import Snapshot
from .base import SCRATCH, TREE, Execution, Limits, Sandbox, SandboxFailed
from .cgroup import Cgroup
from .process import Killed, acquire, descendants, kill_tree, resident_bytes, watch
from .script import (
    bytes_at_the_end,
    check_command,
    execution,
    files_archive,
    memory_bytes,
    patch_bytes,
    script,
    variables,
)
from .seccomp import user_namespace_filter
from .tree import Archive, open_archive

SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "ssl/certs")
HOME, INPUTS = "/tmp/home", "/run/plait"
ROOT_USER = "root:x:0:0:root:/root:/bin/sh"
WRITABLE = (TREE, "/tmp", "/dev/shm")
"""Each a file system in memory, as large as the disk limit: nothing reaches the machine's disk."""
END_ALL = "kill -9 -1 2>/dev/null; set --; until test $# = 2; do set -- /proc/[0-9]*; done"
"""Shell: kill all other processes and wait for them to be gone, but for bubblewrap's own."""
FIRST_USER, USERS = 0x60000000, 2**28
"""Numbers of users that no system hands out: as root each sandbox has one of its own, so that its processes are
counted apart from those of others."""
_numbers = itertools.count()


class Bubblewrap(Sandbox):
    """The default where bubblewrap is installed.

    Inside there is no network, a read-only system, the environment's Python, and folders in memory for the snapshot,
    for scratch and for `/tmp`; no process of outside is seen, and the user has no rights. When the command ends, or
    must, the kernel ends all that it has started. Memory of all processes together is limited by a control group where
    this process may make one; elsewhere it is measured ten times a second, and can be exceeded for that long, or by
    what is in memory without being mapped (files of `memfd_create`).
    """

    sandbox: Literal["bubblewrap"] = "bubblewrap"
    """The sandbox's name."""
    environment: Environment = Environment()
    """The Python inside."""

    def check(self) -> None:
        if shutil.which("bwrap") is None:
            raise InvalidInput("bubblewrap is not installed: install the package `bubblewrap`, or use another sandbox")
        for program in ("git", "tar", "prlimit", "setpriv"):
            if shutil.which(program, path="/usr/bin:/bin") is None:
                raise InvalidInput(f"the sandbox needs the program {program!r} in /usr/bin")
        if user_namespace_filter() is None:
            raise InvalidInput("bubblewrap is used on x86_64 and aarch64 only: use the sandbox `docker`")
        if os.geteuid() == 0 and not _is_privileged() and not Cgroup.is_possible():
            raise InvalidInput("root without rights over namespaces cannot limit processes: run plait as another user")
        self._try()

    def _try(self) -> None:
        """Start the interpreter inside. Raises `InvalidInput` if that does not work."""
        python = self.environment.interpreter()
        user = FIRST_USER if _is_privileged() else 1000
        with ExitStack() as stack:
            seccomp = _memory_file(stack, user_namespace_filter() or b"")
            sizes = dict.fromkeys(WRITABLE, 2**20)
            words = [*_namespaces(user, seccomp), *_system(), *_folders(sizes, {}, python.folders)]
            words += [*_unprivileged(user), python.executable, "-I", "-c", ""]
            done = subprocess.run(
                words, pass_fds=[seccomp], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise InvalidInput(
                f"bubblewrap cannot start {python.executable} here: it needs version 0.8, user namespaces "
                f"that the system allows to this user, and a Python that every user may read ({reason})"
            )

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
        interpreter = await asyncio.to_thread(self.environment.interpreter)
        user = FIRST_USER + (os.getpid() * 4096 + next(_numbers)) % USERS if _is_privileged() else 1000
        async with AsyncExitStack() as stack:
            data = {
                f"{INPUTS}/files": files_archive(files or {}),
                f"{INPUTS}/patch": patch_bytes(snapshot),
                "/etc/passwd": f"{ROOT_USER}\nsandbox:x:{user}:{user}:sandbox:{HOME}:/bin/sh\n".encode(),
                "/etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
            }
            archive = await acquire(stack, partial(open_archive, snapshot), Archive.close)
            seccomp = _memory_file(stack, user_namespace_filter() or b"")
            contents = {path: _memory_file(stack, content) for path, content in data.items()}
            memory, disk = limits.memory_mb << 20, limits.disk_mb << 20
            sizes = {path: disk + (archive.disk_bytes if path == TREE else 0) for path in WRITABLE}
            inner = script(
                tree=TREE,
                scratch=SCRATCH,
                files=f"{INPUTS}/files",
                patch=f"{INPUTS}/patch" if snapshot.patch else None,
                limits=limits,
                processes=limits.processes + (1 if _is_privileged() else 2),
                paths=self.environment.paths,
                inside=inside,
                after=f"{END_ALL}; stat -f -c 'disk %S %b %f %c %d' {' '.join(sizes)} >&3",
            )
            arguments = [
                *_namespaces(user, seccomp),
                *_system(),
                *_folders(sizes, contents, interpreter.folders),
                *_variables(variables(interpreter.executable, self.environment.variables, HOME)),
                *_unprivileged(user),
                *("/bin/sh", "-c", inner, "sh"),
                interpreter.executable if command[0] == "python" else command[0],
                *command[1:],
            ]
            # Files are in memory, too; five processes are the sandbox's own.
            room = memory + sum(sizes.values()) + 2**26
            make = partial(Cgroup.make, memory_bytes=room, processes=limits.processes + 5)
            group = await acquire(stack, make, Cgroup.remove_if_any)

            async def probe(pid: int) -> Killed | None:
                processes = descendants(pid)
                if group is None:
                    if resident_bytes(processes, memory) > memory:
                        return "memory"
                elif group.has_run_out() or group.anonymous_bytes() > memory:
                    return "memory"
                # The first is bubblewrap's own, into which another user may not look.
                return "disk" if processes[1:] and _written(processes[1]) - archive.disk_bytes >= disk else None

            try:
                watched = await watch(
                    arguments if group is None else group.joining(arguments),
                    stdin=archive.descriptor,
                    descriptors=(seccomp, *contents.values()),
                    environment={"PATH": os.environ.get("PATH", os.defpath)},
                    limits=limits,
                    probe=probe,
                    kill=kill_tree,
                )
                return execution(
                    watched,
                    out_of_memory=group is not None and group.has_run_out(),
                    out_of_disk=bytes_at_the_end(watched) - archive.disk_bytes >= disk,
                )
            except SandboxFailed as error:
                raise SandboxFailed(f"bubblewrap: {error}") from error


@cache
def _is_privileged() -> bool:
    """May this process make namespaces and become any user? Then the kernel knows the sandbox's user as another one
    than ours."""
    if os.geteuid() != 0:
        return False
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rights = int(status["CapEff"], 16)
    needed = (1 << 21) | (1 << 6) | (1 << 7)  # CAP_SYS_ADMIN, CAP_SETGID, CAP_SETUID
    return rights & needed == needed and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _namespaces(user: int, seccomp: int) -> list[str]:
    words = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    words += ["--hostname", "sandbox", "--seccomp", str(seccomp)]
    if _is_privileged():
        return [*words, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*words, "--unshare-user", "--uid", str(user), "--gid", str(user)]


def _unprivileged(user: int) -> list[str]:
    """The first program inside gives up being root."""
    if not _is_privileged():
        return []
    return ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all"]


def _system() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    words += _parents("/etc/ssl/certs")
    for name in ETC:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return [*words, "--proc", "/proc", "--dev", "/dev"]


def _folders(sizes: Mapping[str, int], contents: Mapping[str, int], python: Sequence[str]) -> list[str]:
    words: list[str] = []
    for path, size in sizes.items():
        words += ["--perms", "1777", "--size", str(size), "--tmpfs", path]
    for folder in python:
        if not Path(folder).is_relative_to("/usr"):
            words += [*_parents(folder), "--ro-bind", folder, folder]
    for path, descriptor in contents.items():
        words += [*_parents(path), "--perms", "0444", "--ro-bind-data", str(descriptor), path]
    # Bubblewrap's own root and /dev are in memory without a limit.
    return [*words, "--remount-ro", "/dev", "--remount-ro", "/"]


def _variables(values: Mapping[str, str]) -> list[str]:
    return [word for name, value in values.items() for word in ("--setenv", name, value)]


def _memory_file(stack: AsyncExitStack | ExitStack, data: bytes) -> int:
    """A descriptor from which the data can be read once."""
    descriptor = os.memfd_create("plait", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _parents(path: str) -> list[str]:
    """Folders above, that all may enter; bubblewrap would make them for their owner only."""
    words: list[str] = []
    for parent in reversed(Path(path).parents):
        if str(parent) not in ("/", "/tmp"):
            words += ["--perms", "0755", "--dir", str(parent)]
    return words


def _written(pid: int) -> int:
    """Bytes in the writable folders of a sandbox, seen through one of its processes."""
    total = 0
    for path in WRITABLE:
        try:
            found = os.statvfs(f"/proc/{pid}/root{path}")
        except OSError:
            continue
        total += memory_bytes(found.f_frsize, found.f_blocks, found.f_bfree, found.f_files, found.f_ffree)
    return total
