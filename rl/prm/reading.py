"""Steps with verdicts from files."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.errors import InvalidInput
from ..lines import files, read_lines
from .config import StepData
from .estimate import estimate
from .trajectories import Trajectory, parse


def read_trajectories(sources: Sequence[StepData]) -> tuple[list[Trajectory], list[Trajectory]]:
    """(those to train, those held out) of all sources together: a prompt that one of them holds out is trained from
    none. Raises `InvalidInput` naming the file and line that is wrong."""
    found: list[Trajectory] = []
    held: set[str] = set()
    for source in sources:
        read = _read(source)
        prompts = list(dict.fromkeys(one.prompt for one in read))
        held.update(prompts[len(prompts) - min(source.held_out, len(prompts)) :])
        found += read
    return [one for one in found if one.prompt not in held], [one for one in found if one.prompt in held]


def _read(source: StepData) -> list[Trajectory]:
    if source.benchmark is not None:
        return estimate(files(source.paths), source.benchmark, source.delimiters)
    found: list[Trajectory] = []
    for path in files(source.paths):
        for where, data in read_lines(path):
            try:
                found.append(parse(data))
            except InvalidInput as error:
                raise InvalidInput(f"{where}: {error}") from None
    return found
