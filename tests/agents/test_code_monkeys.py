"""The whole job: every state and every transition, budgets and kills in each of them, on scripted models."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter, deque
from inspect import iscoroutinefunction
from pathlib import Path

import pytest

from plait import Budget, CodeMonkeys, Finish, InvalidInput, InvalidJob, Runtime, ScriptedEngine, Trace
from plait.agents.executions import Executions
from plait.agents.folder import Folder
from plait.agents.machines.machine import Machine
from plait.agents.sandbox.base import Execution
from plait.runtime.methods.nesting import all_inputs
from plait.search.tree_search import TreeSearch
from plait.tests.agents.sources import repository
from plait.tests.agents.tools import (
    GOOD,
    ISSUE,
    PRETENDED,
    RUNS,
    SANDBOX,
    TEST,
    WRONG,
    Model,
    edit,
    run,
    test,
    texttools,
)
from plait.tests.search.nestings import by_length

PASSES_GOOD = "# passes if: raise ValueError\n"
"""A right test, for the pretended sandbox."""
CONTEXT = [
    ("^The file ", ["RELEVANCE: Relevant\nSUMMARY: slugs"]),
    ("^Somebody is to fix", ['```json\n["texttools/slug.py"]\n```']),
]
IRRELEVANT = "RELEVANCE: Not Relevant\nSUMMARY: other things"
DONE = "<done></done>"


def model(
    *,
    tests=None,
    revised=(DONE,),
    edits=None,
    decided=(DONE,),
    again=(),
    selected=None,
    choices=("<chosen_candidate_fix_id>0</chosen_candidate_fix_id>",),
):
    """A model that says these things when it is asked for tests, edits, decisions and choices; where it is not said
    what, it is right."""
    return Model(
        [
            ("^Write a Python script", tests or [test(PASSES_GOOD)]),
            ("^Your script ran", revised),
            ("Plan the fix", edits or [edit(GOOD)]),
            ("^Your edit is", decided),
            ("^Several candidate", selected or [test(PASSES_GOOD)]),
            ("^The script gave", choices),
            *CONTEXT,
            *([("", again)] if again else []),
        ]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return texttools(tmp_path_factory.mktemp("texttools"))


def histories(result, which="edit_trajectories"):
    return [[step["kind"] for step in one["history"]] for one in result.details[which]]


async def test_the_right_edit_is_chosen_by_tests_that_really_run(folder):
    script = model(tests=[test(TEST)], edits=[edit(WRONG), edit(GOOD), edit(GOOD)], selected=[test(TEST)])
    result, _ = await run(script, folder, n=3, sandbox=SANDBOX)
    assert 'raise ValueError("there is no word in the text")' in result.answer
    first, second = result.details["candidates"]
    assert (first["sources"], first["votes"], first["votes_of_reproducing"]) == (["edit 1", "edit 2"], 3, 3)
    assert (second["sources"], second["votes"]) == (["edit 0"], 0)
    assert result.details["chosen_by"] == "selection" and result.finish_reason is Finish.STOP
    assert [one["exit_code"] for one in result.details["tests"]] == [2, 2, 2]


async def test_with_only_wrong_edits_no_test_passes_and_a_candidate_is_given_all_the_same(folder):
    result, _ = await run(model(edits=[edit(WRONG)]), folder)
    assert result.details["candidates"][0]["votes"] == 0
    assert result.answer and result.details["chosen_by"] == "only candidate", "identical candidates are one"
    assert result.details["candidates"][0]["sources"] == ["edit 0", "edit 1"]


async def test_an_edit_that_cannot_be_read_is_said_why_and_tried_again(folder):
    script = model(
        edits=["I would raise an error.", edit("def slugify(:\n    pass\n"), edit(WRONG)],
        again=["still nothing", edit(GOOD)],
    )
    result, _ = await run(script, folder, n=2)
    assert histories(result) == [["misparse", "misparse", "edit", "done"], ["misparse", "edit", "done"]]
    why = [one["history"][0]["text"] for one in result.details["edit_trajectories"]]
    assert "<edit>" in why[0] and "invalid syntax" in why[1]
    assert any("Try again" in said and why[1] in said for said in script.asked), "the model is told"


async def test_edits_and_tests_are_revised_by_what_running_them_shows(folder):
    script = model(
        tests=["no script at all", test("# passes if: never\n# else: 0\n")],
        again=[test("# passes if: never\n# else: 1\n")],
        revised=[test(PASSES_GOOD), DONE],
        edits=[edit(WRONG)],
        decided=["I am not sure <done> or <edit>x</edit>", test("# passes if: raise\n"), edit(GOOD), DONE],
    )
    script.rules[-1][1].extend([edit(GOOD), DONE])
    result, _ = await run(script, folder, n=1)
    assert histories(result, "test_trajectories") == [["misparse", "test", "test", "done"]]
    assert result.details["test_trajectories"][0]["end"] == "done"
    kinds = histories(result)[0]
    assert kinds[0] == "edit" and "misparse" in kinds and kinds[-1] == "done"
    said = "\n".join(script.asked)
    assert "exit code 1" in said.lower() and "the script itself is broken" in said
    assert "raise ValueError" in result.answer


@pytest.mark.parametrize("way", ["several", "open"])
async def test_a_revised_edit_is_read_as_the_first_one_is(folder, way):
    text = f"First:\n{edit(GOOD)}\nOnce more:\n{edit(GOOD)}" if way == "several" else edit(GOOD).removesuffix("</edit>")
    result, _ = await run(model(edits=[edit(WRONG)], decided=[text, DONE]), folder, n=1)
    assert histories(result) == [["edit", "edit", "done"]] and "there is no word" in result.answer


async def test_the_model_is_shown_both_sides(folder):
    script = model(edits=[edit(WRONG)], decided=[edit(GOOD), DONE])
    await run(script, folder, n=1)
    decisions = [said for said in script.asked if said.startswith("Your edit is")]
    assert [said.count("Exit code 2.\n") for said in decisions] == [2, 1], (
        "original and changed; then only the original"
    )
    assert 'or "empty"' in decisions[0] and "there is no word" in decisions[1]


async def test_a_test_that_hangs_is_stopped_and_says_what_it_had_written(folder):
    hangs = "import time\nprint('so far', flush=True)\ntime.sleep(60)\n"
    script = model(tests=[test(hangs)], revised=[test(TEST), DONE])
    result, _ = await run(script, folder, n=1, sandbox=SANDBOX, seconds=1.0)
    told = next(said for said in script.asked if said.startswith("Your script ran"))
    assert "stopped after 1 s" in told and "so far" in told
    assert result.details["tests"][0]["exit_code"] == 2


async def test_a_test_that_passes_before_the_edit_is_said_to_show_nothing(folder):
    script = model(tests=[test("# else: 0\n")], revised=[DONE])
    result, _ = await run(script, folder, n=1)
    assert "does not show the issue" in next(said for said in script.asked if said.startswith("Your script ran"))
    assert result.details["candidates"][0]["votes_of_reproducing"] == 0


async def test_only_tests_that_show_the_issue_count_where_that_is_asked_for(folder):
    """Three tests pass with the wrong edit, which they passed without it too; one shows the issue."""
    answers = [test(f"# passes if: empty\n# else: 0\n# {i}\n") for i in range(3)]
    script = model(tests=[*answers, test(PASSES_GOOD)], edits=[edit(WRONG), edit(WRONG), edit(WRONG), edit(GOOD)])
    fields = {"n": 4, "selection_calls": 0}
    by_all, _ = await run(script, folder, **fields)
    script = model(tests=[*answers, test(PASSES_GOOD)], edits=[edit(WRONG), edit(WRONG), edit(WRONG), edit(GOOD)])
    by_shown, _ = await run(script, folder, vote="reproducing", **fields)
    assert by_shown.details["candidates"][0]["sources"] == ["edit 3"]
    assert by_all.details["candidates"][0]["votes"] == 4, "to those that always pass the right edit is right, too"


@pytest.mark.parametrize("calls", [1, 2, 3])
async def test_calls_are_counted_malformed_ones_too(folder, calls):
    script = model(tests=["nothing"], edits=["nothing"], again=["nothing"])
    result, _ = await run(script, folder, n=1, test_calls=calls, edit_calls=calls)
    assert histories(result) == histories(result, "test_trajectories") == [["misparse"] * calls]
    assert result.details["edit_trajectories"][0]["end"] == "attempts"
    assert (result.answer, result.details["chosen"], result.details["chosen_by"]) == (None, None, "no candidate")


async def test_an_edit_without_a_test_may_ask_for_one(folder):
    script = model(decided=[test(PASSES_GOOD), DONE])
    result, _ = await run(script, folder, n=1, test_calls=0)
    assert any("no test script yet" in said for said in script.asked)
    assert histories(result) == [["edit", "test", "done"]] and len(result.details["tests"]) == 1


@pytest.mark.parametrize(
    "answer, choice",
    [
        ("<chosen_candidate_fix_id>1</chosen_candidate_fix_id>", 1),
        ("<chosen_candidate_fix_id> 0\n</chosen_candidate_fix_id>", 0),
        ("<chosen_candidate_fix_id>7</chosen_candidate_fix_id>", None),
        ("<chosen_candidate_fix_id>0000000009</chosen_candidate_fix_id>", None),
        (f"<chosen_candidate_fix_id>{'9' * 5000}</chosen_candidate_fix_id>", None),
        ("<chosen_candidate_fix_id>²</chosen_candidate_fix_id>", None),
        ("<chosen_candidate_fix_id>-1</chosen_candidate_fix_id>", None),
        ("the first one", None),
    ],
)
async def test_a_choice_is_a_candidate_or_there_is_none(folder, answer, choice):
    script = model(edits=[edit(GOOD), edit(WRONG)], choices=[answer], again=[answer])
    result, _ = await run(script, folder, selection_calls=4)
    assert result.details["chosen"] == (choice or 0)
    assert result.details["chosen_by"] == ("votes" if choice is None else "selection")
    assert ("there is no word" in result.answer) == (choice != 1)


async def test_candidates_of_other_systems_join_and_one_that_does_not_apply_comes_last(folder, tmp_path):
    patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-does not apply\n+raise ValueError\n"
    lines = [
        {"instance_id": name, "model_name_or_path": "other", "model_patch": patch} for name in ("slug-1", "slug-2")
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result, _ = await run(model(edits=[edit(WRONG)]), folder, n=1, candidates=tmp_path / "p.jsonl", instance="slug-1")
    own, other = result.details["candidates"]
    assert (own["sources"], other["sources"], other["applies"]) == (["edit 0"], ["p"], False)


def test_the_model_of_a_stage_is_what_an_evaluation_reads(folder, tmp_path):
    found = []
    for text in ("one", "two"):
        (tmp_path / "config.json").write_text(text)
        found.append(all_inputs(CodeMonkeys(repository=folder, issue="?", models={"edits": str(tmp_path)})))
    assert [one.keys() for one in found] == [{"models.edits.model"}] * 2 and found[0] != found[1]


def test_candidates_of_all_instances_are_what_an_evaluation_reads(folder, tmp_path):
    file = tmp_path / "p.json"
    found = []
    for patches in ({"a": "x", "b": "y"}, {"a": "x", "b": "z"}):
        file.write_text(json.dumps(patches))
        method = CodeMonkeys(repository=folder, issue="?", candidates=file, instance="a")
        found.append([one.model_patch for one in method.inputs()["candidates"]["p"]])
    assert found == [["x", "y"], ["x", "z"]]
    assert CodeMonkeys(repository=folder, issue="?").inputs() == {}


@pytest.mark.parametrize("fields", [{"test_calls": 0, "edit_calls": 1}, {"check_command": ("check", "else: 0")}, {}])
async def test_what_does_not_apply_is_never_chosen(folder, tmp_path, fields):
    """Whatever runs: the prose is shorter than any patch, and no test may be there to see it."""
    (tmp_path / "p.jsonl").write_text(json.dumps({"instance_id": "a", "model_patch": "I found no fix, sorry"}))
    fields = {"candidates": tmp_path / "p.jsonl", "n": 1, **fields}
    result, _ = await run(model(edits=[edit(GOOD)]), folder, **fields)
    own, other = result.details["candidates"]
    assert result.answer == own["patch"] and "raise ValueError" in own["patch"]
    assert (own["applies"], other["applies"], other["sources"]) == (True, False, ["p"])
    result, _ = await run(model(edits=["I see none."], again=["None."]), folder, **fields)
    assert result.answer is None and result.details["chosen_by"] == "no candidate"


async def test_a_patch_without_its_last_newline_is_one(folder, tmp_path):
    result, _ = await run(model(), folder, n=1)
    (tmp_path / "p.json").write_text(json.dumps({"a": result.answer.rstrip("\n")}))
    script = model(edits=["I see none."], again=["None."])
    found, _ = await run(script, folder, n=1, candidates=tmp_path / "p.json")
    assert found.answer == result.answer and found.details["candidates"][0]["sources"] == ["p"]


async def test_a_check_that_a_candidate_breaks_puts_it_behind(folder):
    check = ("check", "passes if: never", "else: 0")
    script = model(edits=[edit(GOOD), edit(WRONG)])
    result, _ = await run(script, folder, check_command=check, selection_calls=0)
    assert [one["keeps"] for one in result.details["candidates"]] == [True, True]
    broken = ("check", "passes if: empty")
    script = model(edits=[edit(GOOD), edit(WRONG)])
    result, _ = await run(script, folder, check_command=broken, selection_calls=0)
    assert result.details["candidates"][0]["keeps"], "it fails on the original code as well: nobody broke it"
    assert result.details["check_before"] == {"exit_code": 2, "ended": "exit", "seconds": 0.01}


async def test_long_files_are_shown_by_their_functions(folder):
    fields = {"n": 1, "scan": 0, "context": "mixed", "functions": 1, "context_tokens": 250}
    result, _ = await run(model(), folder, **fields)
    assert result.details["context"]["parts"] == ["texttools/slug.py::slugify", "texttools/__init__.py"]
    result, _ = await run(model(), folder, **{**fields, "context_tokens": 2_000})
    assert result.details["context"]["parts"][:2] == ["texttools/slug.py", "texttools/__init__.py"]


async def test_what_is_the_same_runs_once(folder):
    RUNS.clear()
    result, _ = await run(model(), folder, n=4)
    assert len(RUNS) == result.details["executions"] == 2, "one test on the original code and on one patch"
    assert set(Counter((patch, tuple(files.values())) for _, patch, files in RUNS).values()) == {1}


# -- budgets ------------------------------------------------------------------------------------------------------


async def test_budgets_end_a_job_in_every_state_gracefully(folder):
    full, _ = await run(model(edits=[edit(GOOD), edit(WRONG)]), folder)
    total, ends = full.usage.total_tokens, set()
    for tokens in [*range(1, 2 * total, max(total // 45, 1)), 3 * total]:
        result, _ = await run(model(edits=[edit(GOOD), edit(WRONG)]), folder, budget=Budget(total_tokens=tokens))
        assert result.usage.total_tokens <= tokens
        assert result.details.keys() == full.details.keys(), "however little there was"
        ends |= {one["end"] for name in ("test", "edit") for one in result.details[f"{name}_trajectories"]}
    assert result.answer == full.answer and result.finish_reason is Finish.STOP
    assert {"budget", "done"} <= ends


async def test_the_critical_path_is_bounded(folder):
    full, _ = await run(model(), folder)
    for tokens in range(1, full.usage.critical_tokens, max(full.usage.critical_tokens // 20, 1)):
        result, _ = await run(model(), folder, budget=Budget(critical_tokens=tokens))
        assert result.usage.critical_tokens <= tokens
        assert result.finish_reason is Finish.CRITICAL_TOKENS and result.details["chosen_by"]


async def test_a_deadline_ends_machines_and_the_job(folder):
    engine = ScriptedEngine(model(), context_limit=60_000, seconds_per_token=0.005)
    result, _ = await run(None, folder, engine=engine, budget=Budget(seconds=0.8))
    assert result.finish_reason is Finish.DEADLINE and result.usage.seconds < 3


async def test_a_context_window_that_is_too_small_is_an_end_like_others(folder):
    script = model(decided=[edit(GOOD), edit(WRONG)] * 20)
    engine = ScriptedEngine(script, context_limit=9_000)
    result, _ = await run(None, folder, engine=engine, n=1, edit_calls=40, context_tokens=2_000)
    assert result.details["edit_trajectories"][0]["end"] == "context" and result.answer


# -- resuming -----------------------------------------------------------------------------------------------------


def stateless(context: str) -> str:
    """A model whose answers depend on the conversation alone, as a resumed job needs it; every kind of answer."""
    said = context.rpartition("<user>")[2]
    turn = context.count("<assistant>")
    if said.startswith("The file"):
        return "RELEVANCE: Relevant\nSUMMARY: s" if "slug" in said else "hm" if turn == 1 else "RELEVANCE: Not Relevant"
    if said.startswith("Somebody"):
        return '```json\n["texttools/slug.py"]\n```'
    if said.startswith("Write a Python"):
        return "no script"
    if said.startswith("Your script ran"):
        return DONE if turn > 3 else test(PASSES_GOOD)
    if "Plan the fix" in said:
        return "no edit"
    if said.startswith("Your edit is"):
        return DONE if turn > 3 else edit(GOOD)
    if said.startswith("Several candidate"):
        return test(PASSES_GOOD)
    if said.startswith("The script gave"):
        return (
            "<chosen_candidate_fix_id>0</chosen_candidate_fix_id>" if turn > 2 else test("# passes if: x\n# else: 1\n")
        )
    return edit(WRONG) if "edit" in said else test("# else: 0\n")


class Killed(BaseException):
    """Ends a job as a kill does: nothing is written after it."""


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_job_killed_in_any_state_goes_on_from_there(folder, tmp_path, monkeypatch, when):
    other = {
        "instance_id": "i",
        "model_name_or_path": "o",
        "model_patch": "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+y\n",
    }
    (tmp_path / "p.json").write_text(json.dumps([other]))
    fields = {"candidates": tmp_path / "p.json", "n": 1}
    whole = ScriptedEngine(stateless, context_limit=60_000)
    expected, _ = await run(None, folder, engine=whole, folder=tmp_path / "whole", **fields)
    states = {
        state for file in (tmp_path / "whole").glob("*/states/*") for state in json.loads(file.read_text())["states"]
    }
    assert states >= {
        "judge", "fix_formatting", "rank", "write_initial_script", "initial_fix_formatting", "exec_script",
        "approve_or_revise_script", "write_initial_edit", "validate_initial_edit", "approve_or_revise", "done",
    }  # fmt: skip
    write, count = Folder.write, 0

    def killing(self, name, value):
        nonlocal count
        is_cost = name.startswith("costs/")  # written in front of a state
        count += not is_cost
        if count < at or (when == "after" and not is_cost):
            write(self, name, value)
        if count >= at:
            raise Killed

    at = 1
    while True:
        path, count = tmp_path / f"{when}-{at}", 0
        first = ScriptedEngine(stateless, context_limit=60_000)
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", killing)
            try:
                await run(None, folder, engine=first, folder=path, **fields)
                break
            except Killed:
                pass
        second = ScriptedEngine(stateless, context_limit=60_000)
        result, _ = await run(None, folder, engine=second, folder=path, **fields)
        assert (result.answer, result.details["candidates"]) == (expected.answer, expected.details["candidates"])
        assert histories(result) == histories(expected)
        assert result.details["costs"]["calls"] >= expected.details["costs"]["calls"], "of both runs"
        assert result.details["executions"] == expected.details["executions"], "of both runs"
        made = len(first.prompts) + len(second.prompts)
        assert made <= len(whole.prompts) + 5, "at most the calls in flight are made again"
        at += 1
    assert at > 25


async def test_costs_are_those_of_all_runs(folder, tmp_path):
    async def costs() -> dict:
        engine = ScriptedEngine(stateless, context_limit=60_000)
        result, _ = await run(None, folder, engine=engine, n=1, folder=tmp_path / "f")
        found = result.details["costs"]
        assert all(stage.pop("seconds") >= 0 for stage in found["stages"].values())
        executions.append(result.details["executions"])
        return found

    executions: list[int] = []
    first = await costs()
    assert first["calls"] and await costs() == first, "nothing was asked again"
    edits = next((tmp_path / "f").glob("*/costs/edits.json"))
    edits.write_text('{"calls": 1}')
    with pytest.raises(InvalidInput, match="edits.json is damaged"):
        await costs()
    edits.unlink()  # as in a folder from before they were kept
    assert (await costs())["stages"]["edits"]["calls"] == 0
    assert executions[0] and set(executions) == {executions[0]}


KILL = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from plait.tests.agents.test_code_monkeys import stateless
from plait.tests.agents.tools import run
from plait import ScriptedEngine
engine = ScriptedEngine(stateless, context_limit=60_000, seconds_per_token=0.001)
asyncio.run(run(None, Path(sys.argv[1]), engine=engine, folder=Path(sys.argv[2])))
"""


async def test_a_process_that_is_killed_leaves_what_goes_on(folder, tmp_path):
    root, kept = str(Path(__file__).parents[2]), tmp_path / "f"
    for files in (2, 7):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILL, str(folder), str(tmp_path / "f"), root
        )
        while process.returncode is None and len(list(kept.glob("*/states/*.json"))) < files:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    result, engine = await run(
        None, folder, engine=ScriptedEngine(stateless, context_limit=60_000), folder=tmp_path / "f"
    )
    assert "raise ValueError" in result.answer


def thinking(context: str) -> str:
    """`stateless`, long enough that most budgets end amid an answer."""
    return "I think about it. " * 40 + "\n" + stateless(context)


async def test_what_ended_for_want_of_tokens_goes_on_with_more(folder, tmp_path):
    """Also where an answer was cut: it is not taken for one that the model got wrong, but asked for again."""

    async def once(name, budget=None):
        engine = ScriptedEngine(thinking, context_limit=60_000)
        fields = {"n": 1, "test_calls": 4, "edit_calls": 4, "files": ("texttools/slug.py",)}
        return (await run(None, folder, engine=engine, folder=tmp_path / name, budget=budget, **fields))[0]

    full = await once("full")
    for tokens in range(1_000, full.usage.total_tokens, full.usage.total_tokens // 5):
        short = await once(str(tokens), Budget(total_tokens=tokens))
        assert short.finish_reason is Finish.TOTAL_TOKENS
        for one in (*short.details["test_trajectories"], *short.details["edit_trajectories"]):
            assert one["calls"] == len(one["history"])
        result = await once(str(tokens))
        assert result.answer == full.answer and histories(result) == histories(full)
        assert result.details["test_trajectories"] == full.details["test_trajectories"]


async def test_a_test_that_the_deadline_cut_is_no_result_and_runs_again(folder, tmp_path, monkeypatch):
    fields = {"n": 1, "files": ("texttools/slug.py",), "candidates": tmp_path / "p.json"}
    fields |= {"test_calls": 3, "edit_calls": 3, "selection_calls": 2}
    other = "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+y\n"
    (tmp_path / "p.json").write_text(json.dumps({"i": other}))
    expected, _ = await run(stateless, folder, **fields)
    execute = Executions._execute

    async def late(self, *given):
        nonlocal left
        left -= 1
        is_late = left < 0
        return (
            Execution(exit_code=1, output="", seconds=0.0, ended="deadline") if is_late else await execute(self, *given)
        )

    ends = set()
    for count in range(expected.details["executions"]):
        left, path = count, tmp_path / str(count)
        engine = ScriptedEngine(stateless, context_limit=60_000)
        with monkeypatch.context() as patch:
            patch.setattr(Executions, "_execute", late)
            result, _ = await run(None, folder, engine=engine, folder=path, **fields)
        ends |= {(which, result.details[f"{which}_trajectories"][0]["end"]) for which in ("test", "edit")}
        second = ScriptedEngine(stateless, context_limit=60_000)
        result, _ = await run(None, folder, engine=second, folder=path, **fields)
        assert result.finish_reason is Finish.STOP
        assert histories(result, "test_trajectories") == histories(expected, "test_trajectories")
        assert not any("no time left" in said for said in (*engine.prompts, *second.prompts))
    assert ends >= {("test", "deadline"), ("edit", "deadline")}


async def test_what_makes_another_job_begins_anew(folder, tmp_path):
    engines = []
    for n, name in ((1, "a"), (1, "a"), (2, "a"), (1, "b")):
        engines.append(ScriptedEngine(stateless, context_limit=60_000, name=name))
        await run(
            None, folder, engine=engines[-1], n=n, folder=tmp_path / "f", prices={name: {"input": n, "output": 1}}
        )
    calls = [len(engine.prompts) for engine in engines]
    assert calls[1] == 0 < calls[0] == calls[3] < calls[2]


async def test_candidates_are_not_read_for_what_makes_a_job_the_same(folder, tmp_path, monkeypatch):
    (tmp_path / "p.json").write_text(json.dumps({"a": "x"}))
    method = CodeMonkeys(repository=folder, issue="?", candidates=tmp_path / "p.json")
    with monkeypatch.context() as patched:
        patched.setattr("plait.agents.fields.read_systems", None)
        assert "inputs" not in method.identity()
    monkeypatch.setattr(CodeMonkeys, "identity", None)
    result, _ = await run(model(), folder, n=1)
    assert result.answer is not None, "nothing is kept: it is no one's to go on with"


async def test_a_selection_is_not_taken_for_other_candidates(folder, tmp_path):
    """It chose the third of three; then others are given, as many and fewer."""

    def given(*names):
        for file in (tmp_path / "given").glob("*"):
            file.unlink()
        for name in names:
            patch = f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+raise ValueError\n"
            (tmp_path / "given" / f"{name}.json").write_text(json.dumps({"a": patch}))

    (tmp_path / "given").mkdir()
    fields = {"folder": tmp_path / "f", "candidates": tmp_path / "given", "n": 1}
    for names, number, calls in [("ab", 2, True), ("ab", 2, False), ("xy", 1, True), ("x", 1, True), ("x", 1, False)]:
        given(*names)
        script = model(edits=[edit(WRONG)], choices=[f"<chosen_candidate_fix_id>{number}</chosen_candidate_fix_id>"])
        result, _ = await run(script, folder, **fields)
        assert (result.details["chosen"], result.details["chosen_by"]) == (number, "selection")
        assert any(said.startswith("Several candidate") for said in script.asked) == calls


async def test_a_damaged_state_is_said(folder, tmp_path):
    await run(model(), folder, n=1, folder=tmp_path / "f")
    (state,) = (tmp_path / "f").glob("*/states/edit 0.json")
    for damaged in [
        {"state": 7},
        {"state": "no such"},
        {"state": "run"},
        {"state": "validate_initial_edit", "history": []},
        {"state": "exec_script"},
    ]:
        state.write_text(json.dumps(damaged))
        with pytest.raises(InvalidInput, match="edit 0.json is damaged"):
            await run(model(), folder, n=1, folder=tmp_path / "f")


@pytest.mark.parametrize("machine", Machine.__subclasses__())
def test_every_state_says_what_it_needs(machine):
    states = {name for name, value in vars(machine).items() if iscoroutinefunction(value) and not name.startswith("_")}
    assert states == machine.needs.keys() and machine.first in states


# -- what is shown and what is refused -------------------------------------------------------------------------------


async def test_events_and_trace_tell_states_and_tools(folder, tmp_path):
    engine = ScriptedEngine(model(), context_limit=60_000)
    async with Runtime(engine=engine) as runtime:
        fields = {"issue": ISSUE, "project": "texttools", "n": 1, "edits": "functions", "sandbox": PRETENDED}
        job = await runtime.submit(CodeMonkeys(repository=folder, **fields), trace_file=tmp_path / "t.jsonl")
        events = [event async for event in job]
        result = await job
    seen = Counter(event.type for event in events)
    assert seen["tool_started"] == seen["tool_finished"] == len(result.trace.tools) > 0
    states = [event.state for event in events if event.type == "state_entered"]
    assert {"relevance", "tests", "edits", "votes", "write_initial_script", "exec_script", "done"} <= set(states)
    trace = Trace.load(tmp_path / "t.jsonl")
    assert [state.state for state in trace.states] == states
    assert all(tool.arguments["reproduce.py"] == PASSES_GOOD for tool in trace.tools)
    labels = {branch.label for branch in trace.branches.values()}
    assert {"issue of texttools", "test 0", "edit 0", "texttools/slug.py"} <= labels


async def is_running(mark):
    found = await asyncio.create_subprocess_exec("pgrep", "-f", mark, stdout=asyncio.subprocess.DEVNULL)
    return await found.wait() == 0


async def test_a_cancelled_job_leaves_nothing(folder):
    mark = f"of-{os.getpid()}"  # other tests run beside this one
    sleeps = test(
        f"import os, sys\nos.execv(sys.executable, ['python', '-c', 'import time; time.sleep(50)', '{mark}'])\n"
    )
    engine = ScriptedEngine(model(tests=[sleeps]), context_limit=60_000)
    async with Runtime(engine=engine) as runtime:
        fields = {"repository": folder, "issue": ISSUE, "n": 2, "edits": "functions", "sandbox": SANDBOX}
        job = await runtime.submit(CodeMonkeys(**fields))
        async for event in job:
            if event.type == "tool_started":
                break
        for _ in range(100):
            if await is_running(mark):
                break
            await asyncio.sleep(0.05)
        assert await is_running(mark)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    assert not engine.branches
    assert not await is_running(mark)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"repository": "/nowhere"}, "nowhere"),
        ({"commit": "0123456"}, "no commit '0123456'"),
        ({"commit": "--help"}, "is no commit"),
        ({"files": ("texttools/none.py",)}, "no text file 'texttools/none.py'"),
        ({"encoding": "parallel"}, "parallel contexts"),
        ({"candidates": "/nowhere.json"}, "nowhere"),
        ({"issue": "word " * 10_000}, "of the 60000 of scripted's context they may take 30000"),
    ],
)
async def test_wrong_input_is_refused_before_any_work(folder, fields, message):
    engine = ScriptedEngine("x", context_limit=60_000)
    async with Runtime(engine=engine) as runtime:
        with pytest.raises((InvalidInput, Exception), match=message) as caught:
            given = {"repository": folder, "issue": ISSUE, "sandbox": PRETENDED, **fields}
            await runtime.submit(CodeMonkeys(**given))
    assert type(caught.value).__module__ == "plait.runtime.errors" and not engine.prompts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"suffixes": (".js", ".ts")},
            "nothing to show of texttools: no text file but tests and empty ones ends in .js or .ts",
        ),
        ({"context_tokens": 20}, "fits into the 20 tokens of context"),
        ({"context_tokens": 40, "files": ("texttools/slug.py",)}, "fits into the 40 tokens of context"),
        ({"context_tokens": 40, "files": ("texttools/slug.py",), "context": "functions"}, "fits into the 40 tokens"),
    ],
)
async def test_a_job_that_can_show_nothing_asks_nothing(folder, fields, message):
    await check_shows_nothing(folder, fields, message)


async def check_shows_nothing(tree, fields, message):
    engine = ScriptedEngine(model(), context_limit=60_000)
    with pytest.raises(InvalidInput, match=message):
        await run(None, tree, engine=engine, **fields)
    assert not engine.prompts


LARGE = "def large(x):\n" + "    x = x + 1\n" * 40
CONTEXT_OF_60 = {"context_tokens": 60, "n": 1, "test_calls": 0, "edit_calls": 1}


@pytest.mark.parametrize(
    ("files", "fields", "message"),
    [
        ({"a.py": ""}, {}, "no text file but tests and empty ones ends in .py"),
        *(({"a.py": "\n", "b.py": LARGE}, {"context": one}, "60 tokens") for one in ("files", "mixed", "functions")),
        ({"a.py": "", "b.py": LARGE}, {"files": ("a.py", "b.py")}, "60 tokens"),
        ({"a.py": "A = 1\n", "b.py": LARGE}, {"context": "functions", "scan": 0}, "60 tokens"),
        ({"a.py": "A = 1\n", "b.py": LARGE}, {"context": "functions", "files": ("a.py", "b.py")}, "60 tokens"),
    ],
)
async def test_what_is_never_shown_is_nothing_to_show(tmp_path, files, fields, message):
    await check_shows_nothing(repository(tmp_path, files), {**CONTEXT_OF_60, **fields}, message)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"context": "functions"}, ["a.py"]),
        ({"context": "mixed", "scan": 0}, ["a.py"]),
        ({"files": ("empty.py",)}, ["empty.py"]),
    ],
)
async def test_a_small_file_is_shown_beside_a_function_that_does_not_fit(tmp_path, fields, shown):
    """Where the model finds it alone relevant, or files are shown as well; an empty one where it alone is named."""
    tree = repository(tmp_path, {"a.py": "A = 1\n", "b.py": LARGE, "empty.py": ""})
    script = model(edits=["I see none."], again=["None."])
    script.rules.insert(0, (re.compile("^The file .*(large|empty)", re.DOTALL), deque([IRRELEVANT])))
    result, _ = await run(script, tree, **CONTEXT_OF_60, **fields)
    assert [one for one in result.details["context"]["parts"] if one in shown] == shown


@pytest.mark.parametrize(
    "fields",
    [
        {"issue": ""},
        {"issue": "\ud800"},
        {"edits": "poem"},
        {"sandbox": {"sandbox": "moon"}},
        {"models": {"sleep": "x"}},
        {"models": {"edits": {"model": ""}}},
        {"prices": {"m": {"input": -1, "output": 0}}},
        {"n": 0},
        {"vote": "some"},
        {"check_command": ("", "-q")},
        {"check_command": ("a", "b\0c")},
        {"seconds": float("nan")},
    ],
)
def test_wrong_fields_are_refused_when_it_is_made(folder, fields):
    with pytest.raises((InvalidJob, InvalidInput)):
        CodeMonkeys(**{"repository": folder, "issue": ISSUE, "sandbox": PRETENDED, **fields})


async def test_it_is_json(folder):
    made = CodeMonkeys(repository=folder, issue=ISSUE, sandbox=SANDBOX, models={"relevance": "small"})
    again = CodeMonkeys(**json.loads(made.model_dump_json()))
    assert again == made and type(again.sandbox) is type(made.sandbox)


async def test_a_search_writes_the_answers_of_a_stage(folder):
    whole = model(edits=[edit(GOOD)])

    def script(context):
        head, _, written = context.rpartition("<assistant>")
        answer = whole(f"{head}<assistant>")
        return answer.removeprefix(written)

    search = TreeSearch(
        prompt="-", width=2, strategy="beam", reward=by_length, delimiters=("```\n",), step_tokens=600, max_tokens=3000
    )
    result, _ = await run(script, folder, n=2, generators={"edits": search.model_dump(mode="json")})
    assert 'raise ValueError("there is no word in the text")' in result.answer
    assert all("edit" in kinds and kinds[-1] == "done" for kinds in histories(result))
    assert any(branch.scores for branch in result.trace.branches.values())
    assert result.usage.total_tokens == result.usage.generated_tokens + result.usage.injected_tokens
    with pytest.raises(InvalidJob, match="unknown method"):
        await run(script, folder, generators={"edits": {"method": "nobody"}})
