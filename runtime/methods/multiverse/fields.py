"""What a job may set of `Multiverse`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..sequential import Answering


class MultiverseFields(Answering):
    """The fields; see `method.Multiverse`."""

    method: Literal["multiverse"] = "multiverse"
    """The method's name."""
    bound: ClassVar[int] = 16384
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    """Tokens along the critical path at most; None: 16384, blocks and all."""
    mode: Literal["trained", "guided"] = "trained"
    """`trained`: the model writes the tags itself. `guided`: for any instruct model, the runtime asks for the outlines,
    forks once and asks for the conclusion."""
    positions: Literal["train", "engine"] = "train"
    """The rule of the released training code, or that of the released engine; see `method`."""
    depth: int = Field(default=6, ge=0)
    """Levels of nested blocks; 0: tags are plain text."""
    width: int | None = Field(default=None, ge=1)
    """Paths of one block that run at the same time, the others wait; None: all. It does not change the output."""
    max_paths: int = Field(default=32, ge=1)
    """A block with more outlines is not forked."""
    max_branches: int = Field(default=256, ge=0)
    """Paths of the whole job; each line hands on equal shares of what it may open."""
    reserve: int = Field(default=256, ge=0)
    """Tokens kept back from the paths for conclusion and answer; at most half of what is left."""
    retries: int = Field(default=1, ge=0)
    """Fresh starts of a path whose generation raised an error."""
    outline_tokens: int = Field(default=512, ge=1)
    """Guided: new tokens for the outlines at most."""
