"""What `bubblewrap` and `local` promise alike."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import plait
from plait.agents.environments import Environment
from plait.agents.repository import Snapshot
from plait.agents.sandbox.base import SANDBOXES, Limits, Sandbox, SandboxFailed
from plait.agents.sandbox.bubblewrap import Bubblewrap
from plait.agents.sandbox.local import REAPER, Local
from plait.runtime.errors import InvalidInput
from plait.tests.agents.sandbox import attacks
from plait.tests.agents.sandbox.tools import leftovers, make_repository, needs_bubblewrap, processes_with, state

KINDS = [pytest.param(Bubblewrap, marks=needs_bubblewrap), Local]
FIX = "diff --git a/lib/a.py b/lib/a.py\n--- a/lib/a.py\n+++ b/lib/a.py\n@@ -1 +1 @@\n-A = 1\n+A = 2\n"
NEW = "diff --git a/b.py b/b.py\nnew file mode 100644\n--- /dev/null\n+++ b/b.py\n@@ -0,0 +1 @@\n+B = 3\n"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    files = {"lib/a.py": "A = 1\n", "pack/__init__.py": "P = 5\n", "src/inner/__init__.py": "I = 7\n"}
    return make_repository(tmp_path_factory.mktemp("made") / "repository", files)


def patched(snapshot, patch):
    return Snapshot(repository=snapshot.repository, commit=snapshot.commit, patch=patch)


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """Whatever is left of a run is seen there, and nothing else's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(params=KINDS)
def sandbox(request):
    made = request.param()
    made.check()
    return made


async def python(sandbox, snapshot, text, **options):
    return await sandbox.run(["python", "x.py"], snapshot, files={"x.py": text}, **options)


async def test_a_command_runs_on_fresh_files_with_its_own_exit_code(sandbox, snapshot):
    text = "import os, sys; print(sorted(os.listdir()), flush=True); print('error', file=sys.stderr); sys.exit(7)"
    done = await python(sandbox, snapshot, text)
    assert (done.exit_code, done.ended, done.output) == (7, "exit", "['x.py']\nerror\n")
    assert 0 < done.seconds < 20


async def test_the_patch_is_on_it_and_only_there(sandbox, snapshot):
    before = state(snapshot.repository)
    command = ["sh", "-c", "cat lib/a.py b.py; echo changed > lib/a.py"]
    done = await sandbox.run(command, patched(snapshot, FIX + NEW), inside=True)
    assert done.output == "A = 2\nB = 3\n"
    assert (await sandbox.run(["cat", "lib/a.py"], snapshot, inside=True)).output == "A = 1\n"
    assert state(snapshot.repository) == before


@pytest.mark.parametrize("patch", ["nonsense", FIX + FIX.replace("lib/a.py", "none.py"), FIX.replace("A = 1", "A = 9")])
async def test_a_patch_that_does_not_apply_is_an_outcome(sandbox, snapshot, patch):
    done = await sandbox.run(["echo", "ran"], patched(snapshot, patch))
    assert (done.ended, done.exit_code) == ("patch", 1)
    assert done.output.startswith("The patch does not apply.\nerror: ") and "ran" not in done.output


async def test_text_that_is_no_unicode_is_no_exception(sandbox, snapshot):
    done = await sandbox.run(
        ["echo", "ran"], patched(snapshot, FIX.replace("2", "\ud800")), files={"x": "\udfff\ud800"}
    )
    assert done.output == "ran\n"


async def test_packages_of_the_tree_are_importable_before_those_of_the_environment(sandbox, snapshot):
    done = await python(sandbox, snapshot, "import pack, inner; print(pack.P, inner.I)")
    assert done.output == "5 7\n"
    chosen = type(sandbox)(environment=Environment(paths=("lib",), variables={"WORD": "it's $HOME"}))
    text = "import os, a; print(a.A, os.environ['WORD'])\ntry:\n import pack\nexcept ImportError: print('none')"
    assert (await python(chosen, snapshot, text)).output == "1 it's $HOME\nnone\n"


@pytest.mark.parametrize(
    ("path", "name", "is_found"),
    [
        ("src/alone.py", "alone", True),
        ("lib/alone.py", "alone", True),
        ("src/space/inner/__init__.py", "space.inner", True),
        ("src/a/b/c/d.py", "a.b.c.d", True),
        ("lib/python3.11/site-packages/other.py", "other", False),
        ("src/__init__.py", "src", True),
    ],
)
async def test_modules_below_src_and_lib_are_importable(sandbox, tmp_path, path, name, is_found):
    files = {path: "", "root.py": "FROM = 'root'\n", f"{path.partition('/')[0]}/root.py": "FROM = 'below'\n"}
    if not is_found:
        del files["lib/root.py"]
    here = make_repository(tmp_path / "it's here", files)
    text = f"import os, root; print(root.FROM, len(os.environ['PYTHONPATH'].split(':')))\nimport {name}"
    done = await python(sandbox, here, text)
    count = 1 if path in ("src/__init__.py", "lib/python3.11/site-packages/other.py") else 2
    assert done.output.splitlines()[0] == f"root {count}" and (done.exit_code == 0) is is_found


async def test_a_folder_that_would_hide_a_module_of_python_is_not_searched(sandbox, tmp_path):
    here = make_repository(tmp_path / "repository", {"src/types.py": "1 / 0\n", "src/logging.py": "1 / 0\n"})
    done = await python(sandbox, here, "import logging, enum, src.types")
    assert done.output.splitlines()[-1] == "ZeroDivisionError: division by zero" and "src/types.py" in done.output


async def test_variables_are_a_fixed_few(sandbox, snapshot, monkeypatch):
    monkeypatch.setenv("PLAIT_SECRET", "x")
    done = await python(sandbox, snapshot, "import os; print(*sorted(os.environ))")
    few = "HOME LANG OLDPWD PATH PWD PYTHONDONTWRITEBYTECODE PYTHONHASHSEED PYTHONPATH".split()
    assert done.output.split() == sorted([*few, *(["TMPDIR"] if isinstance(sandbox, Local) else [])])


async def test_standard_input_is_empty(sandbox, snapshot):
    done = await sandbox.run(["sh", "-c", "cat; ls /proc/self/fd | wc -l"], snapshot)
    assert done.output.split() == ["4"]  # Three, and that of ls on the folder.


async def test_words_reach_the_command_as_they_are(sandbox, snapshot):
    words = ["", "a b", "$HOME", "'", '"', "\n", "*", "é"]
    done = await sandbox.run(["python", "-c", "import sys; print(ascii(sys.argv[1:]))", *words], snapshot)
    assert done.output == ascii(words) + "\n"


async def test_signals_and_unknown_programs_are_exit_codes(sandbox, snapshot):
    assert (await python(sandbox, snapshot, "import os; os.kill(os.getpid(), 11)")).exit_code == 128 + 11
    missing = await sandbox.run(["no-such-program"], snapshot)
    assert missing.exit_code == 127 and "no-such-program" in missing.output


async def test_a_file_may_not_grow_past_its_limit(sandbox, snapshot):
    text = "open('large', 'wb').write(bytes(3 << 20))"
    done = await python(sandbox, snapshot, text, limits=Limits(file_mb=1))
    assert done.exit_code == 1 and "File too large" in done.output


async def test_cancelling_leaves_nothing(sandbox, snapshot):
    marker = f"marker-{os.urandom(8).hex()}"
    for delay in (0.0, 0.01, 0.03, 0.08, 0.5):
        command = ["sh", "-c", "setsid sleep 60 & sleep 60", marker]
        task = asyncio.create_task(sandbox.run(command, snapshot))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leftovers(marker) == []


@needs_bubblewrap
async def test_without_control_groups_the_limits_hold_too(snapshot, monkeypatch):
    monkeypatch.setattr("plait.agents.sandbox.cgroup.Cgroup.make", lambda **_: None)
    for attack in ("fork bomb", "many processes that are large together", "daemon that outlives the command"):
        scene = attacks.Scene(Bubblewrap(), Path(tempfile.gettempdir()))
        outcome = await attacks.ATTACKS[attack](scene)
        assert outcome.is_contained and not outcome.left, (attack, outcome)


KILLED_PLAIT = """
import asyncio, sys
from pathlib import Path
from plait.agents.repository import Snapshot
from plait.agents.sandbox.bubblewrap import Bubblewrap
snapshot = Snapshot(repository=Path(sys.argv[1]), commit=sys.argv[2])
asyncio.run(Bubblewrap().run(["sh", "-c", "setsid sleep 60 & sleep 60", sys.argv[3]], snapshot))
"""


def wait_until(holds, seconds=20.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


@needs_bubblewrap
async def test_when_plait_is_killed_its_commands_die(snapshot):
    marker = f"marker-{os.urandom(8).hex()}"
    words = [sys.executable, "-c", KILLED_PLAIT, str(snapshot.repository), snapshot.commit, marker]
    process = await asyncio.create_subprocess_exec(*words)
    assert wait_until(lambda: any(line.startswith("sh -c setsid") for line in processes_with(marker)))
    process.kill()
    await process.wait()
    assert wait_until(lambda: not processes_with(marker))


def test_the_end_of_a_command_is_not_broken_off(tmp_path):
    """However often it is asked for: the death of several threads is told several times."""
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); time.sleep(60)"
    for _ in range(4):
        reaper = subprocess.Popen([sys.executable, "-I", "-S", str(REAPER), sys.executable, "-I", "-S", "-c", code])
        while not (started := list(tmp_path.iterdir())):
            time.sleep(0.005)
        while reaper.poll() is None:
            reaper.send_signal(signal.SIGTERM)
            time.sleep(0.0002)
        started[0].unlink()
        assert reaper.returncode == 1
        with pytest.raises(ProcessLookupError):
            os.kill(int(started[0].name), 0)


async def test_twenty_at_once_share_nothing(sandbox, snapshot):
    text = (
        "import os, time, b\nme = os.path.dirname(b.__file__)\n"
        "for folder in ('.', me, os.path.expanduser('~'), os.environ.get('TMPDIR', '/tmp')):\n"
        "    assert not os.path.exists(folder + '/mine'), folder\n    open(folder + '/mine', 'w').write('{n}')\n"
        "time.sleep(0.5)\n"
        "print(open('mine').read(), open(me + '/mine').read(), '{n}' in open(me + '/b.py').read())\n"
    )

    def variant(n):
        return patched(snapshot, NEW.replace("B = 3", f"B = {n}"))

    runs = (python(sandbox, variant(n), text.replace("{n}", str(n))) for n in range(20))
    outputs = [done.output for done in await asyncio.gather(*runs)]
    assert outputs == [f"{n} {n} True\n" for n in range(20)]
    assert leftovers("no such marker") == []


async def test_the_loop_goes_on_while_a_command_writes_much(sandbox, snapshot):
    async def longest_pause():
        longest, last = 0.0, time.monotonic()
        while True:
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                return longest
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    watcher = asyncio.create_task(longest_pause())
    done = await sandbox.run(["head", "-c", "100000000", "/dev/zero"], snapshot, limits=Limits(output_chars=100))
    watcher.cancel()
    assert "[99999900 characters left out]" in done.output
    assert await watcher < 0.5


@pytest.mark.parametrize("command", [[], [""], ["echo", "a\0b"]])
async def test_a_command_that_cannot_be_started_is_an_input_error(sandbox, snapshot, command):
    with pytest.raises(InvalidInput, match="at least one word"):
        await sandbox.run(command, snapshot)


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a\0b", "."])
async def test_a_file_that_leaves_the_scratch_folder_is_an_input_error(sandbox, snapshot, name):
    with pytest.raises(InvalidInput, match="no relative path"):
        await sandbox.run(["true"], snapshot, files={name: ""})


async def test_a_sandbox_that_cannot_be_set_up_says_why(sandbox, snapshot, monkeypatch, tmp_path):
    for program in ("bwrap", "env", "sh"):
        (tmp_path / program).write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    if isinstance(sandbox, Local):
        monkeypatch.setattr("plait.agents.sandbox.local.REAPER", tmp_path / "missing")
        expected = "local: .*missing"
    else:
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        expected = "bubblewrap: .*no namespaces here"
    with pytest.raises(SandboxFailed, match=expected):
        await sandbox.run(["true"], snapshot)
    assert leftovers("no such marker") == []


def test_local_warns(caplog):
    Local().check()
    assert "isolates nothing" in caplog.text


def test_bubblewrap_that_is_not_there_is_an_input_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match="install the package `bubblewrap`"):
        Bubblewrap().check()


@needs_bubblewrap
@pytest.mark.skipif(os.geteuid() != 0, reason="these tests do not run as root")
async def test_root_in_a_container_is_another_user_inside_or_is_refused(snapshot, monkeypatch):
    monkeypatch.setattr("plait.agents.sandbox.bubblewrap._is_privileged", lambda: False)
    monkeypatch.setattr("plait.agents.sandbox.cgroup._parents", lambda: None)
    with pytest.raises(InvalidInput, match="cannot limit processes: run plait as another user"):
        Bubblewrap().check()
    done = await python(Bubblewrap(), snapshot, "import os; print(os.getuid())")
    assert done.output == "1000\n"


@needs_bubblewrap
def test_a_system_that_forbids_namespaces_is_an_input_error(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InvalidInput, match="user namespaces that the system allows.*no namespaces here"):
        Bubblewrap().check()


def test_sandboxes_are_found_by_name():
    project = tomllib.loads((Path(plait.__file__).parent / "pyproject.toml").read_text())
    for name, value in project["project"]["entry-points"][SANDBOXES.group].items():
        cls = EntryPoint(name, value, SANDBOXES.group).load()
        assert issubclass(cls, Sandbox) and cls.model_fields["sandbox"].default == name
