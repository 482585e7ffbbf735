"""Checks of options that are numbers."""

from __future__ import annotations

import math

from ..errors import InvalidInput

MAX_PACKET_BYTES = 268_435_455
"""A packet of MQTT has no more (MQTT 5, 1.5.5)."""


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Raises `InvalidInput`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(f"{name} is an integer from {least:,} to {most:,}, not {str(value)[:40]!r}")


def check_seconds(name: str, value: object, least: float) -> None:
    """Raises `InvalidInput`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= math.inf:
        raise InvalidInput(f"{name} is a number of seconds, {least:g} or more, not {str(value)[:40]!r}")
