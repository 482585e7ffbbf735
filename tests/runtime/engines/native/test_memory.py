"""How large a KV store is if nobody says: a share of what is free, in a container too."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plait import InvalidInput, Runtime
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_model
from plait.runtime.engines.native.memory import BRANCHES, MIN_BLOCKS, default_blocks, free_memory
from plait.runtime.engines.native.options import NativeOptions
from plait.tests.runtime.engines.native.helpers import IdTokenizer, tiny

CPU, GIB = torch.device("cpu"), 1 << 30


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable:   {16 * GIB >> 10} kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
GROUPS = {
    "none": ({}, 16),
    "without a limit": (
        {"proc/self/cgroup": "0::/a\n", f"{V2}/a/memory.max": "max", f"{V2}/a/memory.current": "5"}, 16,
    ),
    "a container": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": str(4 * GIB), f"{V2}/memory.current": str(3 * GIB)}, 1,
    ),
    "page cache that can go": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": str(4 * GIB), f"{V2}/memory.current": str(3 * GIB),
         f"{V2}/memory.stat": f"anon 5\ninactive_file {2 * GIB}\n"}, 3,
    ),
    "the group around it": (
        {"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/memory.max": "max", f"{V2}/a/b/memory.current": "0",
         f"{V2}/a/memory.max": str(2 * GIB), f"{V2}/a/memory.current": "0"}, 2,
    ),
    "more used than allowed": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": str(GIB), f"{V2}/memory.current": str(2 * GIB)}, 0,
    ),
    "version 1": (
        {"proc/self/cgroup": "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/on/the/host\n0::/\n",
         f"{V1}/memory.limit_in_bytes": str(6 * GIB), f"{V1}/memory.usage_in_bytes": str(5 * GIB),
         f"{V1}/memory.stat": f"total_inactive_file {GIB}\n"}, 2,
    ),
    "version 1 without a limit": (
        {"proc/self/cgroup": "4:memory:/\n", f"{V1}/memory.limit_in_bytes": "9223372036854771712",
         f"{V1}/memory.usage_in_bytes": str(GIB)}, 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_what_is_free(name, tmp_path):
    files, expected = GROUPS[name]
    assert free_memory(CPU, system(tmp_path, files)) == expected * GIB


def test_a_system_that_does_not_say(tmp_path):
    assert 0 < free_memory(CPU, tmp_path) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@given(
    block_bytes=st.integers(1 << 10, 1 << 24),
    block_size=st.sampled_from([16, 32, 64]),
    context=st.integers(1, 1 << 20),
    free=st.integers(0, 1 << 40),
)
def test_the_share(block_bytes, block_size, context, free):
    blocks = default_blocks(block_bytes, block_size, context, free)
    assert blocks >= MIN_BLOCKS
    if blocks > MIN_BLOCKS:
        assert blocks * block_bytes <= free / 4
        assert blocks * block_size < BRANCHES * (context + block_size)
    if free >= 4 * block_bytes * BRANCHES * (context + block_size):
        assert blocks * block_size >= BRANCHES * context  # enough for what the model can use


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_engines_take_memory_as_they_need_it():
    model = load_model(tiny(max_position_embeddings=1 << 17)[1])
    before = resident()
    engines = [NativeEngine(model, IdTokenizer(131), NativeOptions()) for _ in range(30)]
    whole = sum(k.nbytes + v.nbytes for e in engines for k, v in zip(e.pool.k, e.pool.v, strict=True))
    assert whole > 10 * GIB and resident() - before < GIB


async def test_how_much_it_is_is_said_and_a_number_wins(caplog):
    folder = tiny()[1]
    with caplog.at_level(logging.INFO, logger="plait"):
        engine = NativeEngine(load_model(folder), IdTokenizer(131), NativeOptions())
        async with Runtime(engine=engine):
            pass
    assert "KV store: up to 16 MiB of" in caplog.text  # 64 branches of 512 tokens, 512 bytes each
    assert engine.block_usage().total == 64 * 512 // 16
    limited = NativeEngine(load_model(folder), IdTokenizer(131), NativeOptions(context_limit=32))
    assert limited.block_usage().total == 64 * 32 // 16
    assert NativeEngine(load_model(folder), IdTokenizer(131), NativeOptions(kv_tokens=100)).block_usage().total == 7
    with pytest.raises(InvalidInput, match="kv_tokens"):
        NativeEngine(load_model(folder), IdTokenizer(131), NativeOptions(kv_tokens=-1))
