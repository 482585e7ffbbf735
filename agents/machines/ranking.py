"""The ranking machine: relevant files in order of importance, by their summaries (arXiv 2501.14723, section 3.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..chat import Answer, Chat
from ..edits.fences import fences
from ..executions import Executions
from ..folder import Folder
from .machine import DONE, Data, Machine
from .wording import quoted

SYSTEM = "You are a careful software engineer. You choose the files that somebody needs who is to fix an issue."

FIRST = """\
Somebody is to fix an issue of the project {project}, and will see only the files that you choose. Put them in order,
the most important first. Everything that may have to be edited must be among them; leave out what does not help. All
chosen files together should have about {target} tokens, and at most {most}.

The issue:
<issue>
{issue}
</issue>

The files, with their lengths and what they are for:
{files}

Think first. Then give the paths as a JSON list in a fenced block, last:
```json
["package/first.py", "package/second.py"]
```"""

FORMAT = "{why} Give the paths as a JSON list of texts in one fenced block."


class RankingData(Data):
    order: list[str] | None = None
    """Paths that exist, the most important first; None: no answer could be read."""


class RankingMachine(Machine[RankingData]):
    """rank -> [fix_formatting] -> done"""

    first = "rank"
    needs = {"rank": (), "fix_formatting": ("history",)}

    def __init__(
        self,
        name: str,
        chat: Chat,
        folder: Folder,
        executions: Executions,
        *,
        issue: str,
        project: str,
        summaries: Mapping[str, str],
        lengths: Mapping[str, int],
        tokens: int,
    ) -> None:
        """`summaries`, `lengths` in tokens: of the relevant files. `tokens`: those of all that are chosen, at most."""
        super().__init__(RankingData, name, chat, folder, executions, attempts=2)
        self.summaries = summaries
        self.question = FIRST.format(
            project=project,
            issue=quoted(issue),
            target=tokens // 2,
            most=tokens,
            files="\n".join(f"- {path} ({lengths[path]} tokens): {text}" for path, text in summaries.items()),
        )

    async def rank(self) -> str:
        return self._read(await self.ask(self.question))

    async def fix_formatting(self) -> str:
        return self._read(await self.ask(FORMAT.format(why=self.data.history[-1].text)))

    def _read(self, answer: Answer | str) -> str:
        if isinstance(answer, str):
            return answer
        paths = read_paths(answer.text)
        if paths is None:
            return self.misread(answer, "There is no JSON list of paths in your answer.", "fix_formatting")
        self.data.order = [path for path in dict.fromkeys(paths) if path in self.summaries]
        self.note("choice", ", ".join(self.data.order))
        return DONE


def read_paths(text: str) -> list[str] | None:
    """The JSON list of texts in the last fenced block, or at the end of the answer; None: there is none."""
    blocks = ["\n".join(block.lines) for block in fences(text)]
    for block in (*reversed(blocks), text[text.rfind("[") :] if "[" in text else ""):
        try:
            found = json.loads(block.strip().rstrip(".`"))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, list) and found and all(isinstance(path, str) for path in found):
            return found
    return None


def merge(rankings: Sequence[Sequence[str]], paths: Sequence[str]) -> list[str]:
    """All paths by their mean rank: the i-th of n in a ranking counts i/n there, one that is not in it counts 1. Ties
    by path."""

    def place(ranking: Sequence[str], path: str) -> float:
        return ranking.index(path) / len(ranking) if path in ranking else 1.0

    return sorted(paths, key=lambda path: (sum(place(ranking, path) for ranking in rankings), path))
