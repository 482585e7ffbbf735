"""What a hostile command can do, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

import pytest

import plait
from plait.tests.agents.sandbox import attacks
from plait.tests.agents.sandbox.tools import why_no_bubblewrap

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@pytest.fixture(scope="module")
def folder():
    """One that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="hostile-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "plait").symlink_to(Path(plait.__file__).parent)
        yield path


@pytest.fixture(scope="module")
def outcomes(folder):
    """Runs all attacks once for a sandbox and a user."""

    @cache
    def run(sandbox, user):
        is_changed = user == "user" and os.geteuid() == 0
        if sandbox == "bubblewrap" and (reason := why_no_bubblewrap(*(AS_NOBODY if is_changed else []))):
            pytest.skip(reason)
        if user == "root" and os.geteuid() != 0:
            pytest.skip("these tests do not run as root")
        own = folder / f"{sandbox}-{user}"
        (own / "temporary").mkdir(parents=True)
        program = Path(attacks.__file__)
        variables = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(own / "temporary"),
            "PYTHONPATH": os.pathsep.join([str(folder), sysconfig.get_path("purelib")]),
        }
        command = [sys.executable]
        if is_changed:
            for path in (own, own / "temporary"):
                os.chown(path, NOBODY, NOBODY)
            command = [*AS_NOBODY, python_for_nobody(variables)]
        done = subprocess.run(
            [*command, str(program), sandbox, str(own)], env=variables, cwd=own, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def python_for_nobody(variables):
    """An interpreter of this version that another user may run, with the packages that plait needs."""
    candidates = [sys.executable, *map(str, Path("/usr/bin").glob(f"python3.{sys.version_info[1]}"))]
    for candidate in candidates:
        # setpriv itself may still enter folders that the user may not.
        again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
        command = [*AS_NOBODY, candidate, "-c", f"import plait.tests.agents.sandbox.attacks; {again}"]
        if subprocess.run(command, env=variables, cwd="/", capture_output=True).returncode == 0:
            return candidate
    pytest.skip("no Python here that another user may run with what plait needs")


KINDS = [("bubblewrap", "root"), ("bubblewrap", "user"), ("local", "root"), ("local", "user")]
OPEN_LOCALLY = {
    "network",
    "reading outside",
    "the parent's environment",
    "writing to the repository",
    "killing and tracing outside",
    "disk filler",
    "disk filler that ends by itself",
}
"""What the docstring of `Local` says it does not prevent."""
ENDS = {
    "many processes that are large together": "memory",
    "disk filler": "disk",
    "disk filler that ends by itself": "disk",
    "empty files without end": "disk",
    "loop that ignores signals": "timeout",
    "patch that leaves the tree": "patch",
}


@pytest.mark.parametrize("attack", attacks.ATTACKS)
@pytest.mark.parametrize(("sandbox", "user"), KINDS)
def test_an_attack_is_contained_reported_and_cleaned_up(outcomes, sandbox, user, attack):
    if sandbox == "local" and attack in OPEN_LOCALLY | attacks.HARMFUL:
        pytest.skip("an ordinary process is not kept from this")
    outcome = outcomes(sandbox, user)[attack]
    assert outcome["is_contained"], outcome
    assert outcome["ended"] == ENDS.get(attack, "exit"), outcome
    assert outcome["left"] == []


@pytest.mark.parametrize("user", ["root", "user"])
def test_local_leaves_nothing_behind_whatever_was_reached(outcomes, user):
    left = {attack: outcome["left"] for attack, outcome in outcomes("local", user).items() if outcome["left"]}
    assert left == {}


@pytest.mark.parametrize("user", ["root", "user"])
def test_the_attacks_are_real(outcomes, user):
    """Where nothing keeps them from it they reach what they are after."""
    found = outcomes("local", user)
    for attack in ("network", "reading outside", "the parent's environment", "writing to the repository"):
        assert not found[attack]["is_contained"], attack
