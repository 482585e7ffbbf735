"""Messages of roles that a chat template may not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_DEVELOPER = re.compile(r"""["']developer["']""")
"""In the source of a template that knows this role."""
_FIRST_MARK = 7_310_258_000_000


def with_known_roles(messages: Sequence[Mapping[str, Any]], template: str) -> list[dict[str, Any]]:
    """What a developer says is the system's where the template does not know the role."""
    knows = _DEVELOPER.search(template) is not None
    return [
        {**message, "role": "system"} if message.get("role") == "developer" and not knows else dict(message)
        for message in messages
    ]


def render_whole(
    chat: Sequence[dict[str, Any]], render: Callable[[list[dict[str, Any]]], str]
) -> tuple[str, int | None]:
    """The text, and the first message that the template leaves out, as some do with roles that they do not know; None:
    there is none.

    A number at the end of each content tells: it is there however a template trims, quotes or escapes what was said.
    Where it is not, as in a template that cuts, nothing changes for other contents. Users and assistants every template
    knows.
    """
    text = render(list(chat))
    marks = {
        number: str(_FIRST_MARK + number)
        for number, message in enumerate(chat)
        if message.get("role") not in ("user", "assistant") and isinstance(message.get("content"), str)
        if message["content"]
    }

    def said(contents: Mapping[int, str]) -> str | None:
        messages = [
            {**message, "content": contents[number]} if number in contents else message
            for number, message in enumerate(chat)
        ]
        try:
            return render(messages)
        except Exception:  # A template that cannot take the number has read the content.
            return None

    marked = said({number: chat[number]["content"] + mark for number, mark in marks.items()}) if marks else None
    if marked is None:
        return text, None
    missing = (number for number, mark in marks.items() if mark not in marked)
    return text, next((number for number in missing if said({number: marks[number]}) == text), None)
