"""The selection machine: writes tests that tell candidates apart, and picks one (arXiv 2501.14723, section 3.4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from ..answers import one_of, script
from ..chat import Answer, Chat
from ..edits.base import EditError
from ..executions import Executions, all_of
from ..folder import Folder
from ..sandbox.base import Execution
from .machine import DONE, LATE, Data, Machine
from .wording import RULES, quoted, report

SYSTEM = "You are a careful software engineer. You decide which of several changes fixes an issue best."

FIRST = """\
Several candidate fixes for an issue of the project {project} are given. Find out which of them resolves it best, by
test scripts that run on the original code and on the code of every candidate. Where several are right, prefer the
simplest.

{rules}

The issue:
<issue>
{issue}
</issue>
{files}
The candidates:
{candidates}
{example}
Think about where the candidates behave differently. Then write a first test script that tells them apart, between
<test> and </test>."""

FORMAT = "{why} Write the whole script between <test> and </test>, exactly once."

CHOOSE = """\
The script gave, on the original code:
{original}
{candidates}

Now do exactly one of two things:
- To learn more, write another test script between <test> and </test>.
- If you know which candidate is best, give its number: <chosen_candidate_fix_id>0</chosen_candidate_fix_id>"""

CHOOSE_FORMAT = "{why} Give either a <test>, or the number of a candidate in <chosen_candidate_fix_id>."

CHOICE = "chosen_candidate_fix_id"


class SelectionData(Data):
    """What comes of it: the choice, if there is one."""

    script: str | None = None
    choice: int | None = None


class SelectionMachine(Machine[SelectionData]):
    """write_initial_script -> [initial_fix_formatting] -> exec_script -> [select_fix_formatting] -> ... -> done"""

    first = "write_initial_script"
    needs = {
        "write_initial_script": (),
        "initial_fix_formatting": ("history",),
        "exec_script": ("script",),
        "select_fix_formatting": ("history",),
    }

    def __init__(
        self,
        name: str,
        chat: Chat,
        folder: Folder,
        executions: Executions,
        *,
        attempts: int,
        issue: str,
        project: str,
        patches: Sequence[str],
        files: str,
        example: str | None,
    ) -> None:
        """`files`: the original text of those that the candidates touch. `example`: a test that was written before."""
        # A number says which candidate only among these, in this order.
        about = hashlib.sha256(json.dumps(list(patches)).encode()).hexdigest()
        super().__init__(SelectionData, name, chat, folder, executions, attempts=attempts, about=about)
        self.issue = issue
        self.project = project
        self.patches = patches
        self.files = files
        self.example = example

    async def write_initial_script(self) -> str:
        candidates = "\n".join(
            f"<candidate_fix candidate_id={number}>\n{quoted(patch)}\n</candidate_fix>"
            for number, patch in enumerate(self.patches)
        )
        example = (
            "" if self.example is None else f"\nA test script for the issue:\n<test>\n{quoted(self.example)}\n</test>\n"
        )
        said = FIRST.format(
            project=self.project,
            rules=RULES,
            issue=quoted(self.issue),
            files=f"\nThe original files that they change:\n{quoted(self.files)}\n" if self.files else "",
            candidates=candidates,
            example=example,
        )
        return self._read(await self.ask(said), ["test"], "initial_fix_formatting")

    async def initial_fix_formatting(self) -> str:
        said = FORMAT.format(why=self.data.history[-1].text)
        return self._read(await self.ask(said), ["test"], "initial_fix_formatting")

    async def exec_script(self) -> str:
        found = await self._results()
        if any(one.ended == "deadline" for one in found):
            return LATE
        original, *changed = found
        parts = [f"With candidate {number}:\n{report(found)}" for number, found in enumerate(changed)]
        said = CHOOSE.format(original=report(original), candidates="\n".join(parts))
        return self._read(await self.ask(said), ["test", CHOICE], "select_fix_formatting")

    async def select_fix_formatting(self) -> str:
        said = CHOOSE_FORMAT.format(why=self.data.history[-1].text)
        return self._read(await self.ask(said), ["test", CHOICE], "select_fix_formatting")

    async def _results(self) -> list[Execution]:
        test = self.data.script
        assert test is not None
        names = ["original", *(f"candidate {number}" for number in range(len(self.patches)))]
        return await all_of(
            self.executions.test(test, patch, self.chat.branch, on=name)
            for patch, name in zip(["", *self.patches], names, strict=True)
        )

    def _read(self, answer: Answer | str, tags: list[str], again: str) -> str:
        if isinstance(answer, str):
            return answer
        try:
            tag, content = one_of(answer.text, *tags, is_cut=answer.is_cut)
            if tag == CHOICE:
                self.data.choice = self._number(content)
                self.note("choice", content)
                return DONE
            self.data.script = script(content)
        except EditError as error:
            return self.misread(answer, str(error), again)
        self.note("test", self.data.script)
        return "exec_script"

    def _number(self, content: str) -> int:
        number = content.strip()
        if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) < len(self.patches)):
            raise EditError(f"{number[:40]!r} is no candidate: the numbers are 0 to {len(self.patches) - 1}.")
        return int(number)
