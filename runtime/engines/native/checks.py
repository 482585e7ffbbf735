"""What a branch over blocks refuses because no step could ever compute it."""

from __future__ import annotations

from collections.abc import Sequence

from ....attention.plan import Group
from ...errors import InvalidInput, OutOfBlocks
from ...sampling import MIN_TEMPERATURE
from ..branch_checks import check_length
from .segment import Span
from .view import View


def check_blocks(what: str, need: int, num_blocks: int) -> None:
    """`num_blocks`: of the store."""
    if need > num_blocks:
        raise OutOfBlocks(f"{what} need {need} KV blocks and the store has {num_blocks}; raise kv_tokens")


def check_rewind(view: View, length: int) -> None:
    check_length(length, view.length)
    if view.is_packed and length < view.num_text:
        raise InvalidInput("an arranged view can be rewound within its own segment only")


def check_has_positions(view: View, what: str) -> None:
    if view.is_packed:
        raise InvalidInput(f"{what} in an arranged view, whose spans are read one behind another wherever they stand")


def check_arrangement(view: View, spans: Sequence[Span]) -> None:
    own = view.own
    if any(span.segment is own for span in spans):
        raise InvalidInput("the own segment comes last by itself")
    # What is joined to it was found in the store, and would else be a part of it.
    if own is not None and (own.tokens or own.is_joined) and not own.is_packed:
        raise InvalidInput("seal or rewind what was written before the view is arranged")


def group_of(temperature: float, scale: float, bias: float) -> Group:
    """The group that APE's settings ask for."""
    largest = 1 / MIN_TEMPERATURE
    if not (MIN_TEMPERATURE <= temperature <= largest and abs(scale) <= largest and abs(bias) <= largest):
        raise InvalidInput(
            f"temperature {temperature}, scale {scale} and bias {bias}: finite, not beyond 1e6, the temperature at "
            "least 1e-6"
        )
    return Group(temperature=temperature, factor=scale * temperature, bias=bias)
