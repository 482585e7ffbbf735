"""From a repository and an answer to a patch in the user's files."""

from __future__ import annotations

import pytest

from plait.agents.edits.base import FORMS, EditError, Excerpt, Source
from plait.agents.edits.reader import read_edit
from plait.agents.outline import functions
from plait.agents.patches import make_patch
from plait.agents.repository import Repository
from plait.agents.working_copy import apply, working_copy
from plait.tests.agents.sources import git, repository, tree, write

CODE = "class A:\r\n    def f(self):\r\n        return 1\r\n\r\n    def g(self):\r\n        return 2"
ANSWERS = {
    "blocks": "<edit>\n<<<< SEARCH a b.py\n        return 2\n==========\n        return 3\n>>>> REPLACE\n</edit>",
    "functions": "```python\ndef g(self):\n    return 3\n```",
    "files": '<edit>\n<file path="a b.py">\n' + CODE.replace("\r", "").replace("2", "3") + "\n</file>\n</edit>",
    "diff": (
        "<edit>\n--- a/a b.py\n+++ b/a b.py\n@@ -9,2 +9,2 @@\n"
        "     def g(self):\n-        return 2\n+        return 3\n</edit>"
    ),
}
NEW = CODE.replace("2", "3") + "\r\n"


@pytest.mark.parametrize("is_git", [True, False])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_becomes_a_change_of_the_users_files(tmp_path, name, is_git):
    files = {"a b.py": CODE, "logo.png": b"\0"}
    if is_git:
        # What the user has now counts, not what is committed.
        write(repository(tmp_path, {**files, "a b.py": "old"}), files)
    else:
        write(tmp_path, files)
    with working_copy(tmp_path) as copy:
        texts = copy.files()
        whole = [Excerpt(path="a b.py", text=texts["a b.py"])]
        shown = functions("a b.py", texts["a b.py"]) if name == "functions" else whole
        source = Source(files=texts, excerpts=shown, paths=copy.paths())
        edit = read_edit(FORMS.find(name)(), ANSWERS[name], source)
        patch = make_patch(texts, edit, executable=copy.executable)
        # The patch fits the commit, and what comes of it is the edit.
        work = tmp_path.parent / f"{tmp_path.name}-work"
        git(tmp_path.parent, "clone", "-q", "--no-local", str(copy.path), str(work), "--no-checkout")
        git(work, "checkout", "-q", copy.commit)
        git(work, "apply", "--index", "--whitespace=nowarn", "-", stdin=patch.encode())
        assert tree(work) == {"a b.py": NEW.encode(), "logo.png": b"\0"}
        with pytest.raises(EditError, match="no text file|already"):
            read_edit(FORMS.find("files")(), '<edit><file path="logo.png">\nx\n</file></edit>', source)
    apply(tmp_path, patch)
    assert tree(tmp_path) == {"a b.py": NEW.encode(), "logo.png": b"\0"}


def test_programs_stay_programs(tmp_path):
    """A renamed one and a new one; a plain file that is renamed stays one."""
    repository(tmp_path, {"run.sh": "a\n", "plain": "b\n"})
    git(tmp_path, "update-index", "--chmod=+x", "run.sh")
    git(tmp_path, "commit", "-q", "-m", "program")
    answer = (
        "diff --git a/run.sh b/bin/run.sh\nrename from run.sh\nrename to bin/run.sh\n"
        "--- a/run.sh\n+++ b/bin/run.sh\n@@ -1 +1 @@\n-a\n+A\n"
        "diff --git a/plain b/text\nrename from plain\nrename to text\n"
        "diff --git a/new.sh b/new.sh\nnew file mode 100755\n--- /dev/null\n+++ b/new.sh\n@@ -0,0 +1 @@\n+n\n"
    )
    here = Repository(tmp_path)
    source = Source(files=here.files(), excerpts=[], paths=here.paths())
    patch = make_patch(here.files(), read_edit(FORMS.find("diff")(), answer, source), executable=here.executable)
    git(tmp_path, "apply", "--cached", "-", stdin=patch.encode())
    listed = [line.split() for line in git(tmp_path, "ls-files", "--stage").splitlines()]
    assert {path: mode for mode, _, _, path in listed} == {"bin/run.sh": "100755", "new.sh": "100755", "text": "100644"}


MARK = "\ufeff"
"""A byte order mark."""
FIRST = "def f():\n    return 1\n"
MARKED = {
    "blocks": (
        "<edit>\n<<<< SEARCH m.py\n{}def f():\n    return 1\n"
        "==========\n{}def g():\n    return 1\n>>>> REPLACE\n</edit>"
    ),
    "functions": "m.py::f\n```python\n{}@cache\ndef f():\n    return 1\n```",
    "files": '<edit>\n<file path="m.py">\n{}def g():\n    return 1\n</file>\n</edit>',
    "diff": "<edit>\n--- a/m.py\n+++ b/m.py\n@@ -1,2 +1,2 @@\n-{}def f():\n+{}def g():\n     return 1\n</edit>",
}


@pytest.mark.parametrize(
    ("name", "copied"), [*((name, "") for name in MARKED), *((name, MARK) for name in ("blocks", "diff", "files"))]
)
def test_a_byte_order_mark_stays_and_is_no_text_of_the_first_line(name, copied):
    source = Source(files={"m.py": MARK + FIRST}, excerpts=[Excerpt(path="m.py", text=MARK + FIRST)])
    edit = read_edit(FORMS.find(name)(), MARKED[name].replace("{}", copied), source)
    first = "@cache\ndef f():" if name == "functions" else "def g():"
    assert edit == {"m.py": f"{MARK}{first}\n    return 1\n"}
    plain = Source(files={"m.py": FIRST}, excerpts=[Excerpt(path="m.py", text=FIRST)])
    edit = read_edit(FORMS.find(name)(), MARKED[name].replace("{}", ""), plain)
    assert edit == {"m.py": f"{first}\n    return 1\n"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("blocks", "<<<< SEARCH m.py\n{}def f():\n==========\nimport os\n{}def f():\n>>>> REPLACE"),
        ("files", '<file path="m.py">\nimport os\n{}def f():\n    return 1\n</file>'),
        ("diff", "--- a/m.py\n+++ b/m.py\n@@ -1,2 +1,3 @@\n+import os\n {}def f():\n     return 1"),
    ],
)
def test_a_mark_that_is_copied_is_dropped_behind_new_lines_too(name, text):
    source = Source(files={"m.py": MARK + FIRST}, excerpts=[Excerpt(path="m.py", text=MARK + FIRST)])
    answer = f"<edit>\n{text.replace('{}', MARK)}\n</edit>"
    assert read_edit(FORMS.find(name)(), answer, source) == {"m.py": f"{MARK}import os\n{FIRST}"}


def test_marks_inside_a_file_stay():
    """Where files were put one behind another."""
    old = f"{MARK}a\n{MARK}b\n"
    source = Source(files={"m.txt": old}, excerpts=[Excerpt(path="m.txt", text=old)])
    answer = f'<edit>\n<file path="m.txt">\n{MARK}a\n{MARK}b\nc\n</file>\n</edit>'
    assert read_edit(FORMS.find("files")(), answer, source) == {"m.txt": f"{old}c\n"}


@pytest.mark.parametrize("form", ["blocks", "diff"])
def test_a_mark_does_not_hide_which_lines_are_meant(form):
    source = Source(files={"m.py": MARK + FIRST}, excerpts=[Excerpt(path="m.py", text=MARK + FIRST)])
    with pytest.raises(EditError, match="Line 2 of them differs"):
        read_edit(FORMS.find(form)(), MARKED[form].replace("{}", "").replace("    return 1", "    return 10"), source)
