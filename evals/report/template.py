"""Putting values into a page."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Every `{{name}}` of the template replaced by its value, in one pass: what values hold is never looked at. Raises
    `KeyError` for a name without a value."""
    return _PLACE.sub(lambda match: values[match[1]], template)
