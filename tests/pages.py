"""The files that a page of the documentation holds."""

from __future__ import annotations

import re


def named_files(page: str) -> dict[str, str]:
    """Name -> text, to the letter. The name is a comment on top, or, since JSON has none, ends the sentence before."""
    commented = re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", page, re.DOTALL)
    return dict([*commented, *re.findall(r"`(\S+\.json)`:\n\n```json\n(.*?)```", page, re.DOTALL)])
