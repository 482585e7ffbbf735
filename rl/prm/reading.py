"""Steps with verdicts from files."""

from __future__ import annotations

from ...runtime.errors import InvalidInput
from ..lines import files, read_lines
from .config import StepData
from .estimate import estimate
from .trajectories import Trajectory, parse


def read_trajectories(source: StepData) -> tuple[list[Trajectory], list[Trajectory]]:
    """(those to train, those held out). Raises `InvalidInput` naming the file and line that is wrong."""
    if source.benchmark is not None:
        found = estimate(files(source.paths), source.benchmark, source.delimiters)
    else:
        found = []
        for path in files(source.paths):
            for where, data in read_lines(path):
                try:
                    found.append(parse(data))
                except InvalidInput as error:
                    raise InvalidInput(f"{where}: {error}") from None
    prompts = list(dict.fromkeys(one.prompt for one in found))
    held = set(prompts[len(prompts) - min(source.held_out, len(prompts)) :])
    return [one for one in found if one.prompt not in held], [one for one in found if one.prompt in held]
