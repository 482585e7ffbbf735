"""`read_edit`: an edit out of a model's whole answer."""

from __future__ import annotations

import re

from .base import Edit, EditError, EditForm, NothingFound, Source
from .fences import fences
from .tags import extract


def read_edit(form: EditForm, text: str, source: Source, *, is_cut: bool = False) -> Edit:
    """The edit in `<edit>`, and in the whole answer if there is no such tag: small models leave it out. Several that
    stand one behind another are one: they also give each part a tag of its own.

    A tag that is not closed ends with the answer, unless that ended at its limit (`is_cut`). Raises `EditError`.
    """
    if "<edit>" in text:
        parts = re.findall(r"(?ms)^[ \t]*<edit>[ \t]*\r?\n(.*?)^[ \t]*</edit>", text)
        if len(parts) > 1 and text.count("<edit>") == len(parts):
            return form.parse("\n".join(parts), source)
        if "</edit>" not in text and not is_cut:
            text += "\n</edit>"
        return form.parse(extract(text, "edit", is_cut=is_cut)["edit"], source)
    blocks = fences(text)
    if is_cut and blocks and not blocks[-1].is_closed:
        raise EditError("the answer was cut off at its length limit, inside a code block: write less before it")
    try:
        return form.parse(text, source)
    except NothingFound:
        extract(text, "edit", is_cut=is_cut)
        raise
