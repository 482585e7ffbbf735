"""Models of the Hugging Face hub, by name: `org/name`, `org/name@revision` and `org/name:FILE.gguf`.

They come through `huggingface_hub`: its cache (`HF_HOME`), its environment variables (`HF_TOKEN`, `HF_HUB_OFFLINE`,
`HF_ENDPOINT`) and its progress bar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UnknownModel
from .loading import stop_check

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?(?::(.+))?")
_FILES = ["*.json", "*.jinja", "*.safetensors"]
_NOT_FILES = ["*/*", "consolidated*.safetensors"]
"""Other formats' folders, and Mistral's second copy of the weights."""


@dataclass(frozen=True, slots=True)
class HubName:
    """What a name says."""

    repo: str
    revision: str | None = None
    file: str | None = None
    """A GGUF file in it; may be a pattern (`*q4_k_m*`)."""

    @classmethod
    def parse(cls, name: str) -> HubName | None:
        """None: this is no name of the hub."""
        found = _NAME.fullmatch(name)
        if found is None or (found[3] is None and name.endswith(".gguf")):
            return None
        return cls(found[1], found[2], found[3])

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f":{self.file}" if self.file else "")


def download(name: HubName) -> Path:
    """The folder or GGUF file in the cache, fetched if it is not there. Raises `UnknownModel` that says what to do."""
    if name.file is not None:
        folder = _snapshot(name, [name.file])
        return _one_file(name, folder, sorted(folder.rglob(name.file)))
    folder = _snapshot(name, _FILES)
    if (folder / "config.json").is_file():
        return folder
    files = sorted(file for file in _listing(name) if file.endswith(".gguf")) or sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*.gguf")
    )
    if files:
        raise UnknownModel(f"{name} holds GGUF files: name one of them, {name}:FILE ({', '.join(files)})")
    raise UnknownModel(f"{name} is on the hub and holds no model that plait can read: no config.json, no GGUF file")


def cached_models() -> list[tuple[HubName, Path]]:
    """Models in the hub's cache, and where they are: folders and GGUF files, newest revision first."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    except (CacheNotFound, OSError):
        return []
    found: list[tuple[HubName, Path]] = []
    for repo in repos:
        for revision in sorted(repo.revisions, key=lambda one: -one.last_modified):
            if repo.repo_type != "model":
                continue
            label = next(iter(sorted(revision.refs)), revision.commit_hash[:12])
            shown = None if label == "main" else label
            if (revision.snapshot_path / "config.json").is_file():
                found.append((HubName(repo.repo_id, shown), revision.snapshot_path))
            for path in sorted(revision.snapshot_path.rglob("*.gguf")):
                file = str(path.relative_to(revision.snapshot_path))
                found.append((HubName(repo.repo_id, shown, file), path))
    return found


def _snapshot(name: HubName, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    stop = stop_check()
    stop()

    class Bar(tqdm):
        """The hub's own, on terminals alone, which ends the download when nobody waits for it any more."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": options.get("disable") or None})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> Any:
            stop()
            return super().update(n)

    try:
        folder = snapshot_download(
            name.repo,
            revision=name.revision,
            allow_patterns=patterns,
            ignore_patterns=None if name.file else _NOT_FILES,
            tqdm_class=Bar,
        )
    except Exception as error:
        raise UnknownModel(_explanation(name, error)) from error
    return Path(folder)


def _listing(name: HubName) -> list[str]:
    """All files of a repository; empty where the hub cannot be asked."""
    from huggingface_hub import list_repo_files

    try:
        return list_repo_files(name.repo, revision=name.revision)
    except Exception:  # Whatever keeps it from answering: there was an answer a moment ago.
        return []


def _one_file(name: HubName, folder: Path, found: list[Path]) -> Path:
    """Of a split model the first part stands for all."""
    whole = [path for path in found if path.suffix == ".gguf" and not re.search(r"-(?!00001)\d{5}-of-\d{5}", path.name)]
    if len(whole) == 1:
        return whole[0]
    if whole:
        several = ", ".join(str(path.relative_to(folder)) for path in whole)
        raise UnknownModel(f"{name} means several files: {several}")
    files = sorted(file for file in _listing(name) if file.endswith(".gguf"))
    raise UnknownModel(
        f"{name.repo} holds no GGUF file {name.file}; it holds {', '.join(files) or 'none that is known'}"
    )


def _explanation(name: HubName, error: Exception) -> str:
    """What went wrong, and what to do."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name.repo}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} is gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN to a token "
            "of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name.repo} has no revision {name.revision or 'main'!r}: see {page}/tree/main for branches and tags"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"no model {name.repo!r}: there is no such folder, and none on the hub ({page}) that can be seen from "
            "here; if it is private, log in with `hf auth login` or set HF_TOKEN"
        )
    if constants.is_offline_mode():
        return (
            f"{name} is not in the hub's cache ({constants.HF_HUB_CACHE}), or not whole, and HF_HUB_OFFLINE is set: "
            f"unset it, or fetch the model first with `hf download {name.repo}`"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"no model {str(name)!r}: there is no such folder, it is not in the hub's cache "
            f"({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} cannot be reached: check the network, or give a "
            "folder or a GGUF file"
        )
    return f"{name} cannot be fetched from {constants.ENDPOINT}: {type(error).__name__}: {error}"
