"""Problems of the Hugging Face hub, read by `datasets` and as strictly as those of a file."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.errors import InvalidInput
from .records import R, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A data set of the hub."""

    name: str
    split: str = "test"
    config: str | None = None
    """Which of its configurations; None: it has one."""
    files: tuple[str, ...] = ()
    """JSON Lines files of its repository, `file` or `archive.zip::file in it`, instead of a configuration: for data
    sets that come with a loading script, which `datasets` no longer runs."""

    @property
    def urls(self) -> list[str]:
        """Of the files."""
        urls = []
        for file in self.files:
            archive, _, member = file.rpartition("::")
            urls.append(f"zip://{member}::{self._url(archive)}" if archive else self._url(file))
        return urls

    def _url(self, file: str) -> str:
        return f"hf://datasets/{self.name}/{file}"


def hub_rows(source: HubSet, kind: type[R], *, extra: str = "evals") -> list[R]:
    """The problems, with the ids that they have there. `extra`: of plait, the one that brings `datasets`.

    Raises `InvalidInput` when they cannot be had, and for the first row that is wrong.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise InvalidInput(
            f"{source.name} comes from the hub by `datasets`: pip install 'plait[{extra}]', or give --data FILE"
        ) from None
    try:
        if source.files:
            rows = list(load_dataset("json", data_files=source.urls, split="train"))
        elif source.config is not None:
            rows = list(load_dataset(source.name, source.config, split=source.split))
        else:
            rows = list(load_dataset(source.name, split=source.split))
    except Exception as error:  # Whatever the network and the hub raise.
        raise InvalidInput(f"cannot read {source.name} from the hub, give --data FILE: {error}") from None
    return [read_record(row, kind, f"{source.name}, row {number}") for number, row in enumerate(rows, start=1)]
