"""The kernels as other machines would build them: other vector widths, bfloat16 in software, no OpenMP."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from plait.attention import library
from plait.tests.attention.scenes import Scene, scenes
from plait.tests.attention.test_span_attention import assert_close

_CSRC = Path(library.__file__).parent / "csrc"


def _runs_here(march: str) -> bool:
    info = Path("/proc/cpuinfo")
    return march == "x86-64" or (info.is_file() and "avx512dq" in info.read_text())


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("g++") is None, reason="needs g++ on x86-64")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v4"])
def test_equals_the_reference(march: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not _runs_here(march):
        pytest.skip(f"this processor is no {march}")
    sources = sorted(_CSRC.glob("*.cpp"))
    flags = ["-O1", "-std=c++17", f"-march={march}", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, *sources, "-o", tmp_path / "_kernels.so"], check=True)
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    library.load.cache_clear()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(scene=scenes())
    def check(scene: Scene) -> None:
        assert_close(scene, "cpu", rounds=False)

    try:
        assert library.load() is not None
        check()
    finally:
        library.load.cache_clear()
