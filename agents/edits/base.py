"""`EditForm`: how a model is asked for an edit, and how its text is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...runtime.plugins import Registry, is_subclass


class EditError(Exception):
    """A text that is no edit; the message tells the model which block, which line, why, and what comes nearest."""


class NothingFound(EditError):
    """The text holds nothing of the form at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """A part of a file, or all of it, as it stands in the model's context."""

    path: str
    """In the repository, with forward slashes."""
    text: str
    first_line: int = 1
    name: str | None = None
    """Qualified name of the function or class it is (`Blueprint.__init__`); None: the whole file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an edit is relative to."""

    files: Mapping[str, str]
    """All text files of the snapshot by path; may read lazily."""
    excerpts: Sequence[Excerpt]
    """What the model was shown."""
    paths: Collection[str] = ()
    """All paths of the snapshot, those of binary files, symbolic links and submodules too: nothing is written there or
    below them. Empty: those of `files`."""

    @property
    def shown(self) -> list[str]:
        """Paths of the excerpts, in their order."""
        return list(dict.fromkeys(excerpt.path for excerpt in self.excerpts))


Edit = dict[str, str | None]
"""Path -> the whole new text of the file; None: it is removed. Only files that change."""


class EditWithModes(Edit):
    """An edit that says which of its new files are programs (mode 100755); without it none is."""

    def __init__(self, edit: Edit, *, programs: Collection[str], origins: Mapping[str, str]) -> None:
        """`programs`: new paths. `origins`: new path -> old one, whose mode it has."""
        super().__init__(edit)
        self.programs, self.origins = programs, origins

    def executable(self, before: Collection[str]) -> set[str]:
        """The programs there were, and the new ones."""
        return {*before, *self.programs, *(new for new, old in self.origins.items() if old in before)}


class EditForm(ABC):
    """One form; stateless."""

    name: ClassVar[str]
    example: ClassVar[str]
    """A worked edit, as the prompt shows it."""

    @abstractmethod
    def instructions(self) -> str:
        """The rules of the form for the prompt, without the example; names the tag `<edit>` around all of it."""

    @abstractmethod
    def parse(self, text: str, source: Source) -> Edit:
        """The edit in what stands between `<edit>` and `</edit>`. Raises `EditError`."""


FORMS: Registry[type[EditForm]] = Registry(
    "edit form",
    "plait.edits",
    "a subclass of EditForm",
    lambda name, cls: is_subclass(cls, EditForm),
)
