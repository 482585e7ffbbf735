"""The testing machine: writes a script that shows whether an issue is there (arXiv 2501.14723, section 3.2)."""

from __future__ import annotations

from ..answers import one_of, script
from ..chat import Answer, Chat
from ..edits.base import EditError
from ..executions import Executions
from ..folder import Folder
from ..sandbox.base import Execution
from ..voting import REPRODUCED
from .machine import DONE, LATE, Data, Machine
from .wording import RULES, quoted, report

SYSTEM = "You are a careful software engineer. You write small Python scripts that show whether an issue is fixed."

FIRST = """\
Write a Python script that reproduces an issue of the project {project}.

{rules}
{context}
The issue:
<issue>
{issue}
</issue>

Think about what should happen and what happens now. Then write the whole script between <test> and </test>, once."""

CONTEXT = """
Code of the project that belongs to the issue:
{context}
"""

FORMAT = "{why} Write the whole script between <test> and </test>, exactly once."

REVISE = """\
Your script ran on the project as it is now, with the issue not yet fixed.
{report}
{hint}"""

SHOWS = """\
Exit code 2 means that it shows the issue, as it should now.

If the script is right as it is, answer <done></done>. If not, write the whole script anew between <test> and </test>.
Only one of the two."""

HINTS = {
    0: "Exit code 0 means that the issue is fixed, which cannot be: the script does not show the issue.",
    1: "Exit code 1 means that the script itself is broken, or that something else is wrong.",
    2: SHOWS,
}
OTHER = "It should be 2 now; this is none of the three exit codes."
AGAIN = """

Find out why, then write the whole script anew between <test> and </test>."""

REVISE_FORMAT = "{why} Answer either <done></done>, or the whole script between <test> and </test>."


class TestData(Data):
    """What comes of it: the last script that could be read, and what it did on the repository as it is."""

    __test__ = False  # It is no test of pytest's.

    script: str | None = None
    original: Execution | None = None


class TestMachine(Machine[TestData]):
    """write_initial_script -> [initial_fix_formatting] -> exec_script -> approve_or_revise_script -> ... -> done"""

    __test__ = False
    first = "write_initial_script"
    needs = {
        "write_initial_script": (),
        "initial_fix_formatting": ("history",),
        "exec_script": ("script",),
        "approve_or_revise_script": ("original",),
        "iteration_fix_formatting": ("history",),
    }

    def __init__(
        self, name: str, chat: Chat, folder: Folder, executions: Executions, *, attempts: int, question: str
    ) -> None:
        """`question`: `first_message`."""
        super().__init__(TestData, name, chat, folder, executions, attempts=attempts)
        self.question = question

    async def write_initial_script(self) -> str:
        return self._read(await self.ask(self.question), ["test"], "initial_fix_formatting")

    async def initial_fix_formatting(self) -> str:
        said = FORMAT.format(why=self.data.history[-1].text)
        return self._read(await self.ask(said), ["test"], "initial_fix_formatting")

    async def exec_script(self) -> str:
        assert self.data.script is not None
        found = await self.executions.test(self.data.script, "", self.chat.branch, on="original")
        if found.ended == "deadline":
            return LATE
        self.data.original = found
        return "approve_or_revise_script"

    async def approve_or_revise_script(self) -> str:
        found = self.data.original
        assert found is not None
        # That the script is right is only offered where it may be; a model that insists is believed.
        again = "" if found.exit_code == REPRODUCED else AGAIN
        said = REVISE.format(report=report(found), hint=HINTS.get(found.exit_code, OTHER) + again)
        return self._read(await self.ask(said), ["done", "test"], "iteration_fix_formatting")

    async def iteration_fix_formatting(self) -> str:
        said = REVISE_FORMAT.format(why=self.data.history[-1].text)
        return self._read(await self.ask(said), ["done", "test"], "iteration_fix_formatting")

    def _read(self, answer: Answer | str, tags: list[str], again: str) -> str:
        if isinstance(answer, str):
            return answer
        try:
            tag, content = one_of(answer.text, *tags, is_cut=answer.is_cut)
            if tag == "done":
                self.note("done")
                return DONE
            self.data.script, self.data.original = script(content), None
        except EditError as error:
            return self.misread(answer, str(error), again)
        self.note("test", self.data.script)
        return "exec_script"


def first_message(project: str, issue: str, context: str = "") -> str:
    """What all test trajectories are asked first. `context`: code to show with the issue; the paper shows none."""
    shown = CONTEXT.format(context=quoted(context)) if context else ""
    return FIRST.format(project=project, rules=RULES, issue=quoted(issue), context=shown)
