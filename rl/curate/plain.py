"""What a Multiverse text is without its blocks: the counterpart that an autoregressive baseline is trained on."""

from __future__ import annotations

import re

from ...runtime.methods.multiverse.grammar import TAG, Element, elements

HINT = "Let's think in parallel."
"""What the data says before a block."""
_HINT = re.compile(rf"^[ \t]*{re.escape(HINT)}[ \t]*\n?|[ \t]*{re.escape(HINT)}", re.MULTILINE)
_INDEX = re.compile(r"\s*[0-9]+(?:\.[0-9]+)*:[ \t]*")


def plain(text: str) -> str:
    """Without goals and conclusions, tags, indices of paths and the hint; `<Think>` stays (released curator)."""
    cuts: list[tuple[int, int]] = []

    def walk(element: Element) -> None:
        end = len(text) if element.end is None else element.end
        if element.name in ("Goal", "Conclusion", "Outline"):
            cuts.append((element.start, end))
            return
        if element.name == "Path" and (index := _INDEX.match(text, element.inner)):
            cuts.append((element.inner, index.end()))
        for child in element.children:
            walk(child)

    for root in elements(text)[0]:
        walk(root)
    kept, at = "", 0
    for start, end in sorted(cuts):
        kept += text[at:start] + ("\n" if start and text[start - 1] == "\n" else "")
        at = max(at, end)
    kept = TAG.sub(lambda tag: tag[0] if tag[2] == "Think" else "\n", kept + text[at:])
    head, think, rest = kept.rpartition("</Think>")
    body = re.sub(r"\n{2,}", "\n", _HINT.sub("", head)) if think else re.sub(r"\n{2,}", "\n", _HINT.sub("", rest))
    return body + think + rest if think else body
