"""LIMO's problems (arXiv 2502.03387): made for training, and what Hogwild! is measured on (arXiv 2504.06261)."""

from __future__ import annotations

from typing import Literal

from ...hub import HubSet
from .benchmark import FromHub


class Limo(FromHub):
    """817 problems of competitions; `data` has the fields `question` and `answer`."""

    name: Literal["limo"] = "limo"
    """What configurations call it."""
    hub = HubSet(name="GAIR/LIMO", split="train")
