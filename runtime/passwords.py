"""Addresses as messages and logs show them."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"/*[^/:@]*:/*")
_PLACE = re.compile(r"(\[[^]]*\]|[^:?#]*)(:\d+(?![^/]))?[^:?#]*")
"""A host, a port and a path."""


def without_password(address: str) -> str:
    """An address, or another name of a model, as messages show it: nothing of it that may be a password, however
    malformed it is."""
    scheme = _SCHEME.match(address)
    if scheme is None:
        return address
    _, at, end = address[scheme.end() :].rpartition("@")
    place = _PLACE.match(end)
    shown = place[0] if place else ""
    return f"{scheme[0]}{'...' if at else ''}{at}{shown}{'' if shown == end else '...'}"
