"""`RopeConfig`: rotary position embedding, and how it is stretched to contexts longer than those of the training.

Formulas and orders of operations are those of transformers (modeling_rope_utils.py), so that float32 agrees.

Keys are stored as they were rotated and moved by turning queries, which needs frequencies that stay. Two kinds let them
depend on the length of the text: "dynamic" and "longrope". Here they are chosen once, by the context limit that the
model is loaded with. Without one, or with one inside the context of the training, results are transformers' for every
text; with a longer one all texts, short ones too, get the frequencies of long ones, as in vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch

from ...errors import InvalidInput, UnsupportedModel

RopeType = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: which inverse frequencies a head uses."""

    type: RopeType = "default"
    theta: float = 10000.0
    partial: float = 1.0
    """Share of a head's dimensions, the first ones, that is rotated; 1 but for families with `has_partial_rope`."""
    factor: float = 1.0
    """Context extension factor."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    """Turns within the original context from which on "yarn" leaves frequencies alone, and, `beta_slow`, up to which it
    divides them by `factor`."""
    beta_slow: float = 1.0
    is_truncated: bool = True
    """Does "yarn" round the borders between these to whole dimensions?"""
    factors: tuple[float, ...] = ()
    """What "longrope" divides each frequency by."""
    attention_factor: float = 1.0
    """Multiplies rotated queries and keys ("yarn", "longrope")."""
    original_max_positions: int = 8192
    """Context length before extension."""
    length: int = 8192
    """Context length for which the frequencies are right."""

    @classmethod
    def from_hf(cls, data: Mapping[str, Any], *, context_limit: int | None = None) -> RopeConfig:
        """Reads `rope_parameters` (transformers 5) or top-level `rope_theta` and `rope_scaling` (older files).

        Raises `UnsupportedModel` for a RoPE type that is not implemented, `InvalidInput` for one without its numbers.
        """
        old, new = _typed(data.get("rope_scaling") or {}), _typed(data.get("rope_parameters") or {})
        if any(name in new and new[name] != value for name, value in old.items()):
            raise InvalidInput(
                "config.json: rope_scaling and rope_parameters contradict each other: put into rope_parameters what is "
                "right, and leave rope_scaling out"
            )
        rope = {**old, **new}
        kind = rope.get("rope_type", "default")
        if kind not in get_args(RopeType):
            raise UnsupportedModel(f"RoPE type {kind!r} is not supported; supported: {', '.join(get_args(RopeType))}")
        longest = int(data.get("max_position_embeddings") or 8192)
        given = data.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        try:
            original = int(given or longest)
            extension = _extension(kind, rope, longest, original, context_limit or 0)
            theta = float(rope.get("rope_theta") or data.get("rope_theta") or 10000.0)
            partial = float(rope.get("partial_rotary_factor") or data.get("partial_rotary_factor") or 1.0)
        except KeyError as error:
            raise InvalidInput(f"config.json: RoPE type {kind!r} needs {error.args[0]!r}") from None
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InvalidInput(f"config.json: RoPE of type {kind!r}: {error}") from None
        return cls(type=cast(RopeType, kind), theta=theta, partial=partial, **extension)

    def rotary_dim(self, head_dim: int) -> int:
        """Dimensions that are rotated."""
        return int(head_dim * self.partial)

    def inv_freq(self, head_dim: int) -> torch.Tensor:
        """Radians per position, (rotary_dim / 2,) float32, computed in the same order of operations as transformers.

        Raises `InvalidInput` where "longrope" has not one factor for each.
        """
        dim, theta = self.rotary_dim(head_dim), self.theta
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        if self.type == "dynamic":
            stretch = (self.factor * self.length / self.original_max_positions) - (self.factor - 1)
            theta *= stretch ** (dim / (dim - 2))
        if self.type == "longrope":
            if len(self.factors) != len(exponents):
                raise InvalidInput(
                    f"config.json: longrope has {len(self.factors)} factors for {len(exponents)} frequencies"
                )
            return 1.0 / (torch.tensor(self.factors) * theta**exponents)
        if self.type == "yarn":
            return self._yarn(theta**exponents, dim)
        freq = 1.0 / (theta**exponents)
        if self.type == "linear":
            return freq / self.factor
        return self._llama3(freq) if self.type == "llama3" else freq

    def _llama3(self, freq: torch.Tensor) -> torch.Tensor:
        wavelength = 2 * math.pi / freq
        longest = self.original_max_positions / self.low_freq_factor
        shortest = self.original_max_positions / self.high_freq_factor
        smooth = (self.original_max_positions / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        scaled = torch.where(wavelength > longest, freq / self.factor, freq)
        between = (wavelength <= longest) & (wavelength >= shortest)
        return torch.where(between, (1 - smooth) * scaled / self.factor + smooth * scaled, scaled)

    def _yarn(self, powers: torch.Tensor, dim: int) -> torch.Tensor:
        """YaRN (arXiv 2309.00071, section 3.2)."""

        def border(turns: float) -> float:
            """The dimension whose frequency turns so often within the original context."""
            return (dim * math.log(self.original_max_positions / (turns * 2 * math.pi))) / (2 * math.log(self.theta))

        low, high = border(self.beta_fast), border(self.beta_slow)
        if self.is_truncated:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001  # transformers' way around a division by zero
        ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
        kept = 1 - ramp
        return 1.0 / (self.factor * powers) * (1 - kept) + 1.0 / powers * kept


def _typed(rope: Mapping[str, Any]) -> dict[str, Any]:
    """The same under today's names: the type was `type` once, and "longrope" other things in Microsoft's files."""
    kind = rope.get("rope_type") or rope.get("type")
    if kind == "su" or (kind == "yarn" and "short_factor" in rope):
        kind = "longrope"
    others = {name: value for name, value in rope.items() if name not in ("rope_type", "type")}
    return {**others, "rope_type": kind} if kind else others


def _extension(kind: str, rope: Mapping[str, Any], longest: int, original: int, limit: int) -> dict[str, Any]:
    """All but the type, theta and share; raises `KeyError` for what a type needs and the file lacks."""
    plain = {"original_max_positions": original, "length": longest}
    if kind == "default":
        return plain
    if kind == "linear":
        return {**plain, "factor": float(rope["factor"])}
    if kind == "llama3":
        return plain | {name: float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")}
    if kind == "dynamic":
        factor = float(rope["factor"])
        # transformers counts from max_position_embeddings here.
        length = min(max(limit, longest), int(factor * longest))
        return {"factor": factor, "original_max_positions": longest, "length": length}
    factor = float(rope.get("factor") or longest / original)
    given = rope.get("attention_factor")
    if kind == "yarn":
        mscale, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
        inferred = yarn_scale(factor)
        if mscale and all_dims:
            inferred = yarn_scale(factor, mscale) / yarn_scale(factor, all_dims)
        return {
            **plain,
            "factor": factor,
            "attention_factor": inferred if given is None else float(given),
            "beta_fast": float(rope.get("beta_fast") or 32),
            "beta_slow": float(rope.get("beta_slow") or 1),
            "is_truncated": bool(rope.get("truncate", True)),
            "length": max(longest, int(factor * original)),
        }
    short, long = tuple(map(float, rope["short_factor"])), tuple(map(float, rope["long_factor"]))
    inferred = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    is_long = limit > original
    return {
        **plain,
        "factor": factor,
        "factors": long if is_long else short,
        "attention_factor": inferred if given is None else float(given),
        "length": longest if is_long else min(longest, original),
    }


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """The attention factor of "yarn" where a config.json names none."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
