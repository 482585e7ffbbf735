"""Compiles every Triton kernel for the capability that the command line names: that needs no GPU, only no interpreter.

python -m plait.tests.attention.gpu.compile 90
"""

from __future__ import annotations

import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as build

from plait.attention.gpu import kernels
from plait.runtime.engines.native.gpu import kernels as layers

INTS = ("items", "lines", "blocks", "bounds", "start", "group")
LONGS = ("drawn", "step", "sampled", "tokens", "slots", "slot_table")
ROWS = ("q", "k", "v", "out", "k_pool", "v_pool", "x", "added", "weight", "gate_up")
REALS = ("scale", "cap", "eps", "factor")


def type_of(name: str, tiles: dict[str, str]) -> str:
    if name in tiles:
        return tiles[name]
    stem = name.removesuffix("_ptr")
    if stem == name:
        return "fp32" if name in REALS else "i32"
    kind = "i32" if stem in INTS else "i64" if stem in LONGS else "bf16" if stem in ROWS else "fp32"
    return f"*{kind}"


def check(kernel: Any, capability: int, *, warps: int = 4, bulk: bool = False, **constants: Any) -> None:
    shapes = {"k_tiles": "[128,64]", "v_tiles": "[64,128]"}
    tiles = {name: f"tensordesc<bf16{shape}>" if bulk else "*bf16" for name, shape in shapes.items()}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name, tiles) for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, {})
    build(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def main(capability: int) -> None:
    heads: dict[str, Any] = {"HEADS": 32, "SIZE": 128, "PADDED": 128}
    span: dict[str, Any] = {**heads, "KV_HEADS": 8, "RATIO": 4, "ROTARY": 64, "T": 64, "PRECISION": "tf32"}
    bulk = capability >= 90
    flags: dict[str, Any]
    for flags in (
        {"M": 16, "SHIFTED": False, "CAPPED": False, "DIRECT": True, "STAGES": 2, "BULK": bulk, "BLOCK": 64},
        {"M": 64, "SHIFTED": True, "CAPPED": True, "DIRECT": False, "STAGES": 3, "BULK": False, "BLOCK": 16},
        {"M": 64, "SHIFTED": True, "CAPPED": False, "DIRECT": True, "STAGES": 3, "BULK": bulk, "BLOCK": 64},
    ):
        check(kernels.attend, capability, bulk=bool(flags["BULK"]), **span, **flags)
    for groups in (1, 2):
        check(kernels.merge, capability, **heads, S=32, GROUPS=groups, PLAIN=groups == 1, DIRECT=groups == 1)
    check(kernels.rope_and_store, capability, warps=1, **heads, ROTARY=64, BLOCK=64, Q_NORMED=True, K_NORMED=False)
    check(layers.norm, capability, SIZE=4096, PADDED=4096, ADDS=True)
    check(layers.gate, capability, SIZE=11008, BLOCK=1024)
    check(layers.angles, capability, warps=1, ROTARY=64, PADDED=64)
    check(layers.advance, capability, ROWS=64, ROWS_PADDED=64, LINES=1024)


if __name__ == "__main__":
    main(int(sys.argv[1]))
