"""Instances of SWE-bench Verified on their real repositories, by scripted models: from the issue to a graded patch.

`PLAIT_REPOS` names a folder of git mirrors, `PLAIT_CACHE` one in which environments stay from run to run. What is
missing here (mirrors, data, a Python, the package index) skips a test.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from plait import ScriptedEngine
from plait.agents.environments import build, find_python
from plait.evals import EvalConfig, run
from plait.evals.benchmarks.swebench.benchmark import SweBench
from plait.evals.benchmarks.swebench.recipes import shipped
from plait.evals.store import read_units
from plait.runtime.errors import InvalidInput
from plait.tests.agents.tools import SANDBOX, Model, test
from plait.tests.data import SHARED
from plait.tests.evals.benchmarks.swebench.tools import DONE

DATA = SHARED / "swebench_verified.jsonl"


@dataclass(frozen=True)
class Case:
    """What the model is made to say."""

    path: str
    """The file that is edited."""
    old: str
    gold: str
    wrong: str
    script: str


FLASK = Case(
    "src/flask/blueprints.py",
    """        if "." in name:
            raise ValueError("'name' may not contain a dot '.' character.")
""",
    """        if not name:
            raise ValueError("'name' may not be empty.")

        if "." in name:
            raise ValueError("'name' may not contain a dot '.' character.")
""",
    """        if "." in name or name is None:
            raise ValueError("'name' may not contain a dot '.' character.")
""",
    """\
import sys
import flask

try:
    flask.Blueprint("", __name__)
except ValueError as error:
    print(error)
    sys.exit(0)
sys.exit(2)
""",
)
SYMPY = Case(
    "sympy/physics/units/unitsystem.py",
    "                if dim != addend_dim:\n",
    "                if not self.get_dimension_system().equivalent_dims(dim, addend_dim):\n",
    "                if str(dim) != str(addend_dim):\n",
    """\
import sys
from sympy.physics.units import Quantity, acceleration, meter, second, time, velocity
from sympy.physics.units.systems import SI

v, a, t = Quantity("v"), Quantity("a"), Quantity("t")
units = (v, velocity, meter / second), (a, acceleration, meter / second**2), (t, time, second)
for quantity, dimension, factor in units:
    SI.set_quantity_dimension(quantity, dimension)
    SI.set_quantity_scale_factor(quantity, 1 * factor)
try:
    print(SI._collect_factor_and_dimension(a * t + v))
except ValueError as error:
    print(error)
    sys.exit(2)
sys.exit(0)
""",
)
PYTEST = Case(
    "src/_pytest/pathlib.py",
    "        if entry.is_dir(follow_symlinks=False) and recurse(entry):\n",
    "        if entry.is_dir() and recurse(entry):\n",
    "        if entry.is_dir(follow_symlinks=False) and not entry.is_symlink() and recurse(entry):\n",
    """\
import subprocess
import sys
from pathlib import Path

folder = Path("project/folder")
folder.mkdir(parents=True)
(folder / "test_it.py").write_text("def test_it(): pass")
Path("project/link").symlink_to("folder")
done = subprocess.run([sys.executable, "-m", "pytest", "project"], capture_output=True, text=True)
print(done.stdout, done.stderr)
sys.exit(0 if "2 passed" in done.stdout else 2 if "1 passed" in done.stdout else 1)
""",
)
CASES = {"pallets__flask-5014": FLASK, "sympy__sympy-24213": SYMPY, "pytest-dev__pytest-7982": PYTEST}


def block(case: Case, new: str) -> str:
    return f"<edit>\n<<<< SEARCH {case.path}\n{case.old}==========\n{new}>>>> REPLACE\n</edit>"


def engine(case: Case, edits: list[str]) -> ScriptedEngine:
    model = Model(
        [
            ("^Write a Python script", [test(case.script)]),
            ("^Your script ran", [DONE]),
            ("Plan the fix", [block(case, new) for new in edits]),
            ("^Your edit is", [DONE]),
            ("Try again: one edit", [block(case, case.old)]),
            ("^Several candidate", [test(case.script)]),
            ("^The script gave", ["<chosen_candidate_fix_id>0</chosen_candidate_fix_id>"]),
        ]
    )
    return ScriptedEngine(model, context_limit=400_000)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return Path(os.environ.get("PLAIT_CACHE") or tmp_path_factory.mktemp("environments"))


@pytest.fixture(params=CASES)
async def real(request, cache):
    """The benchmark with one instance, ready, and what the model says."""
    pytest.importorskip("swebench")
    repos = os.environ.get("PLAIT_REPOS")
    if repos is None:
        pytest.skip("PLAIT_REPOS names no folder of git mirrors")
    if not DATA.exists():
        pytest.skip("shared evaluation data is not here")
    bench = SweBench(
        data=DATA, repos=Path(repos), cache=cache, sandbox=SANDBOX, grader="local", seconds=100, coverage=True,
        instances=[request.param],
    )  # fmt: skip
    try:
        (sample,) = bench.load()
    except InvalidInput as error:
        pytest.skip(str(error))
    recipe = shipped().find(sample.data)
    try:
        find_python(recipe.python)
        await build(recipe, cache / "environments")
    except InvalidInput as error:
        pytest.skip(f"the environment cannot be made here: {error}")
    return bench, sample, CASES[request.param]


async def test_the_right_edit_is_chosen_and_graded_resolved(real, tmp_path):
    bench, sample, case = real
    await bench.prepare(sample)
    gold = await bench.judge(sample, None, sample.data.patch, "", {})
    nothing = await bench.judge(sample, None, None, "", {})
    assert (gold.correct, gold.reason) == (True, "resolved (local)") and not nothing.correct
    method = {"label": "m", "method": "code_monkeys", "edit_calls": 2, "files": [case.path], "seconds": 60}
    for name, edits, right in (
        ("right", [case.wrong, case.old, case.gold], True),
        ("wrong", [case.wrong, case.old, case.wrong], False),
    ):
        config = EvalConfig(benchmark=bench, methods=[{**method, "n": len(edits)}])
        await run(config, tmp_path / name, engine=engine(case, edits))
        ((_, unit),) = read_units(tmp_path / name)[0].items()
        (row,) = unit.rows
        assert row.correct == right, row.reason
        assert row.extra.numbers["coverage"] == right and row.extra.numbers["context recall"] == 1
        if not right:
            assert row.reason.startswith("unresolved; 1 of 1 FAIL_TO_PASS fail: "), row.reason
