"""Kernels as other machines build them. What the compiler or the processor cannot do skips the test."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from plait.attention import library
from plait.runtime.engines.native import ops

ATTENTION = Path(library.__file__).parent / "csrc"
LAYERS = Path(ops.__file__).parent / "csrc"
# Not what this processor has: one with tile registers would use them.
EMULATED_TILES = ("-march=x86-64-v4", "-mavx512bf16", "-DPLAIT_EMULATE_TILES")
"""Flags for tile registers (AMX) in plain C++, by Intel's description of the instructions."""

_NEEDED = {
    "-march=x86-64": "sse2",
    "-mssse3": "ssse3",
    "-mavx": "avx",
    "-mavx2": "avx2",
    "-mf16c": "f16c",
    "-march=x86-64-v4": "avx512dq",
    "-mavx512bf16": "avx512_bf16",
}
"""What a processor's flags have to have, to run what a compiler's flags build."""


def build(sources: Path, target: Path, *flags: str, optimise: int = 1) -> None:
    """Compile what is in a folder to a shared library that this processor can load."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    info = Path("/proc/cpuinfo")
    able = info.read_text(encoding="utf-8") if info.is_file() else ""
    for flag in flags:
        if _NEEDED.get(flag, "") not in able:
            pytest.skip(f"this processor has no {_NEEDED[flag]}")
    always = [f"-O{optimise}", "-std=c++17", "-shared", "-fPIC"]
    subprocess.run(["g++", *always, *flags, *sorted(sources.glob("*.cpp")), "-o", target], check=True)


def assembly_with_tiles(source: Path) -> str:
    """With the instructions themselves, which this processor may not have."""
    if platform.machine() != "x86_64" or shutil.which("g++") is None:
        pytest.skip("needs g++ on x86-64")
    flags = ["-O0", "-std=c++17", "-march=sapphirerapids", "-S", "-o", "-"]
    done = subprocess.run(["g++", *flags, source], capture_output=True, text=True, check=False)
    if "bad value" in done.stderr:
        pytest.skip("the compiler is older than the processor")
    assert done.returncode == 0, done.stderr
    return done.stdout
