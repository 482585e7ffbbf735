"""Hooks of `mkdocs.yml`: pages that stand elsewhere in the repository, and links as they are on the site.

Sources link to each other as files of the repository, so that they can be read there. On the site these pages stand at
other places: `PAGES`. A file that is no page is copied to `source/`.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "index.md": "README.md",
    "rl.md": "rl/README.md",
    "models/countdown.md": "models/countdown/README.md",
    "models/countdown_prm.md": "models/countdown_prm/README.md",
    "models/recall.md": "models/recall/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> file of the repository."""
PLACES = {source: page for page, source in PAGES.items()}
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source), inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of a page, from where it stands in the repository to where it stands on the site."""
    here = page.file.src_uri
    folder = (Path(PAGES.get(here, f"docs/{here}"))).parent.as_posix()

    def moved(match: re.Match[str]) -> str:
        text, link, anchor = match.groups(default="")
        target = normpath(f"{folder}/{link}")
        place = PLACES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else "")
        if not place and (ROOT / target).is_file():
            place = f"source/{target}"
            if files.get_file_from_path(place) is None:
                copy = File.generated(config, place, abs_src_path=str(ROOT / target), inclusion=InclusionLevel.INCLUDED)
                files.append(copy)
        if not place and (ROOT / target).is_dir():
            return text
        # What is not there is left as it is, for mkdocs to complain of.
        return f"[{text}]({relpath(place, Path(here).parent.as_posix()) if place else link}{anchor})"

    # Code is not text: `f[i](x)` in a block is no link.
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if number % 2 else LINK.sub(moved, part) for number, part in enumerate(parts))
