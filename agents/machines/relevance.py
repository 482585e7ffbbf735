"""The relevance machine: does one file matter for the issue? (arXiv 2501.14723, section 3.1)"""

from __future__ import annotations

import re

from ..chat import Answer, Chat
from ..executions import Executions
from ..folder import Folder
from .machine import DONE, Data, Machine
from .wording import quoted

SYSTEM = """\
You help to find the files of the project {project} that matter for an issue. You are shown one file at a time.

The issue:
<issue>
{issue}
</issue>

Decide whether the file may have to be edited to resolve the issue, or has to be understood for that. Think briefly,
then end your answer with either the one line

RELEVANCE: Not Relevant

or the two lines

RELEVANCE: Relevant
SUMMARY: what the file is for and which of its functions and classes matter for the issue, in one or two sentences"""

FILE = """\
The file {path}:
<content>
{content}
</content>

May this file have to be edited or understood for the issue? End with RELEVANCE, and SUMMARY if it is relevant."""

FORMAT = "The end of your answer could not be read. Write only the line RELEVANCE, and SUMMARY if the file is relevant."

_TRAILER = re.compile(
    r"^[^\w\n]*+RELEVANCE[^\w:]*+:\W*+(?P<verdict>not\s+relevant|relevant)\b\W*?$(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_SUMMARY = re.compile(r"SUMMARY\W*?:[*_\s]*(.*)", re.IGNORECASE | re.DOTALL)


class RelevanceData(Data):
    is_relevant: bool | None = None
    """None: no answer could be read; the file counts as relevant, since a lost file costs more than a read one."""
    summary: str = ""


class RelevanceMachine(Machine[RelevanceData]):
    """judge -> [fix_formatting] -> done"""

    first = "judge"
    needs = {"judge": (), "fix_formatting": ()}

    def __init__(
        self, name: str, chat: Chat, folder: Folder, executions: Executions, *, path: str, content: str
    ) -> None:
        super().__init__(RelevanceData, name, chat, folder, executions, attempts=2)
        self.path = path
        self.content = content

    async def judge(self) -> str:
        return self._read(await self.ask(FILE.format(path=self.path, content=quoted(self.content))))

    async def fix_formatting(self) -> str:
        return self._read(await self.ask(FORMAT))

    def _read(self, answer: Answer | str) -> str:
        if isinstance(answer, str):
            return answer
        verdict = read_verdict(answer.text)
        if verdict is None:
            return self.misread(answer, "no verdict", "fix_formatting")
        self.data.is_relevant, self.data.summary = verdict
        self.note("choice", "relevant" if verdict[0] else "not relevant")
        return DONE


def read_verdict(text: str) -> tuple[bool, str] | None:
    """The last verdict of an answer, and its summary of any number of lines; None: there is none."""
    starts = [match.start() for match in re.finditer(r"RELEVANCE\W*:", text, re.IGNORECASE)]
    for start in reversed(starts):
        begin = text.rfind("\n", 0, start) + 1
        if match := _TRAILER.match(text, begin):
            summary = _SUMMARY.search(match["rest"])
            return not match["verdict"].lower().startswith("not"), summary[1].strip() if summary else ""
    return None
