"""Attacks on a sandbox. As a program, `attacks.py SANDBOX FOLDER`, it runs them all as the user that starts it and
prints what came of them as JSON: for each, whether it was contained, how it ended and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plait.agents.environments import Environment
from plait.agents.repository import Snapshot
from plait.agents.sandbox.base import Execution, Limits, Sandbox
from plait.agents.sandbox.bubblewrap import Bubblewrap
from plait.agents.sandbox.local import Local
from plait.tests.agents.sandbox.tools import leftovers, make_repository, state

LIMITS = Limits(seconds=20, memory_mb=512, processes=48, file_mb=64, disk_mb=96, output_chars=2000)

FORK_BOMB = """
import os, time
born = 0
try:
    while born < 3000:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        born += 1
except OSError as error:
    print("refused:", error)
print("born", born)
"""
ONE_LARGE = """
try:
    data = bytearray(10 << 30)
    print("reached")
except MemoryError:
    print("MemoryError")
"""
MANY_LARGE = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        data = bytearray(os.urandom(1 << 20)) * 200
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
DISK_FILLER = """
import time
end = time.monotonic() + 20
number = 0
while time.monotonic() < end:
    number += 1
    try:
        with open(f"{number % 2 and '/tmp' or '.'}/fill-%s-{number}" % MARKER, "wb") as file:
            file.write(bytes(8 << 20))
    except OSError as error:
        print(error, flush=True)
        time.sleep(0.2)
    if number == LAST:
        break
"""
EMPTY_FILES = """
import os, time
number = 0
while True:
    number += 1
    os.close(os.open(f"empty-{number}", os.O_CREAT))
"""
DEAF_LOOP = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
print("begun", flush=True)
while True:
    pass
"""
NETWORK = """
import socket, sys
for address in (("127.0.0.1", PORT), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=0.5).sendall(b"reached")
        print("reached", address)
    except OSError as error:
        print(error)
"""
NAMES = """
import socket
try:
    print("reached", socket.getaddrinfo("example.com", 80))
except OSError as error:
    print(error)
"""
# What is read is never printed: where it succeeds it is somebody's.
READER = """
import os
for path in (SECRET, "/etc/shadow", "/root"):
    try:
        if path == "/root":
            print("reached" if set(os.listdir(path)) - {".pyenv", ".local"} else "an empty folder")
        elif open(path).read(1):
            print("reached", path)
    except OSError as error:
        print(error)
"""
ENVIRONMENT = """
import os
if "PLAIT_SECRET" in os.environ:
    print("reached: own")
for process in ("1", str(os.getppid()), str(PARENT), str(NEIGHBOUR)):
    try:
        if b"PLAIT_SECRET" in open(f"/proc/{process}/environ", "rb").read():
            print("reached", process)
    except OSError as error:
        print(error)
print(sorted(os.environ))
"""
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for signals in range(1):
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", MARKER])
    os._exit(0)
time.sleep(0.3)
print("main ends")
"""
FLOOD = """
import os
block = b"x" * (1 << 20)
for _ in range(1024):
    os.write(1, block)
"""
WRITER = """
import os
for path in TARGETS:
    try:
        with open(path, "ab") as file:
            file.write(b"reached")
        print("reached", path)
    except OSError as error:
        print(error)
"""
KILLER = """
import ctypes, os
for name, act in (("kill", lambda: os.kill(VICTIM, 9)),):
    try:
        act()
        print("reached by", name)
    except OSError as error:
        print(error)
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, VICTIM, None, None) == 0:
    print("reached by ptrace")
"""
RIGHTS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print("user", os.getuid(), "rights", int(status["CapEff"], 16), int(status["CapPrm"], 16))
for flag, name in ((0x10000000, "user namespace"), (0x00020000, "mount namespace"), (0x40000000, "network namespace")):
    if libc.unshare(flag) == 0:
        print("reached", name)
for path in ("/x", "/etc/x", "/usr/x", "/dev/x", "/proc/sys/kernel/core_pattern", "/run/plait/patch"):
    try:
        open(path, "ab").close()
        print("reached", path)
    except OSError:
        pass
"""

FORGER = """
import glob, os
for path in glob.glob("/proc/[0-9]*/fd/*"):
    if path.split("/")[2] != str(os.getpid()):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            os.write(descriptor, b"patch\\ndisk x\\ndisk 1 2\\nexit zz\\nexit 9999\\n" * 2000)
        except OSError:
            pass
"""


@dataclass
class Outcome:
    is_contained: bool
    ended: str
    exit_code: int
    seconds: float
    output: str
    """Its end."""
    left: list[str]
    """Of processes, folders and control groups."""


class Scene:
    """A snapshot and the things that an attack is after."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.marker = f"marker-{uuid.uuid4().hex}"
        self.snapshot = make_repository(folder / f"repository-{self.marker}", {"a.py": "A = 1\n"})

    def remove_fillings(self) -> bool:
        """Remove what a disk filler has written outside; was there anything?"""
        left = list(Path("/tmp").glob(f"fill-{self.marker}-*"))
        for path in left:
            path.unlink()
        return bool(left)

    async def python(self, text: str, limits: Limits = LIMITS, **names: Any) -> Execution:
        names["MARKER"] = self.marker
        head = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        command = ["python", "attack.py", self.marker]
        return await self.sandbox.run(command, self.snapshot, files={"attack.py": head + text}, limits=limits)

    def outcome(self, execution: Execution, is_contained: bool) -> Outcome:
        return Outcome(
            is_contained,
            execution.ended,
            execution.exit_code,
            execution.seconds,
            execution.output[-600:],
            leftovers(self.marker),
        )


@contextlib.contextmanager
def neighbour(variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=variables)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def fork_bomb(scene: Scene) -> Outcome:
    done = await scene.python(FORK_BOMB)
    born = int(done.output.rpartition("born ")[2] or 3000)
    return scene.outcome(done, born <= LIMITS.processes)


async def one_large(scene: Scene) -> Outcome:
    done = await scene.python(ONE_LARGE)
    return scene.outcome(done, "MemoryError" in done.output and "reached" not in done.output)


async def many_large(scene: Scene) -> Outcome:
    done = await scene.python(MANY_LARGE)
    return scene.outcome(done, done.ended == "memory")


async def disk_filler(scene: Scene) -> Outcome:
    free = os.statvfs(scene.folder).f_bavail
    done = await scene.python(DISK_FILLER, LAST=None)
    lost = (free - os.statvfs(scene.folder).f_bavail) * os.statvfs(scene.folder).f_frsize
    left = scene.remove_fillings()
    return scene.outcome(done, done.ended == "disk" and not left and lost < 2**30)


async def disk_filler_that_ends(scene: Scene) -> Outcome:
    """It is through before anybody can look."""
    done = await scene.python(DISK_FILLER, LAST=24)
    left = scene.remove_fillings()
    return scene.outcome(done, done.ended == "disk" and not left)


async def empty_files(scene: Scene) -> Outcome:
    done = await scene.python(EMPTY_FILES, LIMITS.model_copy(update={"seconds": 30}))
    return scene.outcome(done, done.ended == "disk")


async def deaf_loop(scene: Scene) -> Outcome:
    done = await scene.python(DEAF_LOOP, LIMITS.model_copy(update={"seconds": 1}))
    return scene.outcome(done, done.ended == "timeout" and done.output == "begun\n" and done.seconds < 3)


async def network(scene: Scene) -> Outcome:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        done = await scene.python(NETWORK, PORT=server.getsockname()[1])
        try:
            server.accept()[0].close()
            is_reached = True
        except TimeoutError:
            is_reached = False
    return scene.outcome(done, not is_reached and "reached" not in done.output and done.exit_code == 0)


async def names(scene: Scene) -> Outcome:
    done = await scene.python(NAMES)
    return scene.outcome(done, "reached" not in done.output and done.ended == "exit")


async def reader(scene: Scene) -> Outcome:
    path = scene.folder / f"secret-{scene.marker}"
    path.write_text("secret")
    done = await scene.python(READER, SECRET=str(path))
    return scene.outcome(done, "reached" not in done.output and done.exit_code == 0)


async def environment(scene: Scene) -> Outcome:
    os.environ["PLAIT_SECRET"] = "secret"
    # What a process was started with is what its /proc entry shows.
    with neighbour({"PLAIT_SECRET": "secret"}) as process:
        done = await scene.python(ENVIRONMENT, PARENT=os.getpid(), NEIGHBOUR=process.pid)
    return scene.outcome(done, "reached" not in done.output and "PYTHONHASHSEED" in done.output)


async def daemon(scene: Scene) -> Outcome:
    started = time.monotonic()
    done = await scene.python(DAEMON)
    seconds = time.monotonic() - started
    return scene.outcome(done, done.output == "main ends\n" and done.ended == "exit" and seconds < 3)


async def patch_escape(scene: Scene) -> Outcome:
    """All of these are refused; the last line of defence is that git runs inside."""
    target = scene.folder / f"target-{scene.marker}"
    away = f"../../../../../../..{target}"
    new = "new file mode 100644\n--- /dev/null\n+++ {}\n@@ -0,0 +1 @@\n+reached\n"
    link = (
        f"diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n+{scene.folder}\n"
        "\\ No newline at end of file\n"
    )
    patches = {
        "dots": f"diff --git a/{away} b/{away}\n" + new.format(f"b/{away}"),
        "absolute": f"diff --git a{target} b{target}\n" + new.format(f"b/{target}"),
        "own link": link
        + f"diff --git a/link/{target.name} b/link/{target.name}\n"
        + new.format(f"b/link/{target.name}"),
        "rename": f"diff --git a/a.py b/{away}\nsimilarity index 100%\nrename from a.py\nrename to {away}\n",
        "git's folder": "diff --git a/.git/hooks/x b/.git/hooks/x\n" + new.format("b/.git/hooks/x"),
    }
    folder = scene.folder / f"linked-{scene.marker}"
    folder.mkdir()
    (folder / "out").symlink_to(scene.folder)
    linked = make_repository(folder, {"a.py": "A = 1\n"})
    through = f"out/{target.name}"
    cases = [
        (name, Snapshot(repository=scene.snapshot.repository, commit=scene.snapshot.commit, patch=patch))
        for name, patch in patches.items()
    ]
    patch = f"diff --git a/{through} b/{through}\n" + new.format(f"b/{through}")
    cases.append(("link of the repository", Snapshot(repository=linked.repository, commit=linked.commit, patch=patch)))
    let_through = []
    for name, snapshot in cases:
        done = await scene.sandbox.run(["python", "-c", "print('ran')", scene.marker], snapshot, limits=LIMITS)
        if done.ended != "patch" or done.exit_code != 1 or "error" not in done.output or target.exists():
            let_through.append(f"{name}: {done}")
    assert not let_through, let_through
    return scene.outcome(done, not target.exists())


async def flood(scene: Scene) -> Outcome:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = await scene.python(FLOOD, LIMITS.model_copy(update={"seconds": 30}))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    is_short = len(done.output) < LIMITS.output_chars + 100 and "characters left out" in done.output
    return scene.outcome(done, is_short and grown < 64 and done.ended == "exit")


async def writer(scene: Scene) -> Outcome:
    before = state(scene.snapshot.repository)
    targets = [str(scene.snapshot.repository / name) for name in ("a.py", ".git/HEAD", ".git/hooks/post-checkout")]
    done = await scene.python(WRITER, TARGETS=targets)
    return scene.outcome(done, state(scene.snapshot.repository) == before and "reached" not in done.output)


async def killer(scene: Scene) -> Outcome:
    with neighbour({}) as victim:
        done = await scene.python(KILLER, VICTIM=victim.pid)
        is_alive = victim.poll() is None
    return scene.outcome(done, is_alive and "reached" not in done.output)


async def rights(scene: Scene) -> Outcome:
    done = await scene.python(RIGHTS)
    is_nobody = "rights 0 0" in done.output and "user 0 " not in done.output
    return scene.outcome(done, is_nobody and "reached" not in done.output and done.exit_code == 0)


async def forger(scene: Scene) -> Outcome:
    """What it writes may be said of itself; it reaches nothing that others read."""
    done = await scene.python(FORGER)
    after = await scene.sandbox.run(["cat", "a.py"], scene.snapshot, inside=True)
    return scene.outcome(done, after.output == "A = 1\n" and after.exit_code == 0)


ATTACKS: dict[str, Callable[[Scene], Any]] = {
    "fork bomb": fork_bomb,
    "10 GB allocation": one_large,
    "many processes that are large together": many_large,
    "disk filler": disk_filler,
    "disk filler that ends by itself": disk_filler_that_ends,
    "empty files without end": empty_files,
    "loop that ignores signals": deaf_loop,
    "network": network,
    "names": names,
    "reading outside": reader,
    "the parent's environment": environment,
    "daemon that outlives the command": daemon,
    "patch that leaves the tree": patch_escape,
    "1 GB of output": flood,
    "writing to the repository": writer,
    "killing and tracing outside": killer,
    "rights and the system's files": rights,
    "writing to the sandbox's channels": forger,
}
SANDBOXES = {"bubblewrap": Bubblewrap, "local": Local}
HARMFUL = {"empty files without end", "rights and the system's files", "writing to the sandbox's channels"}
"""What nobody wants to try where it succeeds."""


async def main(name: str, folder: Path) -> dict[str, Any]:
    sandbox = SANDBOXES[name](environment=Environment())
    sandbox.check()
    found = {}
    for attack, run in ATTACKS.items():
        if name == "bubblewrap" or attack not in HARMFUL:
            found[attack] = asdict(await run(Scene(sandbox, folder)))
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(asyncio.run(main(sys.argv[1], Path(sys.argv[2])))))
