"""A model split among processes computes what one process computes, and they come and go with their engine."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import plait
from plait.runtime.engine import SamplingParams
from plait.runtime.engines.native.checkpoint import open_checkpoint
from plait.runtime.engines.native.engine import NativeEngine
from plait.runtime.engines.native.loader import load_config, load_model
from plait.runtime.engines.native.model import Model
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.parallel import model as parallel_model
from plait.runtime.engines.native.parallel.collectives import Collectives, open_store
from plait.runtime.engines.native.parallel.messages import READY
from plait.runtime.engines.native.parallel.model import load_parallel
from plait.runtime.engines.native.parallel.sharding import Shard, rank_devices
from plait.runtime.errors import InvalidInput, WorkerLost
from plait.tests.runtime.engines.native.gguf_files import write_gguf
from plait.tests.runtime.engines.native.helpers import FAMILIES, IdTokenizer, Sequences, tiny

COUNTDOWN = Path(plait.__file__).parent / "models/countdown"
PHI4 = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.1] * 6, "long_factor": [3.0] * 6,
        "partial_rotary_factor": 0.75,
    },
    "original_max_position_embeddings": 64,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "untied": ("llama", {"tie_word_embeddings": False}),
    "tied": ("qwen2", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "biases-behind": ("qwen3", {"attention_bias": True}),
    "window": ("mistral", {"sliding_window": 10}),
    "phi4": ("phi3", {**PHI4, "sliding_window": 20}),
}
THREE = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 96, "intermediate_size": 97}
"""Nothing but heads divides by 3."""


class SharedWorkers:
    """In place of `Workers`: a process that serves one model after the other (rank_process.py)."""

    process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self.store = open_store()
        self.free: dict[int, int] = {}
        self._count = 0

    def start(self, orders) -> None:
        self._count = len(orders)
        for order in orders:
            self._send(order)

    def join(self, device, check) -> Collectives:
        for rank in range(1, self._count + 1):
            line = self.process.stdout.readline().decode()
            assert line.startswith(READY), line
            self.free[rank] = int(line.removeprefix(READY))
        return Collectives(self.store, 0, self._count + 1, device)

    @contextmanager
    def forward(self, order) -> Iterator[None]:
        self._send(order)
        yield

    def close(self) -> None:
        pass

    def _send(self, order) -> None:
        self.process.stdin.write(pickle.dumps(order))
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def shared() -> Iterator[Callable[..., Model]]:
    """`load_parallel`, with all processes but this one in one that stays."""
    module = f"{__name__.rpartition('.')[0]}.rank_process" if "." in __name__ else "rank_process"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel_model, "Workers", SharedWorkers)
        command = [sys.executable, "-m", module if module.startswith("plait.") else f"plait.{module}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as SharedWorkers.process:
            yield load_parallel
            SharedWorkers.process.stdin.close()


def passes(model: Model) -> list[torch.Tensor]:
    """Two sequences: prompts of different lengths, a chunk behind them, steps of one token, and hidden states."""
    tokens = torch.randint(131, (90,), generator=torch.Generator().manual_seed(3)).tolist()
    sequences = Sequences(model, 2, max_tokens=128)
    found = [sequences.step([tokens[:33], tokens[40:45]]), sequences.step([tokens[33:40], [tokens[50]]])]
    found += [sequences.step([[tokens[60 + i]], [tokens[70 + i]]]) for i in range(3)]
    return [*found, *sequences.forward([tokens[80:90], []], [9, 2])]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert max(float(logits.abs().max()) for logits in expected) > 1.0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_one_process(shared, case: str) -> None:
    family, overrides = CASES[case]
    _, folder = tiny(family, **overrides)
    assert_same(passes(shared(folder, size=2, impl="torch")), passes(load_model(folder, impl="torch")))
