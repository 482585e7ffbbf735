"""`Gangs`: branches that step together or not at all (`Branch.lockstep`)."""

from __future__ import annotations

from .generation import DecodingBranch, NativeGeneration


class Gangs:
    """Who is in which gang; a gang is named by its job and a name in it. Callers hold the engine's lock."""

    def __init__(self) -> None:
        self._branches: dict[tuple[str, str], set[DecodingBranch]] = {}

    def __len__(self) -> int:
        return len(self._branches)

    def put(self, branch: DecodingBranch, gang: tuple[str, str] | None) -> None:
        """Let a branch leave its gang, if it is in one, for another or for none."""
        if branch.gang is not None:
            others = self._branches[branch.gang]
            others.discard(branch)
            if not others:
                del self._branches[branch.gang]
        branch.gang = gang
        if gang is not None:
            self._branches.setdefault(gang, set()).add(branch)

    def members(self, gang: tuple[str, str]) -> list[NativeGeneration | None]:
        """The gang's generations, by path; None for a branch that has none running."""
        return [branch.generation for branch in sorted(self._branches[gang], key=lambda branch: branch.path)]

    def companions(self, g: NativeGeneration) -> list[NativeGeneration]:
        """The generation, and those that step together with it."""
        members = [g] if g.branch.gang is None else self.members(g.branch.gang)
        return [one for one in members if one is not None]
