"""The editing machine: an edit and a test, both revised by what running them shows (arXiv 2501.14723, section 3.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ..answers import one_of, script
from ..chat import Answer, Chat
from ..edits.base import EditError, EditForm, Source
from ..edits.reader import read_edit
from ..executions import Executions, all_of
from ..folder import Folder
from ..patches import make_patch
from ..sandbox.base import Execution
from .machine import DONE, LATE, Data, Machine
from .wording import RULES, quoted, report

SYSTEM = """\
You are a careful software engineer. You fix an issue of the project {project}, step by step: you write an edit, see
what a test script does before and after it, and revise the edit or the test until you are sure.

How to write an edit, always between <edit> and </edit>:
{form}
For example:
{example}

{rules}

The issue:
<issue>
{issue}
</issue>
"""
"""Behind it comes the code; then all trajectories of a job go on from there."""

FIRST = """\
{test}Plan the fix in a few sentences: which lines of the project's code are wrong, and what they must be. Then write
one edit that fixes the issue, between <edit> and </edit>, last. Do not write a test now."""

TEST = """\
This script is to show whether the issue is fixed:
<test>
{script}
</test>
On the project as it is now it gives:
{report}

"""

FIX_EDIT = "{why}\n\nTry again: one edit between <edit> and </edit>, against the original code."

REVISE = """\
Your edit is this change to the original code:
<diff>
{diff}
</diff>
The test script on the original code:
{original}
The test script on the changed code:
{changed}

Exit code 2 means that the issue is there, 0 that it is fixed, anything else that something is broken. A right test
gives 2 on the original code and 0 on the code with a right edit, but the test may be wrong itself.

Now do exactly one of three things:
- If the edit fixes the issue, answer <done></done>.
- If the edit is wrong, write a new one between <edit> and </edit>. It replaces the last one and is against the original
  code.
- If the test is wrong, write the whole script anew between <test> and </test>."""

ALONE = """\
Your edit is this change to the original code:
<diff>
{diff}
</diff>
There is no test script yet.

Now do exactly one of three things:
- If you are sure that the edit fixes the issue, answer <done></done>.
- If the edit is wrong, write a new one between <edit> and </edit>. It replaces the last one and is against the original
  code.
- To see what it does, write a test script between <test> and </test>."""

FIX_DECISION = "{why}\n\nAnswer exactly one of <done></done>, an <edit> or a <test>."


class EditData(Data):
    """What comes of it: the last edit that could be read, as a patch, and the last test."""

    patch: str | None = None
    script: str | None = None
    original: Execution | None = None
    changed: Execution | None = None


class EditMachine(Machine[EditData]):
    """write_initial_edit -> validate_initial_edit -> exec_script -> approve_or_revise -> validate_... -> done"""

    first = "write_initial_edit"
    needs = {
        "write_initial_edit": (),
        "validate_initial_edit": ("history",),
        "exec_script": ("patch",),
        "approve_or_revise": ("patch",),
        "validate_approve_or_revise": ("history",),
    }

    def __init__(
        self,
        name: str,
        chat: Chat,
        folder: Folder,
        executions: Executions,
        *,
        attempts: int,
        form: EditForm,
        source: Source,
        executable: Collection[str] = (),
        script: str | None,
        original: Execution | None,
    ) -> None:
        """`executable`: paths of programs in the repository. `script`, `original`: the test of the testing machine of
        the same number, and what it did."""
        super().__init__(EditData, name, chat, folder, executions, attempts=attempts)
        self.form = form
        self.source = source
        self.executable = executable
        if not self.data.attempts:
            self.data.script, self.data.original = script, original

    async def write_initial_edit(self) -> str:
        test = ""
        if self.data.script is not None and self.data.original is not None:
            test = TEST.format(script=quoted(self.data.script), report=report(self.data.original))
        return await self._read_edit(await self.ask(FIRST.format(test=test)))

    async def validate_initial_edit(self) -> str:
        return await self._read_edit(await self.ask(FIX_EDIT.format(why=self.data.history[-1].text)))

    async def exec_script(self) -> str:
        test, patch, branch = self.data.script, self.data.patch, self.chat.branch
        assert patch is not None
        if test is not None:
            found = await all_of(
                self.executions.test(test, change, branch, on=name)
                for change, name in (("", "original"), (patch, "edit"))
            )
            if any(one.ended == "deadline" for one in found):
                return LATE
            self.data.original, self.data.changed = found
        return "approve_or_revise"

    async def approve_or_revise(self) -> str:
        data = self.data
        diff = quoted(data.patch or "")
        if data.original is None or data.changed is None:
            said = ALONE.format(diff=diff)
        else:
            said = REVISE.format(diff=diff, original=report(data.original), changed=report(data.changed))
        return await self._read_decision(await self.ask(said))

    async def validate_approve_or_revise(self) -> str:
        return await self._read_decision(await self.ask(FIX_DECISION.format(why=self.data.history[-1].text)))

    async def _read_edit(self, answer: Answer | str) -> str:
        if isinstance(answer, str):
            return answer
        return await self._take_edit(answer, "validate_initial_edit")

    async def _take_edit(self, answer: Answer, again: str) -> str:
        try:
            # What a model writes may take seconds to read; others go on meanwhile.
            patch = await asyncio.to_thread(self._patch, answer)
        except EditError as error:
            return self.misread(answer, str(error), again)
        self.data.patch, self.data.changed = patch, None
        self.note("edit", self.data.patch)
        return "exec_script"

    def _patch(self, answer: Answer) -> str:
        edit = read_edit(self.form, answer.text, self.source, is_cut=answer.is_cut)
        return make_patch(self.source.files, edit, executable=self.executable)

    async def _read_decision(self, answer: Answer | str) -> str:
        if isinstance(answer, str):
            return answer
        again = "validate_approve_or_revise"
        try:
            tag, content = one_of(answer.text, "done", "edit", "test", is_cut=answer.is_cut)
            if tag == "done":
                self.note("done")
                return DONE
            if tag == "edit":
                return await self._take_edit(answer, again)
            self.data.script = script(content)
        except EditError as error:
            return self.misread(answer, str(error), again)
        self.data.original = self.data.changed = None
        self.note("test", self.data.script)
        return "exec_script"


def system_message(form: EditForm, project: str, issue: str, *, has_tests: bool) -> str:
    """What every edit trajectory is told first; the code comes behind it."""
    return SYSTEM.format(
        project=project,
        form=form.instructions(),
        example=form.example,
        rules=RULES if has_tests else "",
        issue=quoted(issue),
    )
