"""From a repository and an answer to a patch in the user's files."""

from __future__ import annotations

import pytest

from plait.agents.edits.base import FORMS, EditError, Excerpt, Source
from plait.agents.edits.reader import read_edit
from plait.agents.outline import functions
from plait.agents.patches import make_patch
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
