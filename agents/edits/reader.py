"""`read_edit`: an edit out of a model's whole answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from .base import Edit, EditError, EditForm, NothingFound, Source
from .fences import fences
from .tags import extract

EDIT = re.compile(r"(?ms)^[ \t]*<edit>[ \t]*\r?\n(.*?)^[ \t]*</edit>")
"""One of several."""


def read_edit(form: EditForm, text: str, source: Source, *, is_cut: bool = False) -> Edit:
    """The edit in `<edit>`, and in the whole answer if there is no such tag: small models leave it out. Several that
    stand one behind another are one: they also give each part a tag of its own. It has to be the same with all that
    stands between them, or be what the parts are one by one, for the tags may be lines of a file.

    A tag that is not closed ends with the answer, unless that ended at its limit (`is_cut`). Raises `EditError`.
    """
    if "<edit>" in text:
        parts = [*EDIT.finditer(text)]
        if len(parts) > 1 and text.count("<edit>") == len(parts):
            edit = form.parse("\n".join(part[1] for part in parts), source)
            inner = text[parts[0].start(1) : parts[-1].end(1)]
            with suppress(EditError):
                if form.parse(inner, source) == edit:
                    return edit
            with suppress(EditError):
                # A hunk whose counts are wrong goes on to the next header. None of its lines begins as a tag does.
                if not re.search(r"(?m)^[ \t]+</?edit>", inner) and _one_by_one(form, parts, text, source) == edit:
                    return edit
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


def _one_by_one(form: EditForm, parts: Sequence[re.Match[str]], text: str, source: Source) -> Edit:
    """Raises `EditError`, also where something stands between them. Of two for one file the last, so no whole edit."""
    edit: Edit = {}
    for before, part in zip([None, *parts], parts, strict=False):
        if before is not None:
            with suppress(NothingFound):
                form.parse(text[before.end() : part.start()], source)
                raise EditError("an edit stands between the tags")
        edit |= form.parse(part[1], source)
    return edit
