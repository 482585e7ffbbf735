"""`plait fix` on a tiny repository, by scripted models."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from plait import ScriptedEngine, Trace
from plait.agents.fix_report import print_patch
from plait.agents.working_copy import apply
from plait.runtime.cli.main import main
from plait.runtime.engines.registry import register_scheme
from plait.tests.agents.sandbox.tools import needs_bubblewrap
from plait.tests.agents.sources import git
from plait.tests.agents.tools import GOOD, ISSUE, RUNS, SANDBOX, SLUG, TEST, WRONG, Model, edit, test, texttools

MODELS: dict[str, Model] = {}
register_scheme("test_fix", lambda rest, options: ScriptedEngine(MODELS[rest], context_limit=60_000))

SHOWS = "# passes if: raise ValueError\n"
"""A right test, for the pretended sandbox."""
TESTS, EDITS = (test(SHOWS),), (edit(GOOD),)
DONE = "<done></done>"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own").mkdir()
    return texttools(tmp_path / "own" / "texttools")


@pytest.fixture
def fix(tmp_path, capsys):
    """Runs the command with a model that says these things; (exit status, standard output, standard error)."""

    def command(path, *arguments, issue=ISSUE, tests=TESTS, edits=EDITS, decided=(DONE,), sandbox="test_pretended"):
        MODELS["model"] = Model(
            [
                ("^Write a Python script", tests),
                ("^Your script ran", [DONE]),
                ("Plan the fix", edits),
                ("^Your edit is", decided),
                ("", ["I do not know."]),
            ]
        )
        common = ["--model", "test_fix:model", "--small", "--n", "2"]
        status = main(["fix", str(path), "--issue", issue, *common, "--sandbox", sandbox, *arguments])
        return status, *capsys.readouterr()

    return command


def contents(folder):
    """Every file but git's own, its index and objects."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def refused(found):
    status, out, err = found
    assert (status, out) == (1, "")
    assert err.startswith("plait: ") and err.count("\n") == 1, err
    return err


def test_a_patch_is_found_and_nothing_touched(folder, fix, tmp_path):
    before = contents(folder)
    out, trace = tmp_path / "patch.diff", tmp_path / "trace.jsonl"
    edits = [edit(WRONG), edit(GOOD)]
    found = fix(
        folder, "--out", str(out), "--trace", str(trace), tests=[test(TEST)], edits=edits, sandbox=SANDBOX["sandbox"]
    )
    status, patch, said = found
    assert status == 0 and contents(folder) == before
    assert patch == out.read_text() and '+        raise ValueError("there is no word in the text")\n' in patch
    assert "tests: 2 of 2 show the issue, 2 of them pass with the patch:\n    import sys\n" in said
    assert "chosen: by votes, out of 2 candidates; it passes 2 of all 2 tests; proposed by edit 1\n" in said
    assert "cost: 8 model calls, " in said and " runs of tests; " in said and "price" not in said
    assert (
        f"the patch is in {out}" in said
        and f"nothing in {folder} is changed: git -C {folder} apply {out} does that" in said
    )
    assert "stop: a patch" in said  # The live view, which does not repeat the patch.
    assert Trace.load(trace).end["finish"] == "stop"
    git(folder, "apply", str(out))
    assert "raise ValueError" in (folder / "texttools/slug.py").read_text()


@pytest.mark.parametrize("errors", ["strict", "backslashreplace"])
def test_a_patch_is_printed_byte_for_byte_whatever_the_encoding(errors, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", errors=errors))
    print_patch("+# \u0416 \udce9\r\n")
    assert written.getvalue() == b"+# \xd0\x96 \xe9\r\n"


def test_a_patch_kept_in_the_repository_is_a_change_of_it(folder, fix):
    said = fix(folder, "--out", str(folder / "patch.diff"))[2]
    assert f"nothing else in {folder} is changed" in said


def test_an_empty_repository_is_refused_before_any_call(fix, tmp_path):
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    assert "has no files to work on" in refused(fix(tmp_path / "empty"))
    assert not MODELS["model"].asked


def test_files_of_other_languages_are_shown_when_they_are_asked_for(fix, tmp_path):
    (tmp_path / "js").mkdir()
    (tmp_path / "js/slug.js").write_text("function slugify() {}\n")
    status, _, said = fix(tmp_path / "js")
    assert (
        status == 1
        and "\nplait: there is nothing to show of js: no text file but tests and empty ones ends in .py; " in said
    )
    assert not MODELS["model"].asked
    fix(tmp_path / "js", "--field", 'suffixes=[".js"]')
    assert any("function slugify() {}" in said for said in MODELS["model"].asked)


def test_uncommitted_changes_are_worked_on_and_kept(folder, fix):
    (folder / "texttools/slug.py").write_text(SLUG.replace("hyphens", "dashes"))
    (folder / "texttools/new.py").write_text("NEW = 1\n")
    good = GOOD.replace("hyphens", "dashes")
    index = git(folder, "status", "--porcelain")
    status, patch, said = fix(folder / "texttools", "--apply", edits=[edit(good)])
    assert status == 0 and f"applied to {folder}" in said
    assert "dashes" in patch and "hyphens" not in patch and "new.py" not in patch
    text = (folder / "texttools/slug.py").read_text()
    assert text.count("dashes") == 1 and "raise ValueError" in text
    assert (folder / "texttools/new.py").read_text() == "NEW = 1\n" and git(folder, "status", "--porcelain") == index


def test_a_folder_without_git(folder, fix):
    subprocess.run(["rm", "-rf", str(folder / ".git")], check=True)
    before = contents(folder)
    status, patch, said = fix(folder)
    assert status == 0 and contents(folder) == before and "--apply does that, --out FILE keeps the patch" in said
    apply(folder, patch)
    assert "raise ValueError" in (folder / "texttools/slug.py").read_text()


def test_what_changed_meanwhile_is_not_touched(folder, fix, monkeypatch):
    real = apply

    def late(path, patch):
        (folder / "texttools/slug.py").write_text("# rewritten\n")
        real(path, patch)

    monkeypatch.setattr("plait.agents.fix.apply", late)
    status, patch, said = fix(folder, "--apply")
    assert status == 1 and patch and f"plait: the patch does not fit {folder}: " in said
    assert (folder / "texttools/slug.py").read_text() == "# rewritten\n"


def test_no_candidate(folder, fix, tmp_path):
    out = tmp_path / "patch.diff"
    status, patch, said = fix(folder, "--apply", "--out", str(out), edits=["It cannot be done."])
    assert (status, patch) == (1, "") and not out.exists()
    assert (
        "no patch: none of 2 trajectories gave an edit (attempts: 2); the last answer that could not be read: " in said
    )
    assert "cost: " in said and "applied" not in said


def test_weak_evidence_is_said(folder, fix):
    _, _, said = fix(folder, tests=[test("# passes if: def\n# else: 1\n")])
    assert "tests: none of 2 shows the issue; look at the patch with care\n" in said
    _, _, said = fix(folder, tests=[test("# passes if: never\n")])
    assert "tests: 2 of 2 show the issue, 0 of them pass with the patch; look at it with care\n" in said
    forbidden = """python -c 'exit("raise ValueError" in open("texttools/slug.py").read())'"""
    _, _, said = fix(folder, "--field", "test_calls=0", "--check", forbidden, sandbox=SANDBOX["sandbox"])
    assert "tests: none were written; nothing was run to see whether it is right\n" in said
    assert "chosen: the only candidate; proposed by edit 0, edit 1; the check command fails with it\n" in said


def test_what_a_model_writes_cannot_steer_the_terminal(folder, fix, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    evil = GOOD.replace("no word", "no \x1b]0;pwned\x07\x1b[2Jword")
    status, patch, said = fix(folder, tests=[test(SHOWS + "# \x1b[2J\n")], edits=[edit(evil)])
    assert status == 0 and "\\x1b[2Jword" in patch and "\x1b[2J" not in patch and "\x1b]0;" not in patch + said
    assert "# \\x1b[2J" in said


def test_fields_and_options(folder, fix, tmp_path):
    RUNS.clear()
    trace = tmp_path / "trace.jsonl"
    prices = '{"scripted": {"input": 2, "output": 10}}'
    options = ["--check", 'python -m pytest -k "a b"', "--seed", "3", "--budget", "total_tokens=90000"]
    fields = ["--field", "vote=all", "--field", f"prices={prices}", "--field", "edit_calls=2", "--field", "n=1"]
    status, _, said = fix(folder, *options, *fields, "--trace", str(trace))
    head = Trace.load(trace).header
    method = head["method"]
    assert status == 0 and head["seed"] == 3 and "; price 0." in said
    assert ("python", "-m", "pytest", "-k", "a b") in {command for command, _, _ in RUNS}
    assert [method[name] for name in ("vote", "edit_calls", "n", "edits", "scan")] == ["all", 2, 1, "functions", 0]
    assert method["project"] == "texttools" and method["issue"] == ISSUE


def test_a_budget_that_no_question_fits_is_said(folder, fix):
    status, patch, said = fix(folder, "--budget", "total_tokens=30")
    assert (status, patch) == (1, "") and "(budget: 2)" in said and "for want of tokens" in said


def test_the_python_of_the_tests(folder, fix, tmp_path):
    trace = tmp_path / "trace.jsonl"

    def python(*arguments):
        assert fix(folder, *arguments, "--trace", str(trace), tests=[test(TEST)], sandbox="local")[0] == 0
        return Trace.load(trace).header["method"]["sandbox"]["environment"]["python"]

    assert python() is None
    assert python("--python", sys.executable) == sys.executable
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "python").symlink_to(sys.executable)
    assert python() == str(folder / "venv")
    assert "--python: the sandbox test_pretended has its own" in refused(fix(folder, "--python", sys.executable))


def test_the_issue(folder, fix, tmp_path, monkeypatch):
    file, trace = tmp_path / "issue.md", tmp_path / "trace.jsonl"
    file.write_text("It is in a file.\n")

    def issue(given):
        assert fix(folder, "--trace", str(trace), issue=given)[0] == 0
        return Trace.load(trace).header["method"]["issue"]

    assert issue(str(file)) == "It is in a file.\n"
    assert issue("It is here. " * 1000) == "It is here. " * 1000
    monkeypatch.setattr("sys.stdin", io.StringIO("It comes from standard input."))
    assert issue("It is \udcc3\udca9.") == "It is é."  # as Python reads it where the locale's encoding is ASCII
    assert "the issue cannot be read" in refused(fix(folder, issue="It is \udcff."))
    assert issue("-") == "It comes from standard input."
    assert "cannot read no-such-file.md" in refused(fix(folder, issue="no-such-file.md"))
    assert "cannot read" in refused(fix(folder, issue=str(tmp_path)))
    file.write_bytes(b"\xff\xfe")
    assert "cannot read" in refused(fix(folder, issue=str(file)))
    file.write_text("  \n")
    assert "the issue is empty" in refused(fix(folder, issue=str(file)))


def test_wrong_input_is_one_line(folder, fix, tmp_path):
    assert "is no folder" in refused(fix(tmp_path / "none"))
    assert "is no folder" in refused(fix(folder / "README.md"))
    assert "--out: " in refused(fix(folder, "--out", str(tmp_path / "none" / "x.diff")))
    assert "--trace: " in refused(fix(folder, "--trace", str(tmp_path / "none" / "x.jsonl")))
    issue = tmp_path / "issue.md"
    issue.write_text("It is wrong.")
    for option in ("--out", "--trace"):
        assert "would be overwritten" in refused(fix(folder, option, str(issue), issue=str(issue)))
    assert "is in the repository" in refused(fix(folder, "--folder", str(folder / "job")))
    assert "unknown sandbox 'cell'" in refused(fix(folder, sandbox="cell"))
    assert "No closing quotation" in refused(fix(folder, "--check", "run 'x"))
    assert "the command is empty" in refused(fix(folder, "--check", " "))
    assert "check_command: a command is at least one word" in refused(fix(folder, "--check", "''"))
    assert "--field issue: " in refused(fix(folder, "--field", "issue=other"))
    assert "colour" in refused(fix(folder, "--field", "colour=red"))
    assert "n: " in refused(fix(folder, "--n", "0"))
    assert "no model" in refused(fix(folder, "--model", "no-such-model"))


def test_without_a_sandbox_it_says_what_to_do(folder, fix, monkeypatch):
    monkeypatch.setattr("plait.agents.sandbox.bubblewrap.shutil.which", lambda *_, **__: None)
    said = refused(fix(folder, sandbox="bubblewrap"))
    assert "install the package `bubblewrap`" in said and "--sandbox local" in said


@needs_bubblewrap
def test_a_wrong_python_is_no_reason_to_do_without_a_sandbox(folder, fix, tmp_path):
    said = refused(fix(folder, "--python", str(tmp_path / "none"), sandbox="bubblewrap"))
    assert "is no Python that runs" in said and "--sandbox local" not in said
    # It says that it is another Python, which is in no folder that is shown inside.
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh\necho '["{python}", [], "3.11"]'\n""")
    python.chmod(0o755)
    said = refused(fix(folder, "--python", str(python), sandbox="bubblewrap"))
    assert f"cannot start {python}" in said and said.endswith("--python names another Python\n")


def test_it_goes_on_from_its_folder(folder, fix, tmp_path):
    job = tmp_path / "job"
    _, first, said = fix(folder, "--folder", str(job))
    assert "the same command with --apply does that, without asking the model again" in said
    RUNS.clear()
    assert "cost: 8 model calls" in said
    status, again, said = fix(folder, "--folder", str(job), "--apply", edits=["I have forgotten it."])
    assert status == 0 and again == first and not RUNS and "cost: 8 model calls" in said, "those of the first time"
    assert "raise ValueError" in (folder / "texttools/slug.py").read_text()
    assert "10 model calls" in fix(folder, "--folder", str(job))[2], "the files are other ones now: another job"


def test_an_interruption_says_how_to_go_on(folder, fix, tmp_path, monkeypatch):
    job = tmp_path / "job"

    async def interrupted(events, **_):
        async for event in events:
            if event.type == "state_entered" and event.state == "exec_script":
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("plait.agents.fix.watch", interrupted)
        status, out, said = fix(folder, "--folder", str(job))
    assert (status, out) == (130, "") and f"what is done is in {job}: the same command goes on" in said
    assert fix(folder, "--folder", str(job))[0] == 0


def test_nothing_is_left_behind(folder, fix, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    assert fix(folder)[0] == 0
    fix(folder, "--model", "no-such-model")
    assert list(place.iterdir()) == []


def test_a_bare_repository_has_no_files_to_work_on(folder, fix, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", str(folder), "bare.git")
    status, patch, said = fix(tmp_path / "bare.git")
    assert (status, patch) == (1, "") and "bare repository" in said and "give a checkout" in said


@pytest.mark.parametrize(
    ("check", "what"),
    [
        ("passes if: never", "the check fails without the patch, too (exit code 2)"),
        ("ended: timeout", "the check does not come to its end without the patch (stopped after 0 s)"),
        ("ended: deadline", "the check did not come to its end before the deadline"),
    ],
)
def test_a_check_that_says_nothing_is_said_to_say_nothing(folder, fix, check, what):
    said = fix(folder, "--check", f"check '{check}'")[2]
    assert f"{what}: it says nothing of the patch\n" in said and "fails with it" not in said
