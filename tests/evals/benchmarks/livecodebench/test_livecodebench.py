"""LiveCodeBench: rows unpacked safely, code found and judged, hostile code."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import shutil
import tempfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import Hogwild, InvalidInput, ScriptedEngine, Sequential
from plait.agents.sandbox.base import Execution
from plait.evals import EvalConfig, parse_benchmark, run
from plait.evals.benchmarks.livecodebench import judging
from plait.evals.benchmarks.livecodebench.benchmark import fenced
from plait.evals.benchmarks.livecodebench.judging import _verdict, same_lines, same_value
from plait.evals.benchmarks.livecodebench.problems import Problem

SANDBOX = "bubblewrap" if shutil.which("bwrap") else "local"


def pack(data):
    return base64.b64encode(zlib.compress(pickle.dumps(data))).decode()


def case(given, output, kind="stdin"):
    return {"input": given, "output": output, "testtype": kind}


def row(id, public, private="[]", function=None, starter="", day="2024-09-01T00:00:00"):
    return {
        "question_title": "Sum",
        "question_content": f"Add what there is ({id}).",
        "platform": "leetcode" if function else "atcoder",
        "question_id": id,
        "contest_id": "abc001",
        "contest_date": day,
        "starter_code": starter,
        "difficulty": "easy",
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


STDIN = row("abc_a", [case("1 2\n", "3\n")], pack(json.dumps([case("5 6\n", "11\n"), case("0.5 1\n", "1.50\n")])))
STARTER = "class Solution:\n    def shift(self, values: List[int], by: int) -> List[int]:\n        "
FUNCTION = row("3001", [case("[1, 2]\n3", "[4, 5]", "functional")], "[]", "shift", STARTER, "2025-01-05T00:00:00")
ADD = "print(sum(map(float, input().split())))"
SHIFT = (
    "class Solution:\n    def shift(self, values: List[int], by: int):\n        return tuple(v + by for v in values)"
)


def code(text):
    return f"First I think.\n```python\n{text}\n```\nDone."


def bench(tmp_path, *rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return parse_benchmark({"name": "livecodebench", "data": str(path), "sandbox": SANDBOX, "seconds": 2, **fields})


@pytest.fixture
def judge(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    benchmark = bench(tmp_path, STDIN, FUNCTION)
    stdin, function = benchmark.load()

    def of(text, is_function=False):
        verdict = benchmark.grade(function if is_function else stdin, None, text)
        assert verdict.correct == (verdict.reason == "correct")
        return verdict.reason

    yield of
    assert list(tmp_path.glob("plait-*"))
    benchmark.close()
    benchmark.close()
    assert not list(tmp_path.glob("plait-*"))


def test_rows_of_both_packings(tmp_path):
    stdin, function = bench(tmp_path, STDIN, FUNCTION).load()
    assert [test.output for test in stdin.data.tests()] == ["3\n", "11\n", "1.50\n"]
    assert function.data.function == "shift" and function.data.tests()[0].arguments == [[1, 2], 3]
    assert [sample.id for sample in bench(tmp_path, STDIN, FUNCTION, begin="2025-01-05").load()] == ["3001"]
    assert [sample.id for sample in bench(tmp_path, STDIN, FUNCTION, end="2025-01-04").load()] == ["abc_a"]
    with pytest.raises(InvalidInput, match="between begin and end"):
        bench(tmp_path, STDIN, begin="2025-01-01").load()


class Attack:
    def __reduce__(self):
        return os.mkdir, (os.environ["PLAIT_TEST_ATTACK"],)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"private_test_cases": "no base64!"}, "private_test_cases: not a list in JSON"),
        ({"private_test_cases": base64.b64encode(b"no zlib").decode()}, "private_test_cases: not a list"),
        ({"private_test_cases": base64.b64encode(zlib.compress(b"no pickle")).decode()}, "private_test_cases: not"),
        ({"private_test_cases": pack([1])}, "what is packed is no text"),
        ({"private_test_cases": pack("{}")}, "private_test_cases: not a list"),
        ({"public_test_cases": json.dumps([{"input": "1"}])}, "test 1: a problem needs the field 'output'"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "it has no tests"),
        ({"metadata": json.dumps({"func_name": "f"})}, "metadata: tests of a function"),
        ({"metadata": "[]"}, "metadata: not an object"),
        ({"contest_date": "some day"}, ":1: contest_date: "),
        ({"question_content": 3}, ":1: question_content: "),
    ],
)
def test_wrong_rows(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        bench(tmp_path, {**STDIN, **changes}).load()
    with pytest.raises(InvalidInput, match="problem 3001: test 1: not in JSON"):
        bench(tmp_path, {**FUNCTION, "public_test_cases": json.dumps([case("x", "1", "functional")])}).load()


def test_pickles_run_nothing(tmp_path, monkeypatch):
    made = tmp_path / "made"
    monkeypatch.setenv("PLAIT_TEST_ATTACK", str(made))
    with pytest.raises(InvalidInput, match="it names posix.mkdir"):
        bench(tmp_path, {**STDIN, "private_test_cases": pack(Attack())}).load()
    assert not made.exists()


def test_prompts(tmp_path):
    benchmark = bench(tmp_path, STDIN, FUNCTION)
    stdin, function = benchmark.load()
    system, user = benchmark.prompt(stdin, "sequential")["prompt"]
    assert system["role"] == "system" and system["content"].startswith("You are an expert Python programmer.")
    assert user["content"].startswith(
        "### Question:\nAdd what there is (abc_a).\n\n### Format: Read the inputs from stdin"
    )
    assert user["content"].endswith(
        "\n```python\n# YOUR CODE HERE\n```\n\n### Answer: (use the provided format with backticks)\n\n"
    )
    _, user = benchmark.prompt(function, "sequential")["prompt"]
    assert f"within delimiters.\n```python\n{STARTER}\n```\n\n" in user["content"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\na\nb\n```", "a\nb"),
        ("```\nold\n```\ntext\n```py\nnew\n```\nend", "new"),
        ("```\nold\n```\n```py\ncut off", ""),
        ("x ``` y", None),
        ("", None),
        ("```\n```", ""),
    ],
)
def test_the_last_fence(text, found):
    assert fenced(text) == found


def test_right_and_wrong_solutions(judge):
    assert judge(code(ADD)) == "correct"
    assert judge(code("print(3)")) == "test 2 of 3: wrong answer"
    assert judge(code("a, b = map(int, input().split())\nprint(a + b)")) == "test 3 of 3: ValueError"
    assert judge(code("from __future__ import annotations\nif __name__ == '__main__':\n    " + ADD)) == "correct"
    assert judge(code(ADD + "\nsys.exit(1)")) == "correct"
    assert judge(code("def f(:")) == "test 1 of 3: SyntaxError"
    assert judge("No code at all.") == judge(code("")) == "no code"


@pytest.mark.parametrize(("answer", "reason"), [(ADD + "\n", "correct"), ("print('```')", "wrong"), (None, "no code")])
async def test_code_that_workers_found_stands_outside_its_fence(tmp_path, answer, reason):
    benchmark = bench(tmp_path, STDIN)
    (sample,) = benchmark.load()
    fields = benchmark.prompt(sample, "hogwild")
    method = Hogwild(**fields)
    assert method.answer == "code" and "between ```python and ```" in method.messages[-1]["content"]
    verdict = await benchmark.judge(sample, method, answer, code("print(0)"), {})
    assert reason in verdict.reason
    benchmark.close()


def test_functions(judge):
    assert judge(code(SHIFT), True) == "correct"
    assert (
        judge(code("def shift(values, by):\n    print('noise')\n    return [v + by for v in values]"), True)
        == "correct"
    )
    array = "import numpy\ndef shift(values, by):\n    return "
    assert judge(code(f"{array}numpy.array(values) + by"), True) == "test 1 of 1: TypeError"
    assert judge(code(f"{array}list(numpy.array(values) + by)"), True) == "correct"
    assert judge(code("def shift(values, by):\n    return values"), True) == "test 1 of 1: wrong answer"
    assert judge(code("def other(values, by):\n    return values"), True) == "test 1 of 1: KeyError"
    assert judge(code("def shift(values, by):\n    return {1}"), True) == "test 1 of 1: TypeError"
    assert judge(code("def shift(values, by):\n    exit()"), True) == "test 1 of 1: no value"


@pytest.mark.parametrize(
    ("value", "output", "reason"),
    [
        ("(1, [2])", "[1, [2]]", "correct"),
        ("[(1, 2)]", "[[1, 2]]", "TypeError"),
        ("([{'a': (1,)}],)", '[[{"a": [1]}]]', "TypeError"),
        ("{1: 2}", '{"1": 2}', "TypeError"),
        ("[{'1': 2.0}]", '[{"1": 2}]', "correct"),
        ("a", "1" * 5000, "correct"),
        ("a + 1", "1" * 5000, "wrong answer"),
    ],
)
def test_values_are_equal_as_the_authors_have_it(tmp_path, value, output, reason):
    benchmark = bench(tmp_path, row("3001", [case("1" * 5000, output, "functional")], "[]", "f"))
    (sample,) = benchmark.load()
    found = benchmark.grade(sample, None, code(f"def f(a):\n    return {value}")).reason
    assert found.removeprefix("test 1 of 1: ") == reason
    benchmark.close()


def test_programs_read_and_write_long_numbers(tmp_path):
    benchmark = bench(tmp_path, row("abc_a", [case("1" * 5000, "2" * 5000)]))
    assert benchmark.grade(benchmark.load()[0], None, code("print(2 * int(input()))")).correct
    benchmark.close()


FORGERY = """
import json, os
line = "\\n" + json.dumps({"test": 0, "ended": "exit", "output": "guess"}) + "\\n"
for process in os.listdir("/proc"):
    try:
        if process.isdigit():
            with open(f"/proc/{process}/fd/1", "w") as file:
                file.write(line * 50)
    except OSError:
        pass
print("guess")
"""
REMOVAL = """
import os
for name in os.listdir("."):
    if name not in ("harness.py", "solution.py"):
        os.remove(name)
print(sum(map(float, input().split())))
"""
SEARCH = """
import os
for folder, _, names in os.walk("."):
    for name in names:
        if name.endswith(".json"):
            text = open(os.path.join(folder, name)).read()
            assert "5 6" in text and "11" not in text and "1.50" not in text
print(sum(map(float, input().split())))
"""


def test_hostile_solutions(judge):
    assert judge(code("while True:\n    pass")) == "test 1 of 3: not within 2 s"
    assert judge(code("import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\n" + ADD)) == "correct"
    assert judge(code("print('x' * 10 ** 7)")) == "test 1 of 3: too much output"
    assert judge(code("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")).startswith("test 1 of 3: ")
    assert judge(code(REMOVAL)) == "correct"
    assert judge(code(SEARCH)) == "correct"
    if SANDBOX == "bubblewrap":
        assert judge(code(FORGERY)) == "test 1 of 3: wrong answer"
        assert judge(code("import socket\nsocket.create_connection(('1.1.1.1', 80), 1)")) == "test 1 of 3: OSError"


WAITING = "import time\ntime.sleep(1.5)\n"
"""Longer than the limit of a test, with the second for starting Python."""
CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 1.5: pass"])
"""


@pytest.mark.parametrize(
    ("text", "patience", "reason"),
    [
        (WAITING + ADD, 100, "correct"),
        ("import time\ntime.sleep(60)", 1, "test 1 of 3: not within 0.2 s"),
        (CHILD + ADD, 100, "test 1 of 3: not within 0.2 s"),
        ("import os\nassert os.environ['OMP_NUM_THREADS'] == '1'\n" + ADD, 100, "correct"),
    ],
)
def test_the_limit_of_a_test_counts_what_it_computes(tmp_path, monkeypatch, text, patience, reason):
    monkeypatch.setattr(judging, "PATIENCE", patience)
    benchmark = bench(tmp_path, STDIN, seconds=0.2)
    assert benchmark.grade(benchmark.load()[0], None, code(text)).reason == reason
    benchmark.close()


PROBLEM = Problem.model_validate(STDIN)


async def test_solutions_that_run_and_that_wait_for_their_turn_can_be_cancelled(tmp_path, monkeypatch):
    begun, runs = asyncio.Event(), []

    async def held(*given):
        runs.append(given)
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("plait.evals.benchmarks.livecodebench.benchmark.AT_ONCE", 1)
    monkeypatch.setattr("plait.evals.benchmarks.livecodebench.benchmark.grade", held)
    benchmark = bench(tmp_path, STDIN)
    (sample,) = benchmark.load()
    solutions = [benchmark.judge(sample, Sequential(prompt="p"), None, code(ADD), {}) for _ in range(3)]
    tasks = [asyncio.create_task(solution) for solution in solutions]
    await begun.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks) and len(runs) == 1
    benchmark.close()


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.sampled_from(['{"test": 0}', '{"test": true, "ended": "exit"}', "[" * 9999]))))
def test_any_output_of_the_sandbox_has_a_verdict(lines):
    found = Execution(exit_code=0, output="\n".join(lines), seconds=1.0)
    assert _verdict(found, PROBLEM, PROBLEM.tests(), 2.0) == "test 1 of 3: it did not come to its end"


def test_limits_of_the_whole_are_named():
    found = Execution(exit_code=1, output="", seconds=1.0, ended="memory")
    assert _verdict(found, PROBLEM, PROBLEM.tests(), 2.0) == "test 1 of 3: stopped at the limit of memory"


@pytest.mark.parametrize(
    ("given", "right", "same"),
    [
        ("3", "3\n", True),
        (" 1 \n2 ", "1\n2\n", True),
        ("1 2", "1  2", True),
        ("1.50 2", "1.5 2.0", True),
        ("50000000000000000", "50000000000000001", False),
        ("1\n\n2", "1\n2", False),
        ("Yes", "yes", False),
        ("a 1.0", "a 1", False),
        ("nan", "nan", True),
        ("sNaN 1", "sNaN  1", False),
        ("", "", True),
    ],
)
def test_lines(given, right, same):
    assert same_lines(given, right) == same


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_lines_can_be_compared(given, right):
    assert same_lines(given, given)
    assert same_lines(given, right) in (True, False) and same_value(given, right) in (True, False)


async def test_a_run(tmp_path):
    def student(context):
        return code(ADD) if "abc_a" in context else code("def shift(values, by):\n    return []")

    benchmark = bench(tmp_path, STDIN, FUNCTION, chat=False)
    config = EvalConfig(benchmark=benchmark, methods=[{"method": "sequential"}])
    await run(config, tmp_path / "out", engine=ScriptedEngine(student, context_limit=4000))
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    found = {unit["key"]["sample"]: unit["rows"][0] for unit in rows}
    assert found["abc_a"]["correct"] and found["abc_a"]["extracted"] == ADD
    assert found["3001"]["reason"] == "test 1 of 1: wrong answer"
