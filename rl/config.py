"""What a training is, as a TOML file: a few fields of ours, and TRL's and peft's own arguments in tables of theirs."""

from __future__ import annotations

import glob
import os
import re
import tomllib
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from ..runtime.disk import own_file
from ..runtime.errors import InvalidInput
from ..runtime.methods.multiverse.replay import Positions
from ..runtime.spec import Several, Spec

T = TypeVar("T")

WRONG = (ValueError, TypeError, ImportError, KeyError, AttributeError, OSError, re.error)
"""What other libraries raise for arguments that are wrong, or name files that cannot be read."""


class TrainConfig(Spec):
    """What all kinds of training share. Raises `InvalidInput`."""

    refusal = InvalidInput

    model: str = Field(min_length=1)
    """As for `Runtime`: a shipped model, a folder, a name of the hub; no GGUF file."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything that is drawn."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights while they are trained."""
    threads: int | None = Field(default=None, ge=1)
    """Of each process on a CPU; None: torch's choice."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Minutes after which this run stops with a checkpoint; one that goes on has as many again. None: no limit."""
    tags: bool = False
    """Add the control tags of the data's dialects to the vocabulary first (`tags.add_tags`)."""
    lora: dict[str, Any] | None = None
    """Arguments of `peft.LoraConfig`; None: all weights are trained. With `tags`, the tags' rows are trained too,
    beside those of `trainable_token_indices`."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Arguments of TRL's trainer (`learning_rate`, `max_steps`, `report_to`, ...)."""


class DataConfig(Spec):
    """One source of samples."""

    refusal = InvalidInput

    kind: Literal["texts", "excerpts", "chat", "traces", "samples"]
    """`texts`: JSON Lines with `prompt` and `text` (in Multiverse form, or any), maybe `sequential`, the text told
    without blocks. `excerpts`: JSON Lines with a long `text` each, of which every block is a sample, with the lines
    before it as the prompt. `chat`: JSON Lines with `messages`, or `prompt` and `completion`; the assistant's turns are
    trained, calls of tools included, behind the row's `tools`. `traces`: trace files of `plait`; what the model sampled
    is trained. `samples`: folders of `datasets` with the columns of `Sample.row`, as `plait data export` writes
    them."""
    paths: Several[str] = Field(min_length=1)
    """Files, or folders of samples, relative to the configuration's folder; `*` and environment variables
    (`$PLAIT_DATA/texts.jsonl`) may stand in them. What begins with a variable is relative to the working folder."""
    suffix: str = ""
    """Put behind every prompt that is text."""
    sequential_suffix: str = ""
    """The same, for texts without blocks."""
    chat: bool = True
    """Put a prompt that is text as a user's message, if the model has a chat template."""
    dialect: Literal["multiverse", "npr", "threadweaver", "parallel_r1"] = "multiverse"
    """Whose tags the texts hold; see `Multiverse`. What joins by reading again is trained as plain text."""
    positions: Positions = "train"
    """Of the blocks; see `Multiverse`."""
    too_long: Literal["drop", "cut"] = "drop"
    """What becomes of samples longer than `max_tokens`. Those of which nothing to learn is left, as behind a long
    prompt, are dropped either way."""
    held_out: int = Field(default=0, ge=0)
    """Samples from the end that are not trained. Those of one chat, of one trace, or of a block and the blocks in it
    stay together, so that there may be a few more. Their loss is what TRL calls `eval_loss`: a mean of batches, by
    their samples, so that it depends a little on `per_device_eval_batch_size`."""


class ProbeConfig(Spec):
    """What is looked at before and after the training: held-out prompts, run by `Multiverse`, merges and all."""

    refusal = InvalidInput

    prompts: int = Field(default=16, ge=1)
    """At most; the first of those held out."""
    max_tokens: int = Field(default=512, ge=1)
    """Along the critical path."""
    temperature: float = Field(default=0.0, ge=0)
    """Of sampling."""
    kv_tokens: int = Field(default=32768, ge=256)
    """Tokens that the engine has room for."""


class SFTConfig(TrainConfig):
    """Supervised training. Raises `InvalidInput`."""

    data: Several[DataConfig] = Field(min_length=1)
    """Where samples come from."""
    max_tokens: Annotated[int, Field(ge=2)] = 4096
    """Of a sample."""
    pack: int | None = Field(default=None, ge=2)
    """Put several samples, nearly in their order, in a row of at most so many tokens; they do not see each other. None:
    each is a row."""
    muon: bool = False
    """Train the matrices inside the layers by Muon (arXiv 2502.16982), and by AdamW what is left, at one rate: a small
    model learns from less, above all from nothing. Without `lora`, and not sharded."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the samples, each in an order of its own; without `curriculum`."""
    curriculum: Several[Annotated[float, Field(ge=0, le=1)]] = ()
    """Share of the samples that are shown with blocks in each of several passes; the others are shown without
    (`sequential`). Multiverse's: 0, 0, 0.1, 0.5, 0.5, 0.9, 1, 1."""

    probe: ProbeConfig | None = None
    """Count the well-formed blocks that the model writes, before and after; None: do not."""

    @classmethod
    def title(cls) -> str:
        return "training"


def read_toml(path: Path) -> dict[str, Any]:
    """The fields in a TOML file (see `own_file`); relative `paths` of `data` are relative to it, those that begin with
    a variable to the working folder, as the shell in which it is set would have it. They are made absolute, since a run
    may go on from another folder. Raises `InvalidInput`."""
    try:
        path = own_file(path)
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read the training {path}: {error}") from None
    beside, here = (Path(glob.escape(str(folder))) for folder in (path.parent.resolve(), Path.cwd()))
    sources = data.get("data")
    for source in sources if isinstance(sources, list) else ():
        if isinstance(source, dict) and isinstance(source.get("paths"), list):
            texts = map(str, source["paths"])
            source["paths"] = [
                str((here if text.startswith("$") else beside) / os.path.expandvars(text)) for text in texts
            ]
    return data


def arguments(
    cls: type[T], table: str, given: dict[str, Any], ours: dict[str, Any], defaults: dict[str, Any] | None = None
) -> T:
    """Another library's dataclass of arguments: those given in `[table]`, over `defaults`; `ours` are not to be given.

    Raises `InvalidInput` naming every argument that is unknown, ours, or refused by the class.
    """
    known: Collection[str] = {f.name for f in fields(cls) if f.init}  # type: ignore[arg-type]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidInput(f"[{table}]: {cls.__name__} knows no {', '.join(unknown)}")
    taken = [name for name in given if name in ours]
    if taken:
        raise InvalidInput(f"[{table}]: {', '.join(taken)}: decided by the training's other fields, or fixed")
    try:
        return cls(**{**(defaults or {}), **given, **ours})
    except WRONG as error:
        raise InvalidInput(f"[{table}]: {error}") from None
